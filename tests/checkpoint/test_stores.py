"""A place creates objects whole or not at all, never over one another, none outside itself."""

import os

import pytest

from keepstep.checkpoint import LocalStore
from keepstep.checkpoint.stores import read_bytes


def test_what_was_created_is_listed_sized_and_read(tmp_path):
    place = LocalStore(tmp_path / "deep" / "place")
    place.create("one/file", [b"ab", memoryview(b"cde"), b""])
    assert place.list().keys() == {"one/file"}
    assert place.size("one/file") == 5
    assert read_bytes(place, "one/file") == b"abcde"
    assert place.address("one/file") == str(tmp_path / "deep" / "place" / "one" / "file")


@pytest.mark.parametrize(
    ("start", "wanted", "found"), [(0, 3, b"abc"), (2, 9, b"cde"), (7, 2, b"")]
)
def test_a_range_past_the_end_is_answered_as_far_as_it_goes(tmp_path, start, wanted, found):
    place = LocalStore(tmp_path)
    place.create("one/file", [b"abcde"])
    buffer = bytearray(wanted)
    assert place.read_into("one/file", start, memoryview(buffer)) == len(found)
    assert buffer[: len(found)] == found


def test_an_object_is_never_written_over(tmp_path):
    place = LocalStore(tmp_path)
    place.create("one/file", [b"first"])
    with pytest.raises(FileExistsError):
        place.create("one/file", [b"second"])
    assert read_bytes(place, "one/file") == b"first"
    assert place.list().keys() == {"one/file"}


def test_a_write_that_fails_leaves_nothing(tmp_path):
    def pieces():
        yield b"half"
        raise RuntimeError("the other half is gone")

    place = LocalStore(tmp_path)
    with pytest.raises(RuntimeError, match="other half"):
        place.create("one/file", pieces())
    assert place.list().keys() == {"one/"}


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:3]))
    LocalStore(tmp_path).create("one/file", [b"abcdefgh"])
    assert (tmp_path / "one" / "file").read_bytes() == b"abcdefgh"


def test_bytes_are_synced_before_the_name_exists_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "link"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, real=real, name=name: (calls.append(name), real(*args))[1]
        )
    (tmp_path / "one").mkdir()
    LocalStore(tmp_path).create("one/file", [b"a"])
    assert calls == ["fsync", "link", "fsync"]


def test_a_removal_starts_with_the_file_it_is_told(tmp_path, monkeypatch):
    place = LocalStore(tmp_path)
    for name in ("a", "m", "z"):
        place.create(f"one/{name}", [b""])
    gone = []
    unlink = os.unlink
    monkeypatch.setattr(
        os, "unlink", lambda path: (gone.append(os.path.basename(path)), unlink(path))
    )
    place.remove("one", first="m")
    assert gone == ["m", "a", "z"]
    assert place.list() == {}
    place.remove("one", first="m")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc", "a//b", "", "a/.", "a\0b"])
def test_names_outside_of_the_place_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="is not inside"):
        LocalStore(tmp_path).size(name)


def test_a_place_that_is_not_there_is_empty_and_has_room(tmp_path):
    place = LocalStore(tmp_path / "not" / "yet")
    assert place.list() == {}
    assert place.free_bytes() > 0
    assert list(tmp_path.iterdir()) == []


def test_a_relative_place_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = LocalStore("some/place")
    assert place.free_bytes() > 0
    place.create("one/file", [b"a"])
    assert (tmp_path / "some" / "place" / "one" / "file").exists()
