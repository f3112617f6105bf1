"""The embedded labelled sets: no leaks of labels, none between splits, and a fair order."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.data import installed_docs
from mlm_pretrain.tasks.data.installed_docs import LIBRARIES, anonymise, load_examples
from mlm_pretrain.text.installed_docs import extract
from mlm_pretrain.text.mixture import is_held_out

FRACTION = 0.2
WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
]


def made_up(package: str, number: int) -> str:
    """A document that names its package, with inline code, and that begins like no other."""
    words = " ".join(WORDS[(number // 14**place) % 14] for place in range(4))
    code = f"``Thing{words.title().replace(' ', '')}``"
    return f"The {words} of {package} is computed from what comes first.\n\nUses a {code} if the {words} is needed.\n"


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Made-up documents in place of the installed ones."""
    packages = [*LIBRARIES, "other"] * 120
    documents = [(made_up(package, number), package) for number, package in enumerate(packages)]
    texts = [text for text, _ in documents]
    pq.write_table(pa.table({"text": texts, "package": packages, "qualname": texts}), tmp_path / "docs.parquet")
    monkeypatch.setattr(installed_docs, "extract", lambda: tmp_path / "docs.parquet")
    return documents


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation of two real packages of the set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLM_PRETRAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        return extract(["networkx", "sklearn"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A PyTorch tensor, see torch.nn.Linear.", "A tensor, see Linear."),
        ("Uses `~sklearn.svm.SVC` of scikit-learn (or scikit learn).", "Uses `SVC` of (or )."),
        ("from numpy import zeros\nstays\n    >>> import pandas as pd\n", "stays\n"),
        (">>> np.zeros(3)\n>>> pd.DataFrame()", ">>> zeros(3)\n>>> DataFrame()"),
        ("if is_torch_available(): to_networkx_graph(x)", "if (): (x)"),
        ('see "https://scipy.org/doc" and <http://x.y>', 'see "" and <>'),
        ("The 🤗 Transformers library by Hugging Face for Python", "The library by for "),
        ("    indented   and  x.np.y stays", "    indented and x.np.y stays"),
        ("transform transformer sp x.y. panda", "transform transformer sp x.y. panda"),
    ],
)
def test_names_of_packages_are_taken_out(text: str, expected: str) -> None:
    assert anonymise(text) == expected


def test_no_name_is_left_in_real_documentation(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed_docs, "extract", lambda: real)
    rows = [row for split in load_examples("classification", FRACTION).values() for row in split]
    names = re.compile("torch|sympy|scipy|pandas|sklearn|scikit|networkx|python|numpy|https?://", re.IGNORECASE)
    assert len(rows) > 1000
    assert [row for row in rows if names.search(row["text"])] == []
    assert all(80 <= len(row["text"]) <= 150 for row in rows)


def test_no_markup_is_left_in_real_documentation(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed_docs, "extract", lambda: real)
    rows = [row for split in load_examples("ner", FRACTION).values() for row in split]
    assert len(rows) > 500
    found = Counter(tag for row in rows for tag in row["tags"])
    assert set(found) == {"B-CODE", "I-CODE", "O"} and found["B-CODE"] >= len(rows)
    for row in rows:
        assert len(row["tokens"]) == len(row["tags"]) and all(row["tokens"])
        text = " ".join(row["tokens"])
        assert "`" not in text and "()" not in text, text
        for before, tag in zip(["O", *row["tags"]], row["tags"], strict=False):
            assert tag[0] != "I" or before[2:] == tag[2:], "IOB2: an entity begins with B"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Give it a ``Linear`` layer.", "Give/O it/O a/O Linear/B-CODE layer/O ./O"),
        ("The ``a.b.fit()`` of x() runs.", "The/O a.b.fit/B-CODE of/O x/O runs/O ./O"),
        ("See ``x1`` and ``a or b``, too.", "See/O x1/B-CODE and/O a/B-CODE or/I-CODE b/I-CODE ,/O too/O ./O"),
        ("The ``None_of`` of ``Trueish`` is.", "The/O None_of/B-CODE of/O Trueish/B-CODE is/O ./O"),
        ("A title\n-------\nCalls ``f``.", "A/O title/O -------/O Calls/O f/B-CODE ./O"),
        ("Too ``short``", ""),
        ("Here is no code in a sentence.", ""),
        ("A broken ``x with ``f`` in it.", ""),
        ("Other `code` beside ``f`` in it.", ""),
        ("A :class:`role` beside ``f`` in it.", ""),
        ("More than names: ``x = f(1)`` in it.", ""),
        ("What follows ``f`` is a block of code::", ""),
        ("A value ``None`` beside ``f`` in it.", ""),
        ("A number ``0.5`` beside ``f`` in it.", ""),
        (">>> a session with ``f`` in it", ""),
    ],
)
def test_inline_code_becomes_tags(text: str, expected: str) -> None:
    pieces = [" ".join(f"{a}/{b}" for a, b in zip(*piece, strict=True)) for piece in installed_docs._pieces(text)]
    assert " ".join(pieces) == expected


def test_long_paragraphs_are_cut_at_line_ends_and_nothing_is_lost() -> None:
    lines = [f"the line {number} names ``a.B{number}`` and ends here" for number in range(40)]
    pieces = list(installed_docs._pieces("\n".join(lines)))
    assert len(pieces) > 2 and all(len(tokens) <= installed_docs.MAX_TOKENS for tokens, _ in pieces)
    expected = "\n".join(lines).replace("`", "").split()
    assert [token for tokens, _ in pieces for token in tokens] == expected


def text_of(row: dict[str, Any]) -> str:
    return row["text"] if "text" in row else " ".join(row["tokens"])


@pytest.mark.parametrize("task", ["classification", "ner"])
def test_splits_come_from_disjoint_documents(corpus: list[tuple[str, str]], task: Any) -> None:
    splits = load_examples(task, FRACTION)
    assert splits.keys() == {"train", "validation", "test"}
    # Each made-up document holds four words of its own, in both kinds of example.
    own = re.compile(f"(?:(?:{'|'.join(WORDS)}) ){{4}}")
    keys = {name: {own.search(text_of(row))[0] for row in rows} for name, rows in splits.items()}  # type: ignore[index]
    held_out = {own.search(text)[0] for text, _ in corpus if is_held_out(text, FRACTION)}  # type: ignore[index]
    others = {own.search(text)[0] for text, _ in corpus if not is_held_out(text, FRACTION)}  # type: ignore[index]
    assert keys["test"] <= held_out and (keys["train"] | keys["validation"]) <= others
    texts = {name: {text_of(row) for row in rows} for name, rows in splits.items()}
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]
    assert load_examples(task, FRACTION) == splits


def test_labels_take_turns(corpus: list[tuple[str, str]]) -> None:
    for rows in load_examples("classification", FRACTION).values():
        labels = [row["label"] for row in rows]
        assert labels == list(LIBRARIES) * (len(rows) // len(LIBRARIES))


def test_caps(corpus: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed_docs, "MAX_EXAMPLES", {"train": 33, "validation": 16, "test": 17})
    sizes = {name: len(rows) for name, rows in load_examples("classification", FRACTION).items()}
    assert sizes == {"train": 32, "validation": 16, "test": 16}
    sizes = {name: len(rows) for name, rows in load_examples("ner", FRACTION).items()}
    assert sizes == {"train": 33, "validation": 16, "test": 17}


def test_without_held_out_documents_there_is_no_test_set(corpus: list[tuple[str, str]]) -> None:
    for task in ("classification", "ner"):
        with pytest.raises(UserError, match=r"no test examples.*validation_fraction: 0\.0"):
            load_examples(task, 0.0)  # type: ignore[arg-type]
