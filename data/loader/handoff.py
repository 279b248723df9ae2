"""Batches on their way to the device that computes. Owns no order and no reading.

loader's thread: rows --pinned memory--> side stream --> device, event
trainer's thread: its stream waits for the event, in order and without blocking the thread
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor

from ..errors import DataError

Rows = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Staged:
    """Rows that are on their way; nobody may use them before `Handoff.take`."""

    rows: Rows
    arrival: Any = None
    """A CUDA event that passes when they are there; None where they are."""


class Handoff(Protocol):
    """Moves batches to a device ahead of their use."""

    def stage(self, rows: Mapping[str, Tensor]) -> Staged:
        """Begins to move them; called by the thread that reads ahead."""
        ...

    def take(self, staged: Staged) -> Rows:
        """Makes them safe to use by what the calling thread does from now on; never blocks."""
        ...


def hand_off(device: torch.device) -> Handoff:
    """What hands batches to `device`.

    Raises:
        DataError: it is neither a CUDA device nor the CPU.
    """
    if device.type == "cuda":
        return CudaHandoff(device)
    if device.type == "cpu":
        return PlainHandoff()
    raise DataError(
        f"the loader's hand-off: found the device {device}, needed a CUDA device or the CPU; leave "
        "the hand-off out and move batches in the training loop"
    )


@final
class PlainHandoff:
    """For batches that are used where they are read."""

    def stage(self, rows: Mapping[str, Tensor]) -> Staged:
        return Staged(dict(rows))

    def take(self, staged: Staged) -> Rows:
        return staged.rows


@final
class CudaHandoff:
    """Copies by way of pinned memory and a stream of its own, so that neither the training thread
    nor its stream waits for a copy that was begun early enough.

    Pinned memory is torch's own, which takes a block back for the next batch once the copy out of
    it is done. What is read ahead lies on the device: `prefetch` steps of it.

    Raises:
        DataError: there is no such device.
    """

    def __init__(self, device: torch.device) -> None:
        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            raise DataError(
                f"the loader's hand-off: found {torch.cuda.device_count()} usable CUDA devices, "
                f"needed {device}; correct the device"
            )
        number = torch.cuda.current_device() if device.index is None else device.index
        # With its number: the thread that reads ahead has a current device of its own.
        self._device = torch.device("cuda", number)
        self._stream = torch.cuda.Stream(self._device)

    def stage(self, rows: Mapping[str, Tensor]) -> Staged:
        """Rows that are on a device already are left to the stream that made them."""
        with torch.cuda.stream(self._stream):
            moved = {name: self._moved(tensor) for name, tensor in rows.items()}
            arrival = torch.cuda.Event()
            arrival.record(self._stream)
        return Staged(moved, arrival)

    def take(self, staged: Staged) -> Rows:
        """For the calling thread's current stream."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(staged.arrival)
        for tensor in staged.rows.values():
            # They were allocated on the side stream: without this their memory would be given to
            # the next copy as soon as they are dropped, though `current` may not have read them.
            tensor.record_stream(current)
        return staged.rows

    def _moved(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cpu":
            return tensor.to(self._device)
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(self._device, non_blocking=True)
