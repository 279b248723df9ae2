"""What an exception says of its cause, and which errors would come again."""

import os
import signal
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from support.world import run_world

from keepstep.checkpoint import CheckpointError, DiskFullError, MismatchError, VersionError
from keepstep.data import DataError
from keepstep.trainer import ConfigError, StoppedError
from keepstep.trainer.errors import CorruptPeerError, CorruptRankError, SlowRankError
from keepstep.trainer.recovery.chaos import PlannedFault
from keepstep.trainer.recovery.verdict import (
    Cause,
    Ended,
    classify,
    is_bug,
    is_out_of_memory,
)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (ConfigError, Cause.setting),
        (DataError, Cause.setting),
        (MismatchError, Cause.setting),
        (VersionError, Cause.setting),
        (DiskFullError, Cause.setting),
        (StoppedError, Cause.stopped),
        (CorruptRankError, Cause.corrupt),
        (SlowRankError, Cause.slow),
        (CorruptPeerError, Cause.peer),
        (CheckpointError, Cause.error),
        (PlannedFault, Cause.error),
        (ValueError, Cause.error),
        (MemoryError, Cause.error),
        (KeyboardInterrupt, Cause.error),
        (dist.DistNetworkError, Cause.peer),
        (dist.DistStoreError, Cause.peer),
    ],
)
def test_the_class_of_an_error_is_its_cause(kind: type[BaseException], cause: Cause) -> None:
    assert classify(kind.__new__(kind, "some words")) == cause


@pytest.mark.parametrize(
    "words",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer",
        "Connection reset by peer",
        "Broken pipe",
        "Timed out waiting 1800000ms for send operation to complete",
        "wait timeout after 300000ms, keys: /generation-1/0",
    ],
)
def test_words_of_gloo_and_of_the_store_tell_of_a_lost_peer(words: str) -> None:
    assert classify(RuntimeError(words)) == Cause.peer


def test_the_real_error_of_a_peer_that_was_killed_is_a_lost_peer() -> None:
    def body(rank: int) -> str:
        dist.all_reduce(torch.ones(1))
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            for _ in range(100):
                dist.all_reduce(torch.ones(1))
        except RuntimeError as error:
            os._exit(0 if classify(error) == Cause.peer else 9)
        return "nobody noticed"

    assert run_world(2, body, expect_dead=(0, 1)) == [None, None]


def test_the_real_error_of_a_peer_that_is_late_is_a_lost_peer() -> None:
    def body(rank: int) -> str:
        group = dist.new_group(timeout=timedelta(seconds=0.3))
        if rank == 1:
            dist.barrier()
            return "late"
        try:
            dist.all_reduce(torch.ones(1), group=group)
        except RuntimeError as error:
            dist.barrier()
            return str(classify(error))
        return "nobody noticed"

    assert run_world(2, body) == ["peer", "late"]


def ended(
    *, cause: Cause = Cause.error, generation: int = 1, step: int = 5, reason: str = "E: words"
) -> Ended:
    return Ended(cause=cause, generation=generation, step=step, has_stepped=False, reason=reason)


def test_an_error_before_the_first_step_of_the_first_life_is_a_bug() -> None:
    assert is_bug(ended(generation=0), [])
    assert not is_bug(ended(generation=1), [])


def test_only_an_error_is_a_bug() -> None:
    for cause in set(Cause) - {Cause.error}:
        last = ended(cause=cause)
        assert not is_bug(ended(cause=cause, generation=0), [last])
        assert not is_bug(last, [last])


def test_the_same_error_at_the_same_step_again_is_a_bug() -> None:
    assert is_bug(ended(generation=2), [ended()])
    assert not is_bug(ended(generation=2, step=6), [ended()])
    assert not is_bug(ended(generation=2, reason="E: other"), [ended()])


def test_a_kill_between_two_equal_errors_does_not_excuse_them() -> None:
    assert is_bug(ended(generation=3), [ended(), ended(cause=Cause.killed, generation=2)])


def test_an_error_that_has_moved_on_is_not_the_same() -> None:
    assert not is_bug(ended(generation=3), [ended(), ended(generation=2, step=9)])


def test_an_error_that_ended_all_ranks_is_known_by_each_of_them() -> None:
    before = [ended(reason="E: of rank 0"), ended(reason="E: of rank 1")]
    assert is_bug(ended(generation=2, reason="E: of rank 0"), before)
    assert is_bug(ended(generation=2, reason="E: of rank 1"), before)


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory is what the user says"), False),
    ],
)
def test_where_memory_has_run_out_is_known(error: BaseException, is_it: bool) -> None:
    assert is_out_of_memory(error) is is_it
