"""Every place creates objects whole or not at all, never over one another, none outside itself."""

import os
import time

import pytest

from keepstep.checkpoint.stores import is_exclusive, read_bytes

MIB = 2**20


def test_what_was_created_is_listed_sized_and_read(place):
    before = time.time()
    place.create("one/file", [b"ab", memoryview(b"cde"), b""])
    place.create("two/file", [b""])
    assert place.list().keys() == {"one/file", "two/file"}
    assert all(before - 60 < changed < time.time() + 60 for changed in place.list().values())
    assert place.size("one/file") == 5
    assert read_bytes(place, "one/file") == b"abcde"
    assert read_bytes(place, "two/file") == b""
    assert place.address("one/file") == f"{place.address()}/one/file"


@pytest.mark.parametrize(
    ("start", "wanted", "found"), [(0, 3, b"abc"), (2, 9, b"cde"), (5, 1, b""), (7, 2, b"")]
)
def test_a_range_past_the_end_is_answered_as_far_as_it_goes(place, start, wanted, found):
    place.create("one/file", [b"abcde"])
    buffer = bytearray(wanted)
    assert filled(place, "one/file", start, buffer) == len(found)
    assert buffer[: len(found)] == found


def filled(place, name, start, *buffers):
    with place.opened(name) as read:
        return read(start, *map(memoryview, buffers))


@pytest.mark.parametrize("sizes", [[2, 0, 3 * MIB, 1], [3] * 5000, [0], []])
def test_buffers_are_filled_one_after_the_other_as_far_as_it_goes(place, sizes):
    data = os.urandom(3 * MIB + 2)
    place.create("one/file", [data])
    buffers = [bytearray(size) for size in sizes]
    count = min(sum(sizes), len(data) - 1)
    assert filled(place, "one/file", 1, *buffers) == count
    assert b"".join(buffers)[:count] == data[1 : 1 + count]


def test_an_object_that_is_open_is_read_at_any_place_of_it(place):
    place.create("one/file", [b"abcdef"])
    one, other = bytearray(2), bytearray(3)
    with place.opened("one/file") as read:
        assert (read(4, memoryview(one)), read(0, memoryview(other))) == (2, 3)
    assert (one, other) == (b"ef", b"abc")


def test_an_object_of_many_parts_comes_back_whole_from_any_byte(place):
    data = os.urandom(17 * MIB + 123)
    view = memoryview(data)
    place.create("one/file", [view[:7], view[7 : 11 * MIB], b"", view[11 * MIB :]])
    assert place.size("one/file") == len(data)
    assert read_bytes(place, "one/file") == data
    buffer = bytearray(12 * MIB)
    assert filled(place, "one/file", 6 * MIB + 1, buffer) == 11 * MIB + 122
    assert buffer[: 11 * MIB + 122] == data[6 * MIB + 1 :]


@pytest.mark.parametrize("size", [6, 11 * MIB])
def test_an_object_is_never_written_over(place, size):
    place.create("one/file", [b"f" * size])
    with pytest.raises(FileExistsError):
        place.create("one/file", [b"s" * size])
    with pytest.raises(FileExistsError):
        place.create("one/file", [b"s"])
    assert read_bytes(place, "one/file") == b"f" * size
    assert place.list().keys() == {"one/file"}


@pytest.mark.parametrize("size", [1, 7 * MIB, 30 * MIB])
def test_a_write_that_fails_leaves_nothing_but_debris(place, size):
    def pieces():
        yield b"h" * size
        raise RuntimeError("the other half is gone")

    with pytest.raises(RuntimeError, match="other half"):
        place.create("one/file", pieces())
    assert place.list().keys() <= {"one/"}
    place.remove("one", first="file")
    assert place.list() == {}


def test_what_is_not_there_is_said_as_of_a_file(place):
    place.create("one/file", [b"a"])
    with pytest.raises(FileNotFoundError):
        place.size("one/other")
    with pytest.raises(FileNotFoundError):
        filled(place, "one/other", 0, bytearray(1))


def test_a_removed_folder_is_gone_and_may_be_removed_again(place):
    for name in ("a", "m", "z"):
        place.create(f"one/{name}", [b""])
    place.create("only/a", [b""])
    place.remove("one", first="m")
    assert place.list().keys() == {"only/a"}
    place.remove("one", first="m")
    place.remove("only", first="missing")
    assert place.list() == {}


def test_folders_whose_names_begin_alike_are_told_apart(place):
    place.create("step-1/a", [b""])
    place.create("step-10/a", [b""])
    place.remove("step-1", first="a")
    assert place.list().keys() == {"step-10/a"}


@pytest.mark.parametrize("kind", ["local", "memory", "botocore", "obstore"])
def test_places_whose_names_begin_alike_are_told_apart(make_place, kind):
    make_place(kind, name="run").create("one/a", [b""])
    make_place(kind, name="run-2").create("two/a", [b""])
    assert make_place(kind, name="run").list().keys() == {"one/a"}


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc", "a//b", "a/.", "a\0b"])
def test_names_outside_of_the_place_are_refused(place, name):
    for call in (place.size, place.address, lambda name: place.create(name, [b""])):
        with pytest.raises(ValueError, match="is not inside"):
            call(name)


def test_a_place_that_is_not_there_is_empty(place):
    assert place.list() == {}
    assert place.free_bytes() is None or place.free_bytes() > 0


def test_the_promise_of_creation_is_found_kept_and_the_probe_leaves_nothing(place):
    assert is_exclusive(place)
    assert place.list() == {}
