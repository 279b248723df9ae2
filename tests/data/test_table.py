"""Columns of objects stand for the objects, and no name leaves its folder."""

import pytest

from keepstep.data import DataError
from keepstep.data.store import StoredObject
from keepstep.data.table import ObjectTable, Strings, inside, relative

OBJECTS = [
    StoredObject("s3://b/d/a.bin", 10, "tag"),
    StoredObject("s3://b/d/deep/\u00e9.zst", 7, "", "zstd", 70),
]


def test_a_table_gives_its_objects_back() -> None:
    table = ObjectTable.of(OBJECTS, "s3://b/d")
    assert list(table) == OBJECTS
    assert table[-1] == OBJECTS[1]
    assert table[0:1] == OBJECTS[:1]
    assert ObjectTable.of(table, "s3://b/d") is table
    with pytest.raises(IndexError, match="found index 2, needed one below 2"):
        table[2]


def test_strings_of_any_length_are_found_by_place() -> None:
    words = ["", "a", "\u4e16\u754c", "", "end"]
    strings = Strings.of(words)
    assert list(strings) == words
    assert [strings[i] for i in range(-5, 0)] == words
    assert list(Strings.of([])) == []


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/../../x", "/etc/x", "s3://b/x", "a::file://x", "a\\..\\x", "a\nb"],
)
def test_a_name_that_leaves_the_folder_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="needed the relative name of an object inside"):
        inside(name, "index.json")


def test_a_name_inside_is_kept_without_dots() -> None:
    assert inside("./a//b..c/~d.bin", "index.json") == "a/b..c/~d.bin"


def test_an_object_elsewhere_or_of_an_unknown_packing_is_refused() -> None:
    assert relative("/d/a/b", "/d/") == "a/b"
    with pytest.raises(DataError, match="found an object outside of s3://b/other"):
        ObjectTable.of(OBJECTS, "s3://b/other")
    with pytest.raises(DataError, match="found the packing 'lzip', needed one of gzip"):
        ObjectTable.of([StoredObject("/d/x", 1, "", "lzip")], "/d")
