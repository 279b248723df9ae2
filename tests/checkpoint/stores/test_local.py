"""What a folder of the disk does beside what every place does: syncs, short writes, order."""

import os

import pytest

from keepstep.checkpoint import LocalStore
from keepstep.checkpoint.stores.pace import Pace


def test_a_write_that_fails_leaves_nothing(tmp_path):
    def pieces():
        yield b"half"
        raise RuntimeError("the other half is gone")

    place = LocalStore(tmp_path)
    with pytest.raises(RuntimeError, match="other half"):
        place.create("one/file", pieces())
    assert place.list().keys() == {"one/"}


def test_a_paced_folder_holds_the_same_bytes_and_takes_its_time(tmp_path):
    slept = []
    pace = Pace(1000.0, clock=lambda: 100.0, sleep=slept.append)
    LocalStore(tmp_path, pace=pace).create("one/file", [b"x" * 1500, b"y" * 1500])
    assert (tmp_path / "one" / "file").read_bytes() == b"x" * 1500 + b"y" * 1500
    assert sum(slept) == pytest.approx(3.0)


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
