"""What came in is put in turn, readers before it, and never left behind."""

import threading
import time

from keepstep.data.access.putter import Arrival, Putter


def _wait(event: threading.Event) -> None:
    assert event.wait(10)


def test_arrivals_are_put_in_turn_and_all_of_them_before_the_close_ends() -> None:
    put: list[int] = []
    putter = Putter(lambda: False)
    for number in range(100):
        content = memoryview(bytes(number))
        putter.add(Arrival(number, content, lambda n=number: put.append(n), 0.0))  # type: ignore[misc]
    putter.close()
    putter.close()
    assert put == list(range(100))
    assert putter.contents == {}


def test_an_arrival_is_put_off_for_a_reader_but_not_for_long() -> None:
    # Two processes whose readers wait for one another's arrivals would else wait for ever.
    done = threading.Event()
    putter = Putter(lambda: True)
    now = time.monotonic()
    putter.add(Arrival(7, memoryview(b"x"), done.set, now))
    assert putter.contents == {7: b"x"}
    assert done.wait(10)
    assert time.monotonic() - now >= 0.05
    putter.close()


def test_what_comes_in_after_the_close_is_put_at_once() -> None:
    put: list[int] = []
    putter = Putter(lambda: True)
    putter.close()
    putter.add(Arrival(1, memoryview(b"x"), lambda: put.append(1), 0.0))
    assert (put, putter.contents) == ([1], {})
    putter.wait_for_room()


def test_all_that_wait_for_room_go_on_once_there_is_some() -> None:
    release = threading.Event()
    putter = Putter(lambda: False)
    content = memoryview(bytes(2**20))
    for number in range(80):
        putter.add(Arrival(number, content, lambda: _wait(release), 0.0))
    fetchers = [threading.Thread(target=putter.wait_for_room) for _ in range(100)]
    for one in fetchers:
        one.start()
    fetchers[0].join(0.05)
    assert all(one.is_alive() for one in fetchers)
    release.set()
    for one in fetchers:
        one.join(10)
    assert not any(one.is_alive() for one in fetchers)
    putter.close()
