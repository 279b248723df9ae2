"""Pieces become parts of one size without copies, and go out no faster than they may."""

import pytest

from keepstep.checkpoint.stores.pace import Pace, parts, split_single


@pytest.mark.parametrize(
    ("pieces", "found"),
    [
        ([], [b""]),
        ([b""], [b""]),
        ([b"ab", b"c"], [b"abc"]),
        ([b"abcd"], [b"abcd"]),
        ([b"ab", b"", b"cdefghi", b"j"], [b"abcd", b"efgh", b"ij"]),
        ([b"abcdefgh"], [b"abcd", b"efgh"]),
    ],
)
def test_the_bytes_stay_and_every_part_but_the_last_is_full(pieces, found):
    assert [bytes(part) for part in parts(pieces, 4)] == found


def test_a_part_within_one_piece_is_a_view_of_it():
    data = bytearray(b"abcdefgh")
    first, second = parts([memoryview(data)], 4)
    data[5:6] = b"X"
    assert (bytes(first), bytes(second)) == (b"abcd", b"eXgh")


def test_no_piece_is_taken_before_its_part_is_due():
    taken = []
    pieces = (taken.append(n) or bytes(4) for n in range(5))
    found = parts(pieces, 4)
    next(found)
    assert taken == [0]


def test_one_part_is_told_from_several():
    assert split_single(parts([b"abcd"], 4)) == (b"abcd", None)
    first, several = split_single(parts([b"abcdefghi"], 4))
    assert first == b"abcd"
    assert [bytes(part) for part in several] == [b"abcd", b"efgh", b"i"]


class Clock:
    def __init__(self):
        self.now, self.slept = 100.0, []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def test_what_is_taken_over_a_long_time_keeps_to_the_rate():
    clock = Clock()
    pace = Pace(1000.0, clock=lambda: clock.now, sleep=clock.sleep)
    for _ in range(50):
        pace.take(300)
    assert clock.now - 100.0 == pytest.approx(15.0)


def test_after_a_pause_a_second_s_worth_goes_out_at_once_and_no_more():
    clock = Clock()
    pace = Pace(1000.0, clock=lambda: clock.now, sleep=clock.sleep)
    clock.now += 60.0
    pace.take(1000)
    assert clock.slept == []
    pace.take(500)
    assert clock.slept == [pytest.approx(0.5)]


def test_without_a_bound_nothing_waits():
    clock = Clock()
    Pace(0.0, clock=lambda: clock.now, sleep=clock.sleep).take(10**12)
    assert clock.slept == []
