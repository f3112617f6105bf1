"""Paths from files stay inside their folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlm_pretrain.errors import UserError
from mlm_pretrain.io.paths import files_inside, inside


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "deep").mkdir(parents=True)
    (made / "deep" / "own.txt").write_text("mine")
    (tmp_path / "outside.txt").write_text("not mine")
    (tmp_path / "made-too").mkdir()
    return made


def test_names_inside_are_joined(folder: Path) -> None:
    assert inside(folder, "deep/own.txt") == folder / "deep" / "own.txt"
    assert inside(folder, folder / "deep") == folder / "deep"
    assert inside(folder, "not/there/yet.bin") == folder / "not" / "there" / "yet.bin"
    assert inside(folder, "") == inside(folder, ".") == folder


@pytest.mark.parametrize(
    "name", ["../outside.txt", "deep/../../outside.txt", "..", "/etc/hostname", "../made-too/x", "../made/deep/own.txt"]
)
@pytest.mark.parametrize("links", [False, True])
def test_names_that_climb_are_refused_by_the_file_that_has_them(folder: Path, name: str, links: bool) -> None:
    with pytest.raises(UserError, match=r"list\.json: names '.*outside of"):
        inside(folder, name, named_in=folder / "list.json", links=links)


@pytest.mark.parametrize("name", [None, 3, ["a"], "a\0b"])
def test_what_is_no_name_is_refused(folder: Path, name: object) -> None:
    with pytest.raises(UserError, match="can't be the name of a file"):
        inside(folder, name)  # type: ignore[arg-type]


def test_links_that_lead_out_are_refused(folder: Path) -> None:
    (folder / "file").symlink_to(folder.parent / "outside.txt")
    (folder / "there").symlink_to(folder.parent)
    (folder / "beside").symlink_to(folder.parent / "made-too")
    (folder / "nowhere").symlink_to("../missing")
    for name in ("file", "there/outside.txt", "beside", "nowhere", "there/made-too/new.txt"):
        with pytest.raises(UserError, match="a symlink leads out of"):
            inside(folder, name)
        assert inside(folder, name, links=True) == folder / name


def test_links_that_stay_are_followed(folder: Path) -> None:
    (folder / "again.txt").symlink_to("deep/own.txt")
    (folder.parent / "alias").symlink_to(folder)
    assert inside(folder, "again.txt").read_text() == "mine"
    assert inside(folder.parent / "alias", "deep/own.txt").read_text() == "mine"
    (folder / "hard.txt").hardlink_to(folder.parent / "outside.txt")
    assert inside(folder, "hard.txt").read_text() == "not mine"


def test_a_loop_of_links_leads_nowhere(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    assert not inside(folder, "a").is_file()


def test_a_listing_refuses_the_first_file_that_leads_out(folder: Path) -> None:
    assert list(files_inside(folder / "deep")) == [folder / "deep" / "own.txt"]
    (folder / "deep" / "link.txt").symlink_to("../top.txt")
    (folder / "top.txt").write_text("inside the whole")
    assert list(files_inside(folder / "deep", within=folder)) == [
        folder / "deep" / "link.txt",
        folder / "deep" / "own.txt",
    ]
    with pytest.raises(UserError, match=r"link\.txt: a symlink leads out"):
        list(files_inside(folder / "deep"))


def test_a_relative_folder_is_the_same_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    here, found = Path("made"), Path("made/deep/own.txt")
    assert inside(here, found) == found and inside(here, "deep/own.txt") == found
    assert inside(".", found) == found
    above = Path("..", folder.parent.name)
    assert inside(above, "made") == inside(above, above / "made") == above / "made"
    assert list(files_inside(here / "deep")) == list(files_inside(here, "deep/*.txt")) == [found]
    # A file names what is in its own folder, though that is called as the folder is.
    assert inside(here, "made/x", named_in=here / "list.json") == Path("made/made/x")
    (folder / "link").symlink_to(folder.parent / "outside.txt")
    for name in ("link", "made/link"):
        with pytest.raises(UserError, match="made/link: a symlink leads out of made"):
            inside(here, name)


@given(st.lists(st.sampled_from(["a", "..", ".", "b c", "..x", ""]), max_size=6))
def test_what_is_returned_never_leaves(parts: list[str]) -> None:
    try:
        path = inside("/base/folder", "/".join(parts))
    except UserError:
        assert ".." in parts or "/".join(parts).startswith("/")
    else:
        assert path.resolve().is_relative_to("/base/folder")
