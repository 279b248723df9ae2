"""Worlds of n gloo ranks, forked from the warm test process; no Python is started again."""

import faulthandler
import gc
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


class RankFailedError(AssertionError):
    """A rank of a forked world raised, died or hung; the message holds its traceback or stacks."""


def run_world(
    size: int,
    body: Callable[..., Any],
    *arguments: Any,
    timeout_seconds: float = 120.0,
    expect_dead: tuple[int, ...] = (),
    join: bool = True,
) -> list[Any]:
    """Calls `body(rank, *arguments)` on `size` forked gloo ranks and returns what each returned.

    Closures and any arguments work, since ranks are forks; results are pickled back. Ranks named
    in `expect_dead` may be killed by their body: their result is None. With `join=False` the
    bodies make the default process group themselves, or none.

    Raises:
        RankFailedError: with the first failed rank's traceback, or every rank's stacks after
            `timeout_seconds`.
    """
    others = [thread.name for thread in threading.enumerate()][1:]
    assert not others, f"run_world forks, so no other thread may run here: {others}"
    with tempfile.TemporaryDirectory(prefix="keepstep-world-") as folder:
        store = Path(folder) / "store" if join else None
        ranks = [
            _fork(rank, size, lambda rank=rank: body(rank, *arguments), Path(folder), store)
            for rank in range(size)
        ]
        try:
            _wait(ranks, time.monotonic() + timeout_seconds, Path(folder))
        finally:
            for pid in ranks:
                _kill(pid)
        return [_result(rank, Path(folder), rank in expect_dead) for rank in range(size)]


def _fork(rank: int, size: int, body: Callable[[], Any], folder: Path, store: Path | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    gc.freeze()  # else each collection in a rank looks at, and so copies, all that was imported
    try:
        stacks = open(folder / f"stacks-{rank}", "w")  # noqa: SIM115 - lives as long as the rank
        faulthandler.register(signal.SIGUSR1, file=stacks)
        torch.set_num_threads(1)
        if store is not None:
            dist.init_process_group(
                "gloo",
                store=dist.FileStore(str(store), size),
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=60),
            )
            dist.barrier()  # a body may end before another rank is connected to this one
        value = pickle.dumps(body())
        (folder / f"result-{rank}").write_bytes(value)
        if dist.is_initialized():
            dist.destroy_process_group()
        status = 0
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
    finally:
        os._exit(status)


def _wait(ranks: list[int], deadline: float, folder: Path) -> None:
    """Waits for all ranks; once one has failed the others get three seconds more."""
    waiting = dict(enumerate(ranks))
    while waiting:
        for rank, pid in list(waiting.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del waiting[rank]
                if status:
                    deadline = min(deadline, time.monotonic() + 3.0)
        if waiting and time.monotonic() > deadline:
            for rank, pid in waiting.items():
                os.kill(pid, signal.SIGUSR1)
                time.sleep(0.2)
                if not (folder / f"error-{rank}").exists():
                    stacks = (folder / f"stacks-{rank}").read_text()
                    (folder / f"late-{rank}").write_text(
                        f"still running at the deadline:\n{stacks}"
                    )
            return
        time.sleep(0.002)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def _result(rank: int, folder: Path, may_be_dead: bool) -> Any:
    path = folder / f"result-{rank}"
    if path.exists():
        return pickle.loads(path.read_bytes())
    errors = sorted(folder.glob("error-*"), key=lambda found: found.stat().st_mtime_ns)
    if may_be_dead and not (folder / f"error-{rank}").exists():
        return None
    reports = [f"{found.name}:\n{found.read_text()}" for found in errors[:1]]
    reports += [f"{found.name}:\n{found.read_text()}" for found in sorted(folder.glob("late-*"))]
    raise RankFailedError("\n".join(reports) or f"rank {rank} died without a word")
