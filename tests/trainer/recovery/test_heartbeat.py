"""The page between a worker and its guardian, over a real fork."""

import os
import time

import pytest

from keepstep.trainer.recovery.heartbeat import Page, Phase


def in_fork(body) -> int:  # type: ignore[no-untyped-def]
    """Exit code of `body()` in a fork: 0 unless it raises or answers something false."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if body() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_guardian_reads_the_last_beat_of_a_worker_that_is_gone() -> None:
    page = Page.create()

    def worker() -> bool:
        page.beat(6, Phase.data)
        page.beat(7, Phase.step)
        return True

    assert in_fork(worker) == 0
    beat = page.read()
    assert (beat.step, beat.phase) == (7, Phase.step)
    assert 0 <= beat.age_seconds < 5
    page.close()


def test_a_beat_grows_older_until_the_next_one() -> None:
    page = Page.create()
    page.beat(1, Phase.step)
    time.sleep(0.03)
    assert page.read().age_seconds >= 0.03
    page.beat(1, Phase.save)
    assert page.read().age_seconds < 0.03
    page.close()


def test_a_beat_that_is_being_written_is_never_read_by_halves() -> None:
    page = Page.create()
    page.beat(1000, Phase.step)
    pid = os.fork()
    if pid == 0:
        while not page.stop_requested():
            page.beat(1000, Phase.step)
        os._exit(0)
    try:
        beats = [page.read() for _ in range(100_000)]
    finally:
        page.request_stop()
        os.waitpid(pid, 0)
    assert {(beat.step, beat.phase) for beat in beats} == {(1000, Phase.step)}
    assert max(beat.age_seconds for beat in beats) < 60
    page.close()


def test_a_stop_request_reaches_a_worker_that_was_forked_before_it() -> None:
    page = Page.create()

    def worker() -> bool:
        deadline = time.monotonic() + 30
        while not page.stop_requested() and time.monotonic() < deadline:
            time.sleep(0.001)
        return page.stop_requested()

    pid = os.fork()
    if pid == 0:
        os._exit(0 if worker() else 2)
    page.request_stop()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    page.close()


def test_a_new_worker_begins_with_a_clean_page() -> None:
    page = Page.create()
    page.beat(9, Phase.finish)
    page.request_stop()
    page.reset()
    beat = page.read()
    assert (beat.step, beat.phase, page.stop_requested()) == (0, Phase.start, False)
    page.close()


def test_the_longest_step_is_remembered_and_fades() -> None:
    page = Page.create()
    page.reset()
    assert page.read().longest_step == 0.0
    for seconds in (0.2, 0.01):
        page.beat(1, Phase.step)
        time.sleep(seconds)
        page.beat(1, Phase.save)
    assert 0.2 * 0.99 <= page.read().longest_step < 2.0
    longest = page.read().longest_step
    for _ in range(200):
        page.beat(2, Phase.step)
        page.beat(2, Phase.save)
    assert page.read().longest_step < longest / 2
    page.close()


def test_a_beat_does_not_touch_the_stop_request() -> None:
    page = Page.create()
    page.request_stop()
    page.beat(2**40, Phase.evaluate)
    assert page.stop_requested()
    assert page.read().step == 2**40
    page.close()


def test_a_page_closes_twice_and_gives_its_descriptor_back() -> None:
    page = Page.create()
    page.close()
    page.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(page.fd)
