"""kill -9 at any call and at any time: whole entries or none, budgets held, nothing to clean up.

KEEPSTEP_KILLS sets how many processes the long test kills.
"""

import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from support.extents import (
    COST,
    OBJECT,
    Configure,
    content,
    files,
    fill,
    held,
    soonest_first,
    used_bytes,
)
from support.forks import fork, wait_for

from keepstep.data.cache import Cache, CacheConfig, ExtentName

KILLS = int(os.environ.get("KEEPSTEP_KILLS", "20"))
CHANGES = ("open", "write", "pwrite", "rename", "unlink", "mkdir", "chmod", "fchmod", "utime")
"""Calls that change a file system: a death before any other call leaves what these have left."""


def die_at(call: int) -> None:
    """Kills this process at its `call`-th change from now on: before it, a write half done too."""
    count = itertools.count()
    write = os.write

    def wrap(function: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object, **keywords: object) -> object:
            changes = function is not open_file or int(arguments[1]) & os.O_CREAT  # type: ignore[call-overload]
            if changes and next(count) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            if function is write and next(count) == call:
                write(arguments[0], memoryview(arguments[1])[:1000])  # type: ignore[arg-type]
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)

        return counted

    open_file = os.open
    for name in CHANGES:
        setattr(os, name, wrap(getattr(os, name)))


def killed_at_every_call(action: Callable[[], object], after: Callable[[], object]) -> int:
    """Runs `action` in children that die at their 0th, 1st, ... change, until one does not."""
    for call in itertools.count():

        def child(call: int = call) -> None:
            die_at(call)
            action()

        status = wait_for(fork(child))
        assert status in (0, -signal.SIGKILL)
        after()
        if status == 0:
            return call
    raise AssertionError


def test_a_put_killed_at_any_call_leaves_a_whole_entry_or_none(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure(3, 2)
    seen: set[tuple[int, ...]] = set()
    child = Cache.open(config)

    def prepare() -> None:
        cache = Cache.open(config)
        cache.know([OBJECT], soonest_first)
        assert all(fill(cache, [9, 8, 7, 6, 5]))
        cache.close()

    def put() -> None:
        child.know([OBJECT], soonest_first)
        assert fill(child, [1]) == [True]  # memory's farthest moves down, disk's goes

    def check() -> None:
        cache = Cache.open(config)
        found = held(cache, 10)
        assert used_bytes(tmp_path / "disk") <= 3 * COST
        assert used_bytes(tmp_path / "ram") <= 2 * COST
        assert len(files(tmp_path)) >= len(found) >= 4
        assert not list(tmp_path.glob("**/temporary/*"))
        assert all(tier.counters.corrupt == 0 for tier in cache._tiers.values())
        if 1 in found:
            assert cache.lease(OBJECT, 1) is None
        else:
            assert cache.lease(OBJECT, 1) is not None
        seen.add(tuple(found))
        cache.close()
        for path in files(tmp_path):
            path.unlink()
        prepare()

    prepare()
    assert killed_at_every_call(put, check) > 20
    assert {1 in found for found in seen} == {True, False}
    child.close()


def test_an_open_killed_at_any_call_hinders_no_later_one(
    configure: Configure, tmp_path: Path
) -> None:
    folders = (tmp_path / str(number) for number in itertools.count())
    config = configure(2, folder=str(next(folders)))

    def check() -> None:
        cache = Cache.open(config)
        assert fill(cache, [0]) == [True]
        assert held(cache, 1) == [0]
        cache.close()
        config.folder = str(next(folders))

    assert killed_at_every_call(lambda: Cache.open(config), check) > 10


def test_the_files_of_a_living_writer_are_left_alone(configure: Configure, tmp_path: Path) -> None:
    writer = Cache.open(configure(1))
    account = writer._tiers["disk"].account
    with account.guard():
        temporary, fd = account.reserve(ExtentName(OBJECT, 5), COST)
    os.close(fd)
    other = Cache.open(configure(1))
    assert [path.name for path in files(tmp_path)] == [temporary]
    assert fill(other, [0]) == [False]  # for the room is promised
    writer.close()
    third = Cache.open(configure(1))
    assert files(tmp_path) == []
    assert fill(third, [0]) == [True]
    other.close()
    third.close()


def hammer(config: CacheConfig, seed: int, wrong: Path) -> None:
    """Reads and fetches extents at random until it is killed; says so where a read is wrong."""
    rng = random.Random(seed)
    cache = Cache.open(config)
    cache.know([OBJECT], soonest_first)
    while os.getppid() != 1:
        number = rng.randrange(40)
        view = cache.get(OBJECT, number)
        if view is None:
            lease = cache.lease(OBJECT, number)
            if lease is None:
                view = cache.wait(OBJECT, number, time.monotonic() + 1.0)
            else:
                with lease:
                    cache.put(OBJECT, number, content(OBJECT, number))
        if view is not None and view != content(OBJECT, number):
            wrong.write_text(f"{number}")


def test_processes_killed_at_random_leave_right_bytes_within_the_budget(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure(6, 3, open_maps=2)
    rng = random.Random(0)
    seeds = itertools.count()
    judge = Cache.open(config)

    def start() -> int:
        return fork(lambda: hammer(config, next(seeds), tmp_path / "wrong"))

    running = [start() for _ in range(4)]
    try:
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.005, 0.06))
            for word, room in (("ram", 3), ("disk", 6)):
                with judge._tiers[word].account.guard():
                    done = [path for path in files(tmp_path / word) if "extents" in path.parts]
                    assert len(done) <= room, (word, len(done))
            victim = running.pop(rng.randrange(len(running)))
            os.kill(victim, signal.SIGKILL)
            assert wait_for(victim) == -signal.SIGKILL
            next(seeds)
            running.append(start())
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            wait_for(pid)
    judge.close()
    assert not (tmp_path / "wrong").exists()
    cache = Cache.open(config)
    assert not list(tmp_path.glob("**/temporary/*"))
    assert used_bytes(tmp_path / "disk") <= 6 * COST
    assert used_bytes(tmp_path / "ram") <= 3 * COST
    found = held(cache, 40)
    assert found
    assert all(tier.counters.corrupt == 0 for tier in cache._tiers.values())
    missing = next(number for number in range(40) if number not in found)
    assert cache.lease(OBJECT, missing) is not None
    cache.close()
