"""What a fetcher does with a store that the test steers from within."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, field

import pytest

from keepstep.data.errors import (
    ChangedError,
    CorruptDataError,
    DeniedError,
    MissingError,
    ThrottledError,
    TransientError,
)
from keepstep.data.fetch import FetchConfig, Fetcher
from keepstep.data.store import StoredObject

OBJ = StoredObject("memory://x", 1 << 20, "tag")
Answer = Callable[[int, int], bytes]


def content(start: int, stop: int) -> bytes:
    return bytes(place % 251 for place in range(start, stop))


@dataclass
class Steered:
    """A store whose answers are a function of the range and of how often it was asked for."""

    answer: Callable[[int, int, int], bytes] = lambda start, stop, _: content(start, stop)
    asked: list[int] = field(default_factory=list)

    def list(self, url: str) -> list[StoredObject]:
        return [OBJ]

    def stat(self, url: str) -> StoredObject:
        return OBJ

    def read(self, obj: StoredObject, start: int, stop: int) -> bytes:
        self.asked.append(start)
        return self.answer(start, stop, self.asked.count(start))

    def close(self) -> None:
        """Nothing is held open."""


QUICK = {"backoff_seconds": 0.001, "backoff_most_seconds": 0.02}


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [t.name for t in threading.enumerate() if "keepstep-fetch" in t.name]


def test_ranges_arrive_whole() -> None:
    with Fetcher(Steered(), FetchConfig(hedge_share=0.0)) as fetcher:
        futures = [fetcher.submit(OBJ, start, start + 99, due=0.0) for start in range(500)]
        assert [f.result(10) for f in futures] == [content(s, s + 99) for s in range(500)]
        counts = fetcher.counts
    assert (counts.gets, counts.delivered, counts.delivered_bytes) == (500, 500, 500 * 99)
    assert (counts.retries, counts.waiting) == ({}, 0)
    assert 0 < counts.delivery_seconds.p50 <= counts.delivery_seconds.p99


class Gate:
    """A store of one request at a time, the first of which waits until it is let through."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.store = Steered(self._answer)
        self.fetcher = Fetcher(
            self.store, FetchConfig(least_in_flight=1, start_in_flight=1, most_in_flight=1)
        )

    def _answer(self, start: int, stop: int, _: int) -> bytes:
        assert self.is_open.wait(10)
        return content(start, stop)

    def block(self) -> Future[bytes | memoryview]:
        first = self.fetcher.submit(OBJ, 0, 1, due=1e9)
        while not self.store.asked:
            time.sleep(0.001)
        return first


def test_the_earliest_due_is_fetched_first_and_submit_does_not_wait() -> None:
    gate = Gate()
    with gate.fetcher as fetcher:
        gate.block()
        dues = {start: float(start * 7 % 100) + 1e8 for start in range(1, 100)}
        futures = {s: fetcher.submit(OBJ, s, s + 1, due=due) for s, due in dues.items()}
        fetcher.hurry(futures[50], 0.0)
        fetcher.hurry(futures[51], 9e9)
        assert fetcher.counts.waiting == 99
        gate.is_open.set()
        wait(futures.values(), 10)
    expected = sorted(dues, key=dues.__getitem__)
    expected.remove(50)
    assert gate.store.asked == [0, 50, *expected]


def test_what_was_not_asked_for_yet_can_be_cancelled() -> None:
    gate = Gate()
    with gate.fetcher as fetcher:
        first = gate.block()
        second, third = (fetcher.submit(OBJ, s, s + 1, due=1e8) for s in (1, 2))
        assert second.cancel()
        assert not first.cancel()
        gate.is_open.set()
        assert third.result(10) == content(2, 3)
    assert gate.store.asked == [0, 2]


def test_close_cancels_what_waits_and_fails_what_is_under_way() -> None:
    gate = Gate()
    fetcher = gate.fetcher.open()
    first = gate.block()
    second = fetcher.submit(OBJ, 1, 2, due=0.0)
    closing = threading.Thread(target=fetcher.close)
    closing.start()
    with pytest.raises(TransientError, match="found the fetcher closed"):
        first.result(10)
    with pytest.raises(CancelledError):
        second.result(10)
    gate.is_open.set()
    closing.join(10)
    fetcher.close()
    with pytest.raises(RuntimeError, match="found it closed, needed it open in process"):
        fetcher.submit(OBJ, 0, 1, due=0.0)


def test_a_fork_is_refused() -> None:
    with Fetcher(Steered()) as fetcher:
        pid = os.fork()
        if pid == 0:
            try:
                fetcher.submit(OBJ, 0, 1, due=0.0)
                code = 1
            except RuntimeError as error:
                code = 0 if "open one in the process that fetches" in str(error) else 2
            fetcher.close()
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    "error",
    [
        MissingError("x", "found none", "404"),
        DeniedError("x", "found no way in", "403"),
        ChangedError("x", "1", "2"),
        ValueError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_pass_fails_at_once(error: Exception) -> None:
    def answer(start: int, stop: int, _: int) -> bytes:
        raise error

    store = Steered(answer)
    with Fetcher(store) as fetcher, pytest.raises(type(error)) as raised:
        fetcher.submit(OBJ, 0, 9, due=0.0).result(10)
    assert raised.value is error
    assert store.asked == [0]


def test_what_may_pass_is_asked_again_and_counted_by_cause() -> None:
    causes = ["timeout", "reset", "short", "timeout"]

    def answer(start: int, stop: int, time: int) -> bytes:
        if time <= len(causes):
            raise TransientError("x", "found none", causes[time - 1])
        return content(start, stop)

    store = Steered(answer)
    with Fetcher(store, FetchConfig(**QUICK)) as fetcher:
        assert fetcher.submit(OBJ, 5, 9, due=0.0).result(10) == content(5, 9)
        assert fetcher.counts.retries == {"timeout": 2, "reset": 1, "short": 1}
    assert store.asked == [5] * 5


def test_a_range_that_fails_while_others_succeed_is_given_up() -> None:
    def answer(start: int, stop: int, _: int) -> bytes:
        if start == 7:
            raise TransientError("x", "found none", "5xx")
        return content(start, stop)

    store = Steered(answer)
    with Fetcher(store, FetchConfig(attempts=4, **QUICK)) as fetcher:
        bad = fetcher.submit(OBJ, 7, 8, due=0.0)
        while not bad.done():
            fetcher.submit(OBJ, 8, 9, due=0.0).result(10)
        assert isinstance(bad.exception(10), TransientError)
    assert store.asked.count(7) == 4


def test_wrong_bytes_are_fetched_again_and_never_handed_out() -> None:
    def answer(start: int, stop: int, time: int) -> bytes:
        return content(start, stop) if time > 2 and start == 0 else bytes(stop - start)

    store = Steered(answer)
    with Fetcher(store) as fetcher:
        right = fetcher.submit(OBJ, 0, 9, 0.0, check=lambda found: found == content(0, 9))
        assert right.result(10) == content(0, 9)
        wrong = fetcher.submit(OBJ, 9, 99, 0.0, check=lambda found: found == content(9, 99))
        with pytest.raises(CorruptDataError, match=r"found wrong bytes in \[9, 99\) 3 times"):
            wrong.result(10)
        assert fetcher.counts.retries == {"digest": 4}
    assert store.asked == [0] * 3 + [9] * 3


def test_a_check_that_fails_itself_is_the_futures_error() -> None:
    def check(_: bytes | memoryview) -> bool:
        raise KeyError("no digest")

    with Fetcher(Steered()) as fetcher, pytest.raises(KeyError, match="no digest"):
        fetcher.submit(OBJ, 0, 9, 0.0, check=check).result(10)


def test_what_is_not_due_soon_is_waited_for() -> None:
    release = threading.Event()

    def answer(start: int, stop: int, _: int) -> bytes:
        assert start != 3 or release.wait(10)
        return content(start, stop)

    store = Steered(answer)
    with Fetcher(store, FetchConfig(hedge_first_seconds=0.001)) as fetcher:
        far = fetcher.submit(OBJ, 3, 4, due=time.monotonic() + 1000)
        for start in range(100, 110):
            fetcher.submit(OBJ, start, start + 1, due=0.0).result(10)
            time.sleep(0.005)  # some ticks of the thread that looks for late ones
        assert store.asked.count(3) == 1
        release.set()
        assert far.result(10) == content(3, 4)


def test_a_hedge_wins_while_the_first_request_still_hangs() -> None:
    release, counts = threading.Event(), []

    def answer(start: int, stop: int, time: int) -> bytes:
        if time == 1:
            assert release.wait(10)
        return content(start, stop)

    with Fetcher(Steered(answer), FetchConfig(hedge_first_seconds=0.02)) as fetcher:
        assert fetcher.submit(OBJ, 3, 5, due=0.0).result(10) == content(3, 5)
        counts.append(fetcher.counts)
        release.set()
    assert (counts[0].gets, counts[0].hedges, counts[0].hedges_won) == (2, 1, 1)
    assert counts[0].in_flight == 1


def test_an_outage_is_told_ridden_out_and_over() -> None:
    is_out = threading.Event()
    is_out.set()

    def answer(start: int, stop: int, _: int) -> bytes:
        if is_out.is_set():
            raise TransientError("x", "found no server", "refused")
        return content(start, stop)

    store = Steered(answer)
    config = FetchConfig(attempts=20, backoff_seconds=0.02, backoff_most_seconds=0.05)
    with Fetcher(store, config) as fetcher:
        assert fetcher.outage is None
        began = time.monotonic()
        futures = [fetcher.submit(OBJ, s, s + 9, due=0.0) for s in range(30)]
        while (outage := fetcher.outage) is None and time.monotonic() < began + 10:
            time.sleep(0.001)
        assert outage is not None
        assert outage.since >= began
        assert "found no server" in outage.why
        before = store.asked.count(0)
        while store.asked.count(0) < before + 25 and time.monotonic() < began + 30:
            time.sleep(0.001)  # far more often than a range may fail while others succeed
        assert not any(future.done() for future in futures)
        is_out.clear()
        assert [f.result(10) for f in futures] == [content(s, s + 9) for s in range(30)]
        assert fetcher.outage is None


def test_patience_with_an_outage_ends() -> None:
    def answer(start: int, stop: int, _: int) -> bytes:
        raise ThrottledError("x", "found 503", "503")

    config = FetchConfig(outage_seconds=0.3, **QUICK)
    with Fetcher(Steered(answer), config) as fetcher:
        with pytest.raises(ThrottledError):
            fetcher.submit(OBJ, 0, 1, due=0.0).result(10)
        assert fetcher.counts.throttles > 3
        assert fetcher.counts.limit == config.least_in_flight


def test_what_a_future_calls_may_submit_more() -> None:
    done: Future[int] = Future()
    with Fetcher(Steered()) as fetcher:

        def more(depth: int) -> None:
            if depth == 50:
                done.set_result(depth)
            else:
                following = fetcher.submit(OBJ, depth, depth + 1, due=0.0)
                following.add_done_callback(lambda _: more(depth + 1))

        more(0)
        assert done.result(10) == 50
