"""Why a worker ended, and whether another try could end otherwise. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.distributed as dist

from ...checkpoint import DiskFullError, MismatchError, VersionError
from ...checkpoint.errors import FencedError
from ...data import DataError
from ..errors import ConfigError, CorruptPeerError, CorruptRankError, SlowRankError, StoppedError

EXIT_FINISHED, EXIT_FAILED, EXIT_WRONG, EXIT_PREEMPTED = 0, 1, 2, 75

# What gloo and the store say when the other side is gone or late; they have no class of their own.
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory", re.I)
_LOST_PEER = re.compile(
    r"gloo/|Connection (closed|reset|refused)|Broken pipe|Timed out waiting|wait timeout", re.I
)


class Cause(StrEnum):
    """What ended a worker."""

    setting = "setting"
    """The configuration or the data is wrong: no other try can help."""
    stopped = "stopped"
    """The run cannot go on, and says in one sentence why."""
    peer = "peer"
    """It lost a peer: a consequence, the cause is on another rank."""
    error = "error"
    """It raised: a bug, or a fault of the machine."""
    corrupt = "corrupt"
    """Its bits changed by themselves: a fault of the machine, and never a bug."""
    slow = "slow"
    """It took much longer than others with the same work: a fault of the machine, never a bug."""
    killed = "killed"
    """A signal ended it."""
    hung = "hung"
    """It gave no sign of life and was killed by its guardian."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How one worker ended."""

    cause: Cause
    generation: int
    step: int
    """Step (counted from 0) that it was in."""
    has_stepped: bool
    """Whether any step was finished in its life."""
    reason: str
    """One line."""
    trace: str = ""
    """The Python traceback, where it raised."""


def classify(error: BaseException) -> Cause:
    """What an exception in a worker says of its cause."""
    wrong = (ConfigError, DataError, MismatchError, VersionError, DiskFullError)
    if isinstance(error, wrong):
        return Cause.setting
    if isinstance(error, StoppedError | FencedError):
        return Cause.stopped
    if isinstance(error, CorruptRankError):
        return Cause.corrupt
    if isinstance(error, SlowRankError):
        return Cause.slow
    if isinstance(error, dist.DistError | CorruptPeerError) or _LOST_PEER.search(str(error)):
        return Cause.peer
    return Cause.error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or this machine, had no memory left for what was asked of it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and bool(_NO_MEMORY.search(str(error)))


def is_bug(ended: Ended, before: Iterable[Ended]) -> bool:
    """Whether a worker's own error would come again: before the first step of the first life, or
    the same error at the same step as in the last life that an error ended, on whichever rank.

    Args:
        before: how the workers of all ranks ended in earlier generations, in their order.
    """
    if ended.cause != Cause.error:
        return False
    if ended.generation == 0 and not ended.has_stepped:
        return True
    errors = [past for past in before if past.cause == Cause.error]
    last = [past for past in errors if past.generation == errors[-1].generation]
    return any((past.step, past.reason) == (ended.step, ended.reason) for past in last)
