"""A rank that dies after any call to the store, or both at any change of the disk: a whole step is
found, never older than the last one reported, and the rest can be collected."""

import itertools
import os
import threading
import time
from datetime import timedelta

import pytest
import torch
from support.forks import fork, wait_for

from keepstep.checkpoint import Checkpoints, LocalStore, committed, verify
from keepstep.checkpoint.claims import Fence, claim
from keepstep.checkpoint.listing import collect_debris
from keepstep.checkpoint.stores import open_place

CHANGES = ("open", "write", "fsync", "link", "unlink", "mkdir", "rmdir")


class Killed(BaseException):
    """The end of a rank: nothing that it would still do is done."""


class Mortal:
    """A place whose rank dies at its call number `last`, and before each piece that it writes."""

    def __init__(self, inner, last, on_death):
        self.inner, self.last, self.on_death, self.calls = inner, last, on_death, 0

    def _live(self):
        self.calls += 1
        if self.calls > self.last:
            self.on_death()
            raise Killed

    def address(self, name=""):
        return self.inner.address(name)

    def _pieces(self, pieces):
        for piece in pieces:
            self._live()
            yield piece

    def create(self, name, pieces):
        self._live()
        self.inner.create(name, self._pieces(pieces))
        self._live()

    def remove(self, folder, *, first):
        self._live()
        self.inner.remove(folder, first=first)
        self._live()

    def __getattr__(self, name):
        self._live()
        return getattr(self.inner, name)


class Threads:
    """Exchanges of ranks that are threads of this process."""

    def __init__(self, size):
        self.size, self.barrier = size, threading.Barrier(size)
        self.slots = [b""] * size

    def of(self, rank):
        outer = self

        class One:
            size = outer.size

            def gather_bytes(self, payload):
                outer.slots[rank] = payload
                outer.barrier.wait(20)
                found = list(outer.slots)
                outer.barrier.wait(20)
                return found

            def all_agree(self, ok):
                return all(one == b"1" for one in self.gather_bytes(b"01"[ok : ok + 1]))

        One.rank = rank
        return One()


def save(kit, places, step, mine, exchange):
    """Saves on as many ranks as there are places; the steps that ranks reported."""
    reported, errors = [], []

    def body(rank):
        fence = Fence(claim=mine if rank == 0 else None)
        checkpoints = Checkpoints(places[rank], exchange.of(rank), keep=1, fence=fence)
        try:
            reported.append(kit.save(checkpoints, kit.full_state(step), step).step)
        except (Killed, threading.BrokenBarrierError):
            exchange.barrier.abort()
        except Exception as error:
            errors.append(repr(error))

    ranks = [threading.Thread(target=body, args=(rank,)) for rank in range(len(places))]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
    assert not errors
    return reported


def check(kit, place, reported):
    """The step that is found whole; the debris is collected and the next save works."""
    newest = committed(place)[0]
    assert verify(place, newest.folder) == []
    assert newest.step >= max(reported)
    collect_debris(place, older_than=timedelta(hours=1), now=time.time() + 7200)
    folders = {name.partition("/")[0] for name in place.list()}
    assert folders == {"claims", *(found.folder for found in committed(place))}
    assert save(kit, [place], 3, claim(place, "mine"), Threads(1)) == [3]
    assert [found.step for found in committed(place)] == [3]
    return newest.step


@pytest.mark.parametrize(("size", "dying"), [(1, 0), (2, 0), (2, 1)])
@pytest.mark.parametrize("kind", ["local", "memory"])
def test_death_of_a_rank_after_every_call_to_the_store(kit, tmp_path, kind, size, dying):
    steps = []
    for last in itertools.count():
        url = f"memory://{tmp_path.name}/{last}" if kind == "memory" else str(tmp_path / str(last))
        place = open_place(url)
        with claim(place, "mine") as mine:
            assert save(kit, [place], 1, mine, Threads(1)) == [1]
            exchange = Threads(size)
            mortal = Mortal(place, last, exchange.barrier.abort)
            places = [mortal if rank == dying else place for rank in range(size)]
            reported = save(kit, places, 2, mine, exchange)
        steps.append(check(kit, place, [1, *reported]))
        if mortal.calls <= last:
            break
    assert len(reported) == size
    assert len(steps) > 3
    assert steps == sorted(steps)
    assert {steps[0], steps[-1]} == {1, 2}


def trip(patch, last):
    """Ends the process at change number `last` of the file system; a write is torn first."""
    count = itertools.count(1)

    def wrap(call):
        def counted(*arguments, **named):
            if next(count) > last:
                if call.__name__ == "write":
                    call(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os._exit(9)
            return call(*arguments, **named)

        return counted

    for name in CHANGES:
        patch.setattr(os, name, wrap(getattr(os, name)))


@pytest.mark.slow(but=["2"])
@pytest.mark.parametrize("size", [1, 2])
def test_death_of_a_node_at_every_change_of_the_disk(kit, tmp_path, size):
    steps, stuck = [], 0
    last = 0
    while True:
        place = LocalStore(tmp_path / f"{last}-{stuck}")
        with claim(place, "mine") as mine:
            assert save(kit, [place], 1, mine, Threads(1)) == [1]

            def body(place=place, last=last, mine=mine):
                # torch makes its pool anew in the child; two threads at once may find none.
                torch.set_num_threads(1)
                with pytest.MonkeyPatch.context() as patch:
                    trip(patch, last)
                    reported = save(kit, [place] * size, 2, mine, Threads(size))
                assert reported == [2] * size

            ended = wait_for(fork(body), 90)
        if ended == 1 and stuck < 2:
            # A thread of the tests held a lock when this child was forked, and its ranks never met.
            stuck += 1
            continue
        steps.append(check(kit, place, [2 if ended == 0 else 1]))
        if ended == 0:
            break
        assert ended == 9
        last += 1
    assert len(steps) > 20
    assert {steps[0], steps[-1]} == {1, 2}
