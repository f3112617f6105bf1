"""Local text needs no folder of the user's to write into."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CODE = """
import sys
from mlm_pretrain.config import SourceConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.text.mixture import open_source
try:
    for source in ({"source": "files", "path": sys.argv[1]}, {"source": "hub", "path": sys.argv[1]},
                   {"source": "installed_docs", "packages": ["yaml"]}):
        print(source["source"], len(list(open_source(SourceConfig(**source)))) > 0)
except UserError as error:
    print(error)
"""


def stream(folder: Path, **environment: str) -> list[str]:
    names = {"MLM_PRETRAIN_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HF_DATASETS_CACHE"}
    variables = {key: value for key, value in os.environ.items() if key not in names}
    command = [sys.executable, "-c", CODE, str(folder)]
    ended = subprocess.run(command, env={**variables, **environment}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_text_streams_where_neither_home_nor_hf_home_can_be_written(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    pq.write_table(pa.table({"text": ["one", "two"]}), text / "train.parquet")
    (tmp_path / "temporary").mkdir()
    nowhere = {"HOME": "/proc/nobody", "HF_HOME": "/proc/nobody/hf", "TMPDIR": str(tmp_path / "temporary")}
    assert stream(text, **nowhere) == ["files True", "hub True", "installed_docs True"]
    said = stream(text, **nowhere, MLM_PRETRAIN_CACHE="/proc/nobody/cache")
    assert len(said) == 1 and "/proc/nobody/hf/datasets: cannot be written" in said[0]
    assert "MLM_PRETRAIN_CACHE" in said[0]
