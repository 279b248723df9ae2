"""One fetch a node: leases between threads, caches and processes, and what a death leaves."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from support.extents import OBJECT, Configure, OpenCache, content, fill
from support.forks import fork, wait_for

from keepstep.data.cache import Cache


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def test_one_holder_at_a_time_in_one_cache_and_in_two(open_cache: OpenCache) -> None:
    first, second = open_cache(), open_cache()
    lease = first.lease(OBJECT, 0)
    assert lease is not None
    assert first.lease(OBJECT, 0) is None
    assert second.lease(OBJECT, 0) is None
    other = second.lease(OBJECT, 1)
    assert other is not None
    lease.release()
    lease.release()
    with pytest.raises(ZeroDivisionError), second.lease(OBJECT, 0) or pytest.fail("not free"):
        _ = 1 // 0
    assert first.lease(OBJECT, 0) is not None


def test_no_lease_is_given_for_what_is_there(open_cache: OpenCache) -> None:
    first, second = open_cache(), open_cache()
    fill(first, [0])
    assert second.lease(OBJECT, 0) is None
    assert second.wait(OBJECT, 0, soon()) == content(OBJECT, 0)
    assert second.misses == 0


def test_who_waits_gets_what_the_holder_publishes(open_cache: OpenCache) -> None:
    first, second = open_cache(), open_cache()
    lease = first.lease(OBJECT, 0)
    assert lease is not None

    def fetch() -> None:
        with lease:
            time.sleep(0.05)
            fill(first, [0])

    thread = threading.Thread(target=fetch)
    thread.start()
    assert second.wait(OBJECT, 0, soon()) == content(OBJECT, 0)
    thread.join()


def test_waiting_ends_when_the_lease_lapses_or_the_deadline_passes(open_cache: OpenCache) -> None:
    first, second = open_cache(), open_cache()
    lease = first.lease(OBJECT, 0)
    assert lease is not None
    assert second.wait(OBJECT, 0, soon(0.01)) is None
    assert second.lease(OBJECT, 0) is None
    lease.release()
    assert second.wait(OBJECT, 0, soon(3600)) is None
    assert second.lease(OBJECT, 0) is not None


def test_threads_and_caches_fetch_each_extent_once(open_cache: OpenCache) -> None:
    caches = [open_cache(20), open_cache(20)]
    fetched: list[int] = []

    def read(cache: Cache, number: int) -> memoryview:
        while True:
            view = cache.get(OBJECT, number)
            if view is None:
                with_lease = cache.lease(OBJECT, number)
                if with_lease is None:
                    view = cache.wait(OBJECT, number, soon())
                else:
                    with with_lease:
                        fetched.append(number)
                        time.sleep(0.001)
                        cache.put(OBJECT, number, content(OBJECT, number))
            if view is not None:
                return view

    wrong: list[int] = []

    def work(cache: Cache) -> None:
        wrong.extend(n for n in range(12) if read(cache, n) != content(OBJECT, n))

    threads = [threading.Thread(target=work, args=(caches[n % 2],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sorted(fetched) == list(range(12))


def test_a_killed_holder_leaves_no_lease(configure: Configure, open_cache: OpenCache) -> None:
    cache = open_cache()

    def hold() -> None:
        assert Cache.open(configure()).lease(OBJECT, 0) is not None
        os.kill(os.getpid(), signal.SIGKILL)

    assert wait_for(fork(hold)) == -signal.SIGKILL
    assert cache.lease(OBJECT, 0) is not None


def test_a_forked_child_neither_has_nor_keeps_its_parents_leases(
    configure: Configure, open_cache: OpenCache, tmp_path: Path
) -> None:
    other = open_cache()

    def parent() -> None:
        cache = Cache.open(configure())
        lease = cache.lease(OBJECT, 0)
        assert lease is not None

        def child() -> None:
            lease.release()  # is the parent's: nothing happens
            assert cache.lease(OBJECT, 0) is None
            assert cache.lease(OBJECT, 1) is not None
            (tmp_path / "ready").write_text("")
            time.sleep(30)

        pid = fork(child)
        until = soon()
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < until
            time.sleep(0.002)
        (tmp_path / "pid").write_text(str(pid))
        assert cache.lease(OBJECT, 1) is None
        os.kill(os.getpid(), signal.SIGKILL)

    assert wait_for(fork(parent)) == -signal.SIGKILL
    child = int((tmp_path / "pid").read_text())
    try:
        assert other.lease(OBJECT, 0) is not None  # though the child lives
        assert other.lease(OBJECT, 1) is None
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_forked_child_reads_and_writes_as_a_process_of_its_own(
    open_cache: OpenCache,
) -> None:
    cache = open_cache()
    fill(cache, [0])

    def child() -> None:
        assert cache.get(OBJECT, 0) == content(OBJECT, 0)
        assert fill(cache, [1]) == [True]

    assert wait_for(fork(child)) == 0
    assert cache.get(OBJECT, 1) == content(OBJECT, 1)
    assert fill(cache, [2]) == [True]
