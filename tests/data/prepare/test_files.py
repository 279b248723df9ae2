"""A path, glob or URL becomes the same list of files wherever they lie, or a sentence."""

from pathlib import Path

import fsspec
import pytest

from keepstep.data import DataError
from keepstep.data.prepare.text.files import list_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.txt", "deep/c.md", ".hidden", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_folder_lists_its_files_by_name_without_hidden_ones(folder: Path, prefix: str) -> None:
    files = list_files(f"{prefix}{folder}")
    assert [file.name for file in files] == ["a.txt", "b.txt", "deep/c.md"]
    assert files[0].size == 5


def test_one_file_and_a_glob_name_files_relative_to_their_folder(folder: Path) -> None:
    assert [file.name for file in list_files(str(folder / "b.txt"))] == ["b.txt"]
    assert [file.name for file in list_files(str(folder / "*.txt"))] == ["a.txt", "b.txt"]
    assert [file.name for file in list_files(str(folder / "**" / "*.md"))] == ["deep/c.md"]


def test_a_folder_inside_a_hidden_folder_can_be_asked_for(folder: Path) -> None:
    assert [file.name for file in list_files(str(folder / ".git"))] == ["config"]


def test_a_memory_url_is_listed_like_a_folder() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/books/one.txt", b"one")
    memory.pipe("/books/more/two.txt", b"two")
    assert [file.name for file in list_files("memory://books")] == ["more/two.txt", "one.txt"]


def test_a_changed_file_changes_its_stamp_or_size(folder: Path) -> None:
    before = list_files(str(folder))
    (folder / "a.txt").write_text("longer")
    after = list_files(str(folder))
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True, True]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/nowhere/at/all", "data.path: found nothing at '/nowhere/at/all', needed a file"),
        ("/nowhere/*.txt", "found no files at"),
        ("nosuch://bucket/x", r"Protocol not known.*needed a path or a URL"),
        ("memory://empty-of-all", "found nothing at"),
    ],
)
def test_what_is_not_there_is_said(url: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        list_files(url)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no files at .*, needed at least one"):
        list_files(str(tmp_path))
