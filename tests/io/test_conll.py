"""CoNLL files: columns in any order, comments, documents, odd words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlm_pretrain.errors import UserError
from mlm_pretrain.io.files.conll import COMMENT, NO_WORD, read_conll

FILE = Path("f.conll")
Words = list[tuple[list[str], list[str], str]]
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n\ufeff\ufdd0\ufdd1"), max_size=8).filter(
    lambda word: word != "-DOCSTART-" and " =" not in word
)
TAGS = st.sampled_from(["O", "B-a", "I-a", "NN", "$"])


def read_lines(lines: list[str], columns: tuple[int, int] = (0, -1)) -> tuple[Words, Counter[str]]:
    skipped: Counter[str] = Counter()
    sentences = read_conll(FILE, lines, columns, "utf-8", skipped)
    return [(each.words, each.tags, f"{FILE}:{each.line}") for each in sentences], skipped


def read(text: str, columns: tuple[int, int] = (0, -1)) -> Words:
    return read_lines(text.splitlines(keepends=True), columns)[0]


@given(st.lists(st.lists(st.tuples(WORDS, TAGS), min_size=1), max_size=4), st.sampled_from([(0, -1), (-1, 0), (2, 1)]))
def test_what_is_written_by_tabs_is_read(sentences: list[list[tuple[str, str]]], columns: tuple[int, int]) -> None:
    place = {column % 4: number for number, column in enumerate(columns)}
    rows = [[tuple(pair[place[n]] if n in place else "_" for n in range(4)) for pair in each] for each in sentences]
    lines = [line for each in rows for line in (*("\t".join(row) + "\n" for row in each), "\n")]
    found, skipped = read_lines(lines, columns)
    assert [list(zip(tokens, tags, strict=True)) for tokens, tags, _ in found] == sentences and not skipped


def test_documents_comments_and_odd_words() -> None:
    content = (
        "-DOCSTART- -X- -X- O\n"
        "\n"
        "# sent_id = 1\n"
        "EU NNP B-NP B-ORG\n"
        "# # B-NP O\n"
        "rejects VBZ B-VP O\n"
        "-DOCSTART- -X- -X- O\n"
        "# text = no E-mail\n"
        "No DT B-NP O\n"
        "   \n"
        "#tag\tO\n"
        "# and no columns\n"
        "#\tO\n"
        "New York\tB-LOC\n"
        "\tO\n"
    )
    assert read(content) == [
        (["EU", "#", "rejects"], ["B-ORG", "O", "O"], "f.conll:4"),
        (["No"], ["O"], "f.conll:9"),
        (["#tag", "#", "New York", ""], ["O", "O", "B-LOC", "O"], "f.conll:11"),
    ]


def test_a_comment_may_end_in_what_looks_like_a_tag() -> None:
    assert read("# source = E-mail\nEU B-ORG\n# from an E-mail\n") == [(["EU"], ["B-ORG"], "f.conll:2")]


def test_every_word_that_begins_with_hash_is_read() -> None:
    for sign in (" ", "\t"):
        lines = [["#", "SYM"], ["4", "NUM"], [], ["a", "DET"], ["#deal", "NOUN"], ["#", "SYM"], [], ["#", "SYM"], []]
        found, skipped = read_lines([sign.join(line) + "\n" for line in lines])
        assert [word for words, _, _ in found for word in words] == [line[0] for line in lines if line]
        assert not skipped


@given(st.lists(st.sampled_from(["#newdoc id = n1", "#\thttps://a.example [2019]", "# gloss = a\tb", "#", "# a b"])))
def test_where_the_first_column_numbers_the_words_no_word_begins_with_hash(comments: list[str]) -> None:
    for width in (4, 10):
        rest = "\t_" * (width - 3)
        block = [f"1\tOslo\tB-LOC{rest}", f"2\t#sun\tO{rest}"]
        lines = [*comments, *block, "", *comments, block[0], *comments, block[1]]
        found, skipped = read_lines([f"{line}\n" for line in lines], (1, 2))
        assert [(words, tags) for words, tags, _ in found] == [(["Oslo", "#sun"], ["B-LOC", "O"])] * 2
        assert skipped[COMMENT] == 3 * len(comments)


def test_numbers_are_not_taken_for_words() -> None:
    lines = [f"{number}\tword{number}" + "\t_" * 8 for number in (1, 2)]
    with pytest.raises(UserError, match=r"f\.conll:1: the first of ten columns numbers the words; set conll_columns"):
        read_lines(lines)


def test_comments_of_files_without_numbers() -> None:
    head = ["#begin document (nw/1); part 000", "# newdoc", "# sent_id = 7", "# text = In Rome"]
    for sign in (" ", "\t"):
        found, skipped = read_lines([*head, f"In{sign}O", f"Rome{sign}B-LOC", "", "#end document"])
        assert [words for words, _, _ in found] == [["In", "Rome"]] and skipped == {COMMENT: 5}


def test_the_word_hash_in_other_tag_sets() -> None:
    assert read("the DT\n# #\n# x y\n5 CD\n") == [(["the", "#", "5"], ["DT", "#", "CD"], "f.conll:1")]


def test_conll_u() -> None:
    content = (
        "# newdoc\n# text = Vámonos al mar\n"
        "1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_\n"
        "1\tVamos\tir\tVERB\t_\t_\t0\troot\t_\t_\n"
        "2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_\n"
        "2.1\t_\t_\t_\t_\t_\t_\t_\t_\t_\n"
        "3-4\tal\t_\t_\t_\t_\t_\t_\t_\t_\n"
        "3\ta\ta\tADP\t_\t_\t5\tcase\t_\t_\n"
    )
    assert read(content, (1, 3)) == [(["Vamos", "nos", "a"], ["VERB", "PRON", "ADP"], "f.conll:4")]
    assert read_lines(content.splitlines(), (1, 3))[1] == {COMMENT: 2, NO_WORD: 3}


@pytest.mark.parametrize(
    ("content", "columns", "problem"),
    [
        ("EU B-ORG\n#hashtag\n", (0, -1), "f.conll:2: only one column; a word, then a tag"),
        ("EU NNP O\n", (0, 3), "f.conll:1: only 3 columns; conll_columns asks for 4"),
        ("EU NNP O\n", (-4, -1), "f.conll:1: only 3 columns; conll_columns asks for 4"),
    ],
)
def test_missing_columns_are_named(content: str, columns: tuple[int, int], problem: str) -> None:
    (sentence,) = read_conll(FILE, content.splitlines(), columns, "utf-8", Counter())
    assert sentence.problem is not None and sentence.problem.startswith(problem)
    assert sentence.dropped == "undecodable" and not sentence.words


@pytest.mark.parametrize("sign", [" ", "\t"])
@pytest.mark.parametrize("bad", ["Rome", "Ro\ufdd0me{}O", "\ufdd1"])
def test_a_bad_line_takes_its_sentence_along_and_no_other(bad: str, sign: str) -> None:
    lines = ["In{}O", bad, "# and a comment", "it{}O", "", "Oslo{}B-LOC", "", bad, ""]
    skipped: Counter[str] = Counter()
    found = list(read_conll(FILE, [line.format(sign) for line in lines], (0, -1), "utf-8", skipped))
    assert [each.words for each in found] == [[], ["Oslo"], []] and skipped == {COMMENT: 1}
    assert [each.line for each in found] == [2, 6, 8]
    assert [(each.problem or "").partition(": ")[0] for each in found] == ["f.conll:2", "", "f.conll:8"]
