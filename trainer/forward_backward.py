"""One accumulation window: the micro-batches of one optimizer step on this rank, forward and
backward, gradients summed once over the ranks at its end. Flat, or through a pipeline."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from ..data import Window
from ..parallel import Call, Pipeline, seed_draws, set_last_microbatch
from .recipe import Batch

Loss = Callable[[nn.Module, Batch], Tensor]
SeedOf = Callable[[int, int], int]


@dataclass(frozen=True, slots=True)
class Divisor:
    """What a micro-batch's sum becomes: loss x scale / targets for backward."""

    targets: Callable[[], int]
    """Waits for the valid targets of the step over all ranks, by which every layout divides; asked
    after the first forward, so that they are summed meanwhile."""
    scale: float = 1.0
    """The loss scale of fp16."""

    def scaled(self, summed: Tensor) -> Tensor:
        """This micro-batch's part of the step's loss, scaled for backward."""
        part = summed / self.targets()
        return part if self.scale == 1.0 else part * self.scale

    @property
    def unit(self) -> float:
        """What one of a summed loss counts in backward; may wait for the targets."""
        return self.scale / self.targets()

    def plain(self, part: Tensor) -> Tensor:
        """The part that `scaled` gave, without the scale, fp32."""
        part = part.detach().float()
        return part if self.scale == 1.0 else part / self.scale


class Runner(Protocol):
    """What runs a window."""

    def run(self, window: Window, divisor: Divisor, seed_of: SeedOf) -> Tensor:
        """Leaves the gradient of (sum of losses / targets) x scale in the parameters.

        Collective: all ranks call it with as many micro-batches each. Blocks.

        Args:
            seed_of: (stage, number of a micro-batch in the step) -> the seed of its dropout,
                whichever rank computes it.

        Returns:
            Each of this rank's micro-batches' sum of losses / targets, 1-d, fp32; zeros where
            another stage has the loss.
        """
        ...


@final
@dataclass(frozen=True, slots=True)
class Flat:
    """Forward and backward of one micro-batch after the other."""

    module: nn.Module
    loss: Loss
    device: torch.device
    """Where the model is; batches are moved to it."""

    def run(self, window: Window, divisor: Divisor, seed_of: SeedOf) -> Tensor:
        """As `Runner.run`."""
        parts = []
        last = len(window.batches) - 1
        for number, batch in enumerate(window.batches):
            set_last_microbatch(self.module, number == last)
            seed_draws(seed_of(0, window.microbatches[number]), self.device)
            part = divisor.scaled(self.loss(self.module, to_device(batch, self.device)))
            part.backward()
            parts.append(divisor.plain(part))
        return torch.stack(parts)


@final
@dataclass(frozen=True, slots=True)
class Piped:
    """The window as one step of a pipeline's schedule."""

    pipeline: Pipeline
    loss: Loss
    device: torch.device

    def run(self, window: Window, divisor: Divisor, seed_of: SeedOf) -> Tensor:
        """As `Runner.run`. The recipe's loss is called twice a micro-batch: up to its call of the
        module, which tells the inputs, and with the pipeline's output in place of that call.

        Raises:
            ValueError: the loss does not call the module once with one tensor and keywords.
        """
        batches = [to_device(batch, self.device) for batch in window.batches]
        parts = self.pipeline.run(
            [captured(self.loss, batch) for batch in batches],
            lambda number, output: divisor.scaled(self.loss(Answering(output), batches[number])),
            lambda stage, number: seed_of(stage, window.microbatches[number]),
        )
        if not parts:
            return torch.zeros(len(batches), device=self.device)
        return torch.stack([divisor.plain(part) for part in parts])


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the model is."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


class _CapturedError(Exception):
    """Ends a loss once it has called the module; carries the call."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call


class Capturing(nn.Module):
    """Stands for the module in a loss that is called for its inputs alone. Final."""

    def forward(self, *args: Any, **arguments: Any) -> Tensor:
        if len(args) != 1 or not isinstance(args[0], Tensor):
            raise ValueError(
                f"parallel.pipeline: found a loss that calls the module with {len(args)} "
                "positional arguments, needed one tensor, and keywords for the rest; change "
                "Recipe.loss or set parallel.pipeline=1"
            )
        raise _CapturedError(Call(args[0], arguments))


class Answering(nn.Module):
    """Stands for the module in a loss that is called with the pipeline's output. Final."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self.output


def captured(loss: Loss, batch: Batch) -> Call:
    """How the loss calls the module for this batch."""
    try:
        loss(Capturing(), batch)
    except _CapturedError as ended:
        return ended.call
    raise ValueError(
        "parallel.pipeline: found a loss that does not call the module, needed one call; change "
        "Recipe.loss or set parallel.pipeline=1"
    )
