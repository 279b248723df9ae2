"""Ranges of stored objects, fetched by threads in order of when they are due.

submit --> Queue --worker threads--> store.read --check--> the future
             ^-- retries, after a wait --'   '-- late ones are asked a second time
"""

import heapq
import os
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from threading import Condition, Lock, Thread
from typing import Self, final

from ..errors import CorruptDataError, StoreError, ThrottledError, TransientError
from ..store import Store, StoredObject
from .backoff import next_wait
from .config import FetchConfig
from .counts import FetchCounts
from .health import Health, Outage
from .hedges import Hedges
from .latencies import Latencies
from .limit import Limit
from .ranges import Check, Content, Queue, Range

_TICK_SECONDS = 0.02
_IDLE_SECONDS = 3600.0
_SPARE_THREADS = 8


@final
class _Request:
    """One request for a range, under way."""

    __slots__ = ("began", "is_hedge", "wanted")

    def __init__(self, wanted: Range, began: float, is_hedge: bool) -> None:
        self.wanted = wanted
        self.began = began
        self.is_hedge = is_hedge


@final
class Fetcher:
    """Fetches from one store. `open` starts its threads, `close` ends them; the store stays open.

    A range whose request fails in a way that may pass is asked for again, with growing waits; one
    that is late and due soon is asked for a second time; while nothing succeeds at all it is
    waited for. Missing, changed and denied objects fail at once.
    """

    def __init__(
        self,
        store: Store,
        config: FetchConfig | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        config = config or FetchConfig()
        self._store, self._config = store, config
        self._clock, self._uniform = clock, uniform
        self._limit = Limit(
            least=config.least_in_flight, start=config.start_in_flight, most=config.most_in_flight
        )
        self._hedging = Hedges(
            share=config.hedge_share,
            slack_seconds=config.hedge_slack_seconds,
            first_seconds=config.hedge_first_seconds,
        )
        self._health = Health()
        self._queue, self._again = Queue(), deque[Range]()
        self._later: list[tuple[float, int, Range]] = []
        self._number = count()
        self._requests: set[_Request] = set()
        self._lock = Lock()
        self._work, self._tick = Condition(self._lock), Condition(self._lock)
        self._threads: list[Thread] = []
        self._idle = 0
        self._sleeps = False
        self._process = -1
        self._tally: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()
        self._request_seconds, self._delivery_seconds = Latencies(), Latencies()

    def open(self) -> Self:
        """Starts the threads; returns itself, for `with`."""
        if self._process != -1:
            raise RuntimeError("the fetcher: found it open, needed it closed; open it once")
        self._process = os.getpid()
        watch = Thread(target=self._watch, name="keepstep-fetch-watch", daemon=True)
        self._threads.append(watch)
        watch.start()
        for _ in range(self._config.start_in_flight):
            self._start_worker()
        return self

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Cancels what waits, fails what is under way, and ends the threads; safe twice.

        Waits at most `timeout_seconds` for requests under way; threads that are still in one
        after that end with it.
        """
        with self._lock:
            if self._process != os.getpid():
                return
            self._process = -1
            waiting = [*self._queue.drain(), *self._again, *(one for _, _, one in self._later)]
            self._again.clear()
            self._later.clear()
            over = {*waiting, *(request.wanted for request in self._requests)}
            for one in over:
                one.is_over = True
            self._work.notify_all()
            self._tick.notify_all()
        for one in over:
            if not one.cancel() and not one.done():
                one.set_exception(
                    TransientError(
                        one.obj.url, "found the fetcher closed, needed it open", "closed"
                    )
                )
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._threads.clear()

    def __enter__(self) -> Self:
        return self if self._process != -1 else self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self, obj: StoredObject, start: int, stop: int, due: float, check: Check | None = None
    ) -> Future[Content]:
        """Asks for the bytes [start, stop) of `obj`; never blocks.

        The future's `cancel` succeeds until the range is first asked for. It raises MissingError,
        ChangedError or DeniedError at once; another StoreError once attempts or patience are used
        up; CorruptDataError where `check` refused all arrivals.

        Args:
            due: when it is needed, by the fetcher's clock (time.monotonic).
            check: whether bytes are right, e.g. by their digest; called in a thread of the
                fetcher.

        Raises:
            RuntimeError: the fetcher is closed, or this is a fork of the process that opened it.
        """
        if self._process != os.getpid():
            state = "closed" if self._process == -1 else f"open in process {self._process} only"
            raise RuntimeError(
                f"the fetcher: found it {state}, needed it open in process {os.getpid()}; open "
                "one in the process that fetches"
            )
        wanted = Range(obj, start, stop, due, check)
        with self._lock:
            self._queue.push(wanted)
            self._wake()
        return wanted

    def hurry(self, future: Future[Content], due: float) -> None:
        """Moves what `submit` answered forward to `due`, if it was due later; never blocks."""
        assert isinstance(future, Range), "only what submit answered can be hurried"
        with self._lock:
            self._queue.hurry(future, due)

    @property
    def outage(self) -> Outage | None:
        """Since when nothing succeeds, and why; None while requests do."""
        return self._health.outage

    @property
    def counts(self) -> FetchCounts:
        """What was done so far. Takes no lock, so that numbers may be a moment apart."""
        tally = self._tally
        return FetchCounts(
            gets=self._hedging.requests,
            bytes=tally["bytes"],
            delivered=tally["delivered"],
            delivered_bytes=tally["delivered_bytes"],
            hedges=self._hedging.hedges,
            hedges_won=self._hedging.won,
            retries=dict(self._retries),
            throttles=tally["throttles"],
            in_flight=len(self._requests),
            waiting=len(self._queue) + len(self._later),
            limit=self._limit.value,
            request_seconds=self._request_seconds.quantiles,
            delivery_seconds=self._delivery_seconds.quantiles,
        )

    # What follows up to `_fetch` runs under the lock.

    def _wake(self) -> None:
        """Wakes one worker; without an idle one, the watching thread, which starts more."""
        if len(self._requests) < self._allowed():
            (self._work if self._idle else self._tick).notify()

    def _allowed(self) -> int:
        return self._limit.value if self._health.outage is None else self._config.least_in_flight

    def _next(self) -> _Request | None:
        """The next request to make, once there is one; None when the fetcher closes."""
        while self._process != -1:
            wanted, is_hedge = None, bool(self._again)
            if self._again:
                wanted = self._again.popleft()
            elif len(self._requests) < self._allowed():
                wanted = self._queue.pop()
            if wanted is None:
                self._idle += 1
                self._work.wait()
                self._idle -= 1
            elif not wanted.is_over:
                return self._begin(wanted, is_hedge)
            else:
                self._hedging.hedges -= is_hedge  # the first request came back meanwhile
        return None

    def _begin(self, wanted: Range, is_hedge: bool) -> _Request:
        request = _Request(wanted, self._clock(), is_hedge)
        if wanted.began is None:
            wanted.began = request.began
        wanted.requests += 1
        self._hedging.requests += 1
        self._requests.add(request)
        if self._sleeps:
            self._tick.notify()
        return request

    def _watch(self) -> None:
        """Puts retries back, asks late ones again, and starts threads, until the close."""
        with self._lock:
            while self._process != -1:
                now = self._clock()
                while self._later and self._later[0][0] <= now:
                    self._queue.push(heapq.heappop(self._later)[2])
                    self._work.notify()
                self._hedge(now)
                self._start_workers()
                wait = _TICK_SECONDS if self._requests else _IDLE_SECONDS
                if self._later:
                    wait = min(wait, max(0.0, self._later[0][0] - now))
                self._sleeps = not self._requests
                self._tick.wait(wait)
                self._sleeps = False

    def _hedge(self, now: float) -> None:
        if self._health.outage is not None:
            return
        for request in self._requests:
            one = request.wanted
            if one.is_hedged or one.is_over:
                continue
            if self._hedging.is_late(now, one.stop - one.start, request.began, one.due):
                one.is_hedged = True
                self._hedging.hedges += 1
                self._again.append(one)
                self._work.notify()

    def _start_workers(self) -> None:
        wanted = min(len(self._queue), self._allowed() - len(self._requests)) + len(self._again)
        self._work.notify(max(0, min(wanted, self._idle)))
        room = self._config.most_in_flight + _SPARE_THREADS + 1 - len(self._threads)
        for _ in range(min(wanted - self._idle, room)):
            self._start_worker()

    def _start_worker(self) -> None:
        thread = Thread(target=self._run, name="keepstep-fetch", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                request = self._next()
            if request is None:
                return
            self._fetch(request)

    def _fetch(self, request: _Request) -> None:
        """Makes one request and sees to what comes of it; takes the lock itself."""
        one = request.wanted
        try:
            content = self._store.read(one.obj, one.start, one.stop)
            is_right = one.check is None or one.check(content)
            result: Content | BaseException = content if is_right else _MismatchError()
        except BaseException as error:
            result = error
        with self._lock:
            final = self._settle(request, result, self._clock())
        # The future calls whom it was told to call: not under the lock.
        if isinstance(final, BaseException):
            one.set_exception(final)
        elif final is not None:
            one.set_result(final)

    # All that follows runs under the lock.

    def _settle(
        self, request: _Request, result: Content | BaseException, now: float
    ) -> Content | BaseException | None:
        """What the future is given; None: nothing yet, or it was given something already."""
        one = request.wanted
        self._requests.discard(request)
        one.requests -= 1
        final: Content | BaseException | None = result
        if isinstance(result, TransientError):
            final = self._failed(request, result, now)
        elif isinstance(result, _MismatchError):
            self._arrived(request, now)
            final = self._mismatched(one)
        elif not isinstance(result, BaseException):
            self._arrived(request, now)
        if one.is_over or final is None:
            return None
        one.is_over = True
        if not isinstance(final, BaseException):
            self._tally["delivered"] += 1
            self._tally["delivered_bytes"] += len(final)
            self._hedging.won += request.is_hedge
            self._delivery_seconds.add(now - (one.began or now))
        return final

    def _arrived(self, request: _Request, now: float) -> None:
        """Bytes came in, right or not: the store answers."""
        size = request.wanted.stop - request.wanted.start
        seconds = now - request.began
        self._tally["bytes"] += size
        self._request_seconds.add(seconds)
        self._hedging.succeeded(size, seconds)
        before = self._limit.value
        self._limit.succeeded(now, size, len(self._requests) + 1)
        if self._health.succeeded():
            for _, _, one in self._later:
                self._queue.push(one)
            self._later.clear()
            self._work.notify_all()
        elif self._limit.value > before:
            self._wake()

    def _mismatched(self, one: Range) -> CorruptDataError | None:
        one.mismatches += 1
        if one.mismatches >= self._config.check_attempts:
            return CorruptDataError(
                one.obj.url,
                f"wrong bytes in [{one.start}, {one.stop}) {one.mismatches} times",
                "bytes of the digest that was recorded",
                "restore the object from a copy",
            )
        if not one.requests and not one.is_over:
            self._retries["digest"] += 1
            one.is_hedged = False
            self._queue.push(one)
        return None

    def _failed(self, request: _Request, error: TransientError, now: float) -> StoreError | None:
        """The error, where the range is given up; else it is put off, or left to its other
        request."""
        one, config = request.wanted, self._config
        is_throttle = isinstance(error, ThrottledError)
        if is_throttle:
            self._tally["throttles"] += 1
            self._limit.throttled(now, request.began)
            self._hedging.throttled(now)
        self._health.failed(now, str(error))
        if one.requests or one.is_over:
            return None
        one.failed = now if one.failed is None else one.failed
        if not is_throttle and self._health.outage is None:
            one.failures += 1
        is_spent = 0 < config.outage_seconds <= now - one.failed
        if is_spent or one.failures >= config.attempts:
            return error
        self._retries[error.cause] += 1
        one.is_hedged = False
        one.wait = next_wait(
            one.wait,
            least=config.backoff_seconds,
            most=config.backoff_most_seconds,
            uniform=self._uniform,
        )
        heapq.heappush(self._later, (now + one.wait, next(self._number), one))
        self._tick.notify()
        return None


class _MismatchError(Exception):
    """Bytes came in that are not those of the digest."""
