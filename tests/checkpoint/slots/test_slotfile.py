"""A slot is whole or not there."""

import os

import pytest

from keepstep.checkpoint.slots import SlotFile

PLAN, TAIL = b'{"boxes": 2}', b"digests and facts"


@pytest.fixture
def slot(tmp_path):
    slot = SlotFile.named(tmp_path / "slot")
    slot.prepare(PLAN, 5000)
    yield slot
    slot.close()


def fill(slot, step, byte=7):
    slot.unseal()
    slot.map()[:] = bytes([byte]) * 5000
    slot.seal(step, TAIL)


def test_what_is_sealed_is_read_by_another_process_of_the_same_name(slot, tmp_path):
    fill(slot, 12)
    other = SlotFile.named(tmp_path / "slot")
    held = other.read()
    assert held is not None
    assert (held.step, held.plan, held.tail) == (12, PLAN, TAIL)
    buffer = bytearray(5000)
    assert other.read_into(held.data[0], memoryview(buffer)) == 5000
    assert bytes(buffer) == bytes([7]) * 5000
    other.close()


def test_a_slot_that_is_being_written_does_not_exist(slot):
    fill(slot, 12)
    slot.unseal()
    slot.map()[:10] = b"half of it"
    assert slot.read() is None
    assert slot.step == -1


def test_every_byte_of_page_plan_and_tail_is_proven(slot, tmp_path):
    fill(slot, 12)
    path = tmp_path / "slot"
    whole = path.read_bytes()
    words, plan = range(88), range(4096, 4096 + len(PLAN))
    tail = range(len(whole) - 4096, len(whole) - 4096 + len(TAIL))
    assert whole[tail.start : tail.stop] == TAIL
    for place in (*words, *plan, *tail):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([whole[place] ^ 1]))
        is_pin = 72 <= place < 80  # which says nothing of the content
        assert slot.read() is None or is_pin, place
        with path.open("r+b") as file:
            file.seek(place)
            file.write(whole[place : place + 1])


def test_a_slot_cut_short_holds_nothing(slot, tmp_path):
    fill(slot, 12)
    os.truncate(tmp_path / "slot", 4096 * 2)
    assert slot.read() is None


def test_an_empty_file_holds_nothing(tmp_path):
    slot = SlotFile.named(tmp_path / "new")
    assert slot.read() is None
    slot.close()


def test_another_plan_empties_the_slot_and_the_same_one_does_not(slot):
    fill(slot, 12)
    slot.prepare(PLAN, 5000)
    assert slot.step == 12
    slot.prepare(b"another", 100)
    assert slot.read() is None
    assert len(slot.map()) == 100


def test_a_tail_may_grow(slot):
    slot.unseal()
    slot.seal(3, TAIL * 1000)
    held = slot.read()
    assert held is not None
    assert held.tail == TAIL * 1000


def test_two_jobs_cannot_have_one_slot(slot, tmp_path):
    other = SlotFile.named(tmp_path / "slot")
    assert slot.lock()
    assert not other.lock()
    slot.close()
    assert other.lock()
    other.close()


def test_a_link_in_the_place_of_a_slot_is_refused(tmp_path):
    (tmp_path / "precious").write_bytes(b"x")
    (tmp_path / "slot").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        SlotFile.named(tmp_path / "slot")
    assert (tmp_path / "precious").read_bytes() == b"x"


def test_a_second_name_of_a_slot_is_refused(slot, tmp_path):
    os.link(tmp_path / "slot", tmp_path / "alias")
    with pytest.raises(PermissionError, match="not this user's alone"):
        SlotFile.named(tmp_path / "alias")


def test_a_pin_is_seen_through_another_descriptor(slot, tmp_path):
    other = SlotFile.named(tmp_path / "slot")
    slot.pin()
    assert other.is_pinned
    other.unpin()
    assert not slot.is_pinned
    other.close()
