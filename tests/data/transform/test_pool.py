"""Processes of a pool change nothing but where a transform runs; they die with their parent."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.forks import fork, wait_for
from support.records import MemoryRecords

from keepstep.data import CorruptDataError, DataError
from keepstep.data.errors import TransformError
from keepstep.data.sources import Record
from keepstep.data.transform import Samples, TransformPool

RECORDS = MemoryRecords(200, lambda n: {"n": n, "x": np.arange(40) + n, "name": f"r{n}"})
ALL = np.arange(200)


def augment(record: Record, rng: np.random.Generator) -> Record:
    return {
        "n": record["n"],
        "x": record["x"][:: record["n"] % 2 + 1][:20] * 2,
        "drawn": torch.from_numpy(rng.random(3)).bfloat16(),
        "length": len(record["name"]),
        "pid": os.getpid(),
    }


@contextmanager
def pool(transform: Callable[..., Any] = augment, workers: int = 2, **settings: Any) -> Iterator[
    TransformPool
]:  # fmt: skip
    with TransformPool(transform, workers, **settings) as opened:
        yield opened
    assert not [pid for pid in opened.pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_samples_equal_those_made_in_this_process() -> None:
    here = Samples(RECORDS, augment, seed=2).read_at(ALL, ALL % 3)
    with pool() as workers:
        there = Samples(RECORDS, workers, seed=2).read_at(ALL, ALL % 3)
        pids = set(there.pop("pid").tolist())
        # One may do it all, where the other is slow to begin.
        assert pids <= set(workers.pids)
        assert os.getpid() not in pids
    here.pop("pid")
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_workers_killed_at_any_time_are_replaced_and_no_record_is_lost() -> None:
    with pool(slow) as workers:

        def kill() -> None:
            for number in (0, 1, 0, 1):  # three times over would be the record's own fault
                time.sleep(0.06)
                while len(workers.pids) <= number:  # a slow machine has not begun yet
                    time.sleep(0.01)
                with contextlib.suppress(ProcessLookupError, IndexError):
                    os.kill(workers.pids[number], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        rows = Samples(RECORDS, workers).read(ALL)
        killer.join()
        assert rows["n"].tolist() == ALL.tolist()
        assert Samples(RECORDS, workers).read(ALL[:9])["n"].tolist() == list(range(9))
        assert workers.replaced >= 1  # one that was killed twice at once is replaced once


def test_a_record_that_killed_its_worker_is_done_again_with_those_behind_it(tmp_path: Path) -> None:
    def dies_once(record: Record, rng: np.random.Generator) -> Record:
        mark = tmp_path / str(record["n"])
        if record["n"] % 20 == 7 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"n": record["n"], "drawn": rng.random()}

    with pool(dies_once) as workers:
        rows = Samples(RECORDS, workers).read(ALL[:60])
        assert workers.replaced == 3
    assert rows["n"].tolist() == list(range(60))
    assert torch.equal(rows["drawn"], Samples(RECORDS, dies_once).read(ALL[:60])["drawn"])


def slow(record: Record, rng: np.random.Generator) -> Record:
    time.sleep(0.002)
    return {"n": record["n"]}


def test_a_worker_killed_between_readings_is_replaced() -> None:
    with pool(slow, 1) as workers:
        samples = Samples(RECORDS, workers)
        samples.read(ALL[:2])
        old = workers.pids[0]
        os.kill(old, signal.SIGKILL)
        assert samples.read(ALL[5:8])["n"].tolist() == [5, 6, 7]
        assert workers.pids != [old]


def fails(record: Record, rng: np.random.Generator) -> Record:
    if record["n"] == 7:
        time.sleep(0.05)
        raise KeyError("label")
    if record["n"] == 8:
        raise ValueError("later, but sooner done")
    if record["n"] == 9:
        raise CorruptDataError("object-0", "no image", "a JPEG", "restore it")
    if record["n"] == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    if record["n"] == 11:
        time.sleep(60)
    if record["n"] == 12:
        return {"x": {1, 2}}
    if record["n"] == 13:
        return {"x": np.zeros(1 << 17, np.uint8)}
    return {"n": record["n"]}


def test_what_goes_wrong_in_a_worker_is_said_here_and_the_pool_goes_on() -> None:
    with pool(fails, slot_bytes=1 << 16, record_seconds=0.4) as workers:
        samples = Samples(RECORDS, workers)
        said: dict[int, tuple[type[Exception], str]] = {
            7: (TransformError, r"record 7: found an error(.*\n)*.*raise KeyError(.*\n)*.*'label'"),
            9: (CorruptDataError, "^object-0: found no image, needed a JPEG; restore it$"),
            10: (TransformError, r"record 10: .*\n.*ended by signal SIGKILL, 3 times in a row"),
            11: (TransformError, r"record 11: .*\n.*no sample after 0.4 s"),
            12: (DataError, r"the sample of record 12\['x'\]: found builtins.set, needed numbers"),
            13: (DataError, r"found a sample of record 13 that takes 131\d+ bytes, .*s=262144"),
        }
        for record, (kind, words) in said.items():
            with pytest.raises(kind, match=words):
                samples.read(np.array([1, record, 2]))
        assert samples.read(np.array([3, 4]))["n"].tolist() == [3, 4]


def test_of_several_errors_the_first_records_is_raised() -> None:
    with pool(fails) as workers, pytest.raises(TransformError, match="record 7"):
        Samples(RECORDS, workers).read(np.array([1, 7, 8, 2]))


def test_records_that_cannot_be_read_or_cross_leave_the_pool_usable() -> None:
    damaged = MemoryRecords(90, lambda n: {"n": n}, damaged=(50,))
    odd = MemoryRecords(9, lambda n: {"n": n, "odd": {n}})
    large = MemoryRecords(9, lambda n: {"n": n, "large": b"x" * (1 << 16)})
    with pool(slow, slot_bytes=1 << 16) as workers:
        with pytest.raises(CorruptDataError, match="object-5"):
            Samples(damaged, workers).read(np.arange(90))
        with pytest.raises(DataError, match=r"record 3\['odd'\]: found builtins.set"):
            Samples(odd, workers).read(np.array([3]))
        with pytest.raises(DataError, match="found a record of record 3 that takes"):
            Samples(large, workers).read(np.array([3]))
        assert Samples(RECORDS, workers).read(ALL[:9])["n"].tolist() == list(range(9))


@pytest.mark.parametrize("busy", [False, True])
def test_no_process_outlives_a_parent_that_is_killed(tmp_path: Path, busy: bool) -> None:
    def sleep(record: Record, rng: np.random.Generator) -> Record:
        time.sleep(60)
        return {}

    def parent() -> None:
        workers = TransformPool(sleep if busy else augment, 2).open()
        if busy:
            threading.Thread(target=Samples(RECORDS, workers).read, args=(ALL,)).start()
            until(lambda: len(workers.pids) == 2)
        else:
            Samples(RECORDS, workers).read(ALL)
        pids = [*workers.pids, workers._zygote]
        (tmp_path / "draft").write_text(" ".join(map(str, pids)))
        (tmp_path / "draft").rename(tmp_path / "pids")
        time.sleep(60)

    pid = fork(parent)
    assert until((tmp_path / "pids").exists)
    children = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert all(map(is_alive, children))
    os.kill(pid, signal.SIGKILL)
    wait_for(pid)
    assert until(lambda: not any(map(is_alive, children)), seconds=2.0)


def test_a_pool_is_opened_before_threads_and_in_the_process_that_reads() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="client")
    thread.start()
    try:
        with pytest.raises(DataError, match="found the threads client in this process, needed no"):
            TransformPool(augment, 1).open()
    finally:
        release.set()
        thread.join()
    closed = TransformPool(augment, 1)
    with pytest.raises(RuntimeError, match="found it closed, needed it open in this process"):
        Samples(RECORDS, closed).read(ALL[:1])
    with pool() as workers:

        def child() -> None:
            with pytest.raises(RuntimeError, match=f"opened by process {os.getppid()}"):
                Samples(RECORDS, workers).read(ALL[:1])
            workers.close()

        assert wait_for(fork(child)) == 0
        assert len(Samples(RECORDS, workers).read(ALL[:3])["n"]) == 3


def test_without_its_first_process_a_pool_says_so() -> None:
    with pool() as workers:
        Samples(RECORDS, workers).read(ALL[:5])
        os.kill(workers._zygote, signal.SIGKILL)
        with pytest.raises((RuntimeError, BrokenPipeError), match=r"its first process gone|Broken"):
            until(
                lambda: not len(Samples(RECORDS, workers).read(ALL)["n"])
            )  # reads go on until then
        assert until(lambda: not any(map(is_alive, workers.pids)), 2.0)


def test_close_is_safe_before_open_and_twice_and_a_pool_opens_again() -> None:
    workers = TransformPool(augment, 1)
    workers.close()
    for _ in range(2):
        workers.open()
        assert len(Samples(RECORDS, workers).read(ALL[:3])["n"]) == 3
        workers.close()
        workers.close()


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(DataError, match="found workers=0, slot_bytes=16777216 and record_seconds"):
        TransformPool(augment, 0)
