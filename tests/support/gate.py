"""A run that waits for its test: it comes to no end before it was disturbed, however busy the
machine is and however late the test sees what it waits for."""

import mmap
import struct
import time
from dataclasses import replace
from typing import Any

from support.job import Ran
from torch import nn

from keepstep.trainer import Recipe, RunConfig
from keepstep.trainer.recipe import MakeRecipe

_NEVER = 2**62


class Gate:
    """Lets the steps of a job through: the step after the last one allowed waits in its first
    micro-batch. Made before the job is started, whose processes share it."""

    def __init__(self, ran: Ran, steps: int = 0) -> None:
        self._ran = ran
        self._last = mmap.mmap(-1, 8)
        self.let(steps)

    def let(self, steps: int) -> None:
        """So many steps more than are done now."""
        self._write(max(self._ran.losses, default=0) + steps)

    def open(self) -> None:
        """The run goes on to its end."""
        self._write(_NEVER)

    def recipe(self, make: MakeRecipe) -> MakeRecipe:
        """That recipe, behind the gate."""

        def gated(config: RunConfig) -> Recipe:
            made = make(config)

            def loss(module: nn.Module, batch: dict[str, Any]) -> Any:
                while module.training and self._is_shut():
                    time.sleep(0.005)
                return made.loss(module, batch)

            return replace(made, loss=loss)

        return gated

    def _is_shut(self) -> bool:
        (last,) = struct.unpack_from("q", self._last)
        return last < _NEVER and max(self._ran.losses, default=0) >= last

    def _write(self, last: int) -> None:
        struct.pack_into("q", self._last, 0, last)
