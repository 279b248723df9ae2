"""Hears how generations end, so that a guardian sleeps until there is news and asks nobody."""

import contextlib
import os
import threading
from typing import final

import torch.distributed as dist

from .generation import Generations, Turn


@final
class Listener(threading.Thread):
    """Waits for one turn after the other, from generation 0 on.

    Args:
        generations: over a connection of its own.
    """

    def __init__(self, generations: Generations) -> None:
        super().__init__(name="keepstep-listener", daemon=True)
        self._generations = generations
        self._turns: list[Turn] = []
        self._trouble: dist.DistError | None = None
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable when there is news, until `drain` is called."""

    def turn(self, generation: int) -> Turn | None:
        """How `generation` ended, as far as that was heard.

        Raises:
            torch.distributed.DistError: the store is gone.
        """
        if generation < len(self._turns):
            return self._turns[generation]
        if self._trouble is not None:
            raise self._trouble
        return None

    def drain(self) -> None:
        """Takes note of what woke the guardian."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake_fd)

    def run(self) -> None:
        try:
            while not (self._turns and self._turns[-1].is_end):
                self._turns.append(self._generations.wait_turn(len(self._turns)))
                os.eventfd_write(self.wake_fd, 1)
        except dist.DistError as error:
            self._trouble = error
            os.eventfd_write(self.wake_fd, 1)
