"""Many lanes of many sources under a low limit of open files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.conftest import tiny_config

SOURCES, LANES = 6, 40
CODE = """
import hashlib, itertools, os, resource, sys
limits = tuple(map(int, sys.argv[2:]))
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
from mlm_pretrain.config_file import load_config
from mlm_pretrain.stream import open_files
from mlm_pretrain.stream.opening import open_lanes
from mlm_pretrain.stream.dealing import Lane
from mlm_pretrain.text.tokenizing.tokenizer import load_tokenizer
open_files.OTHERS = 100
config = load_config(sys.argv[1] + "/config.yaml")
lanes = open_lanes(config, load_tokenizer(sys.argv[1]), True, [Lane(number, 40) for number in range(40)])
digest = hashlib.sha256()
most = 0
for _ in range(8):
    for lane in lanes:
        for row in lane.take(2):
            digest.update(row.block.rows([row.number]).ids.tobytes())
    most = max(most, len(os.listdir("/proc/self/fd")))
print(most, resource.getrlimit(resource.RLIMIT_NOFILE)[0], digest.hexdigest())
"""


@pytest.fixture
def folder(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    sources = []
    for number in range(SOURCES):
        path = tmp_path / f"source{number}.txt"
        path.write_text("".join(f"line {line} of source {number} in the middle of a story\n" for line in range(12_000)))
        sources.append({"source": "files", "path": str(path)})
    config = tiny_config(
        tmp_path,
        tmp_path,
        text={"sources": sources},
        stream={"lanes": LANES, "shuffle_window": "60KB", "packing_buffer": 60_000},
        training={"global_batch_size": LANES},
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def taken(folder: Path, soft: int, hard: int) -> tuple[int, int, str, str]:
    """Files that were open at most, the limit in the end, a digest of the rows, and what was said."""
    command = [sys.executable, "-c", CODE, str(folder), str(soft), str(hard)]
    ended = subprocess.run(command, env=os.environ, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    most, limit, digest = ended.stdout.split()
    return int(most), int(limit), digest, ended.stderr


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_many_lanes_of_many_sources_raise_the_limit_or_close_their_files(folder: Path) -> None:
    most, limit, expected, said = taken(folder, 256, 4096)
    assert most > 256 and limit == 2 * SOURCES * LANES + 100 and "open files" not in said
    most, limit, digest, said = taken(folder, 200, 256)
    assert digest == expected and most < 256 == limit
    assert said.count("warning: stream.lanes: the lanes of all sources want 580 open files") == 1
