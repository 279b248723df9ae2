"""What the runtime must know of a model beside its code: units of sharding, how matrices are cut,
where stages may be cut, initial values, ties.

Globs are fnmatch's, case-sensitive, and `*` crosses dots. Owns no tensor of a model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from glob import escape
from typing import Protocol, final

import torch
from torch import Tensor, nn


class Initial(Protocol):
    """An initial value: any full tensor, from its shape and a source of randomness alone."""

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Returns a new float32 tensor of `shape` on the CPU."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Normal:
    """Independent normal values."""

    std: float
    mean: float = 0.0

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        return _empty(shape).normal_(self.mean, self.std, generator=generator)


@final
@dataclass(frozen=True, slots=True)
class TruncatedNormal:
    """Normal values of mean 0, redrawn outside `limit` standard deviations."""

    std: float
    limit: float = 3.0

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        bound = self.limit * self.std
        tensor = _empty(shape)
        return nn.init.trunc_normal_(tensor, std=self.std, a=-bound, b=bound, generator=generator)


@final
@dataclass(frozen=True, slots=True)
class Zeros:
    """Zero everywhere."""

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        return _empty(shape).zero_()


@final
@dataclass(frozen=True, slots=True)
class Ones:
    """One everywhere."""

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        return _empty(shape).fill_(1.0)


def _empty(shape: Sequence[int]) -> Tensor:
    return torch.empty(tuple(shape), dtype=torch.float32, device="cpu")


class Style(StrEnum):
    """What tensor parallelism does with a module; `tensor` says how each one is laid out."""

    column = "column"
    """A linear layer cut along its outputs; takes whole inputs, gives its part of the outputs."""
    row = "row"
    """A linear layer cut along its inputs; takes its part of them, gives the outputs' sum."""
    vocabulary = "vocabulary"
    """An embedding, or a `Head`, cut along the vocabulary."""
    sequence = "sequence"
    """A module that works on each position alone, such as a norm: on its part of the sequence."""
    heads = "heads"
    """A module that each rank calls on its own heads, such as a norm of queries: the parameters
    are the same, their gradients are summed."""
    gather = "gather"
    """A module whose first input is made whole: what holds the column layers."""
    partial = "partial"
    """A module that takes its first input whole and whose output on each rank is a part of a sum:
    what holds experts. Column and row layers inside it communicate nothing."""
    replicate = "replicate"
    """A module that every rank computes in whole; what no glob matches is one too."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How a model falls into pipeline stages: it computes `first`, then the blocks in order, then
    `last`, and hands one tensor from each to the next."""

    blocks: str
    """Glob of the repeated blocks, in the order in which they compute."""
    first: tuple[str, ...] = ()
    """Globs of the modules that the first stage alone has."""
    last: tuple[str, ...] = ()
    """Globs of the modules that the last stage alone has."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a model is laid out and begun; `Plan()` suits any module."""

    units: tuple[str, ...] | None = None
    """Globs of module names that are sharded as one unit each; of nested modules that one glob
    matches the outermost counts. None finds the repeated blocks; () shards the root alone."""
    initial: tuple[tuple[str, Initial], ...] = ()
    """Globs of parameter names with their initial values, first match wins; every parameter needs
    one. Empty leaves it to the module's constructor."""
    tied: tuple[tuple[str, str], ...] = ()
    """Pairs of a parameter's name and the name of the parameter whose memory it shares."""
    tensor: tuple[tuple[str, Style], ...] = ()
    """Globs of module names with what tensor parallelism does with them, first match wins. Empty:
    the model cannot be cut so."""
    has_sequence: bool = True
    """Whether the modules between the cut ones may work on a part of the sequence each."""
    heads: tuple[int, ...] = ()
    """Numbers that tensor parallelism must divide: of query heads, of key-value heads."""
    num_experts: int = 0
    """Experts of each layer that has an `Experts`, which expert parallelism must divide; 0: the
    model has none."""
    cut: Cut | None = None
    """How the model falls into pipeline stages; None: it cannot."""
    sequence_inputs: tuple[str, ...] = ()
    """Names of the arguments of forward whose dim 1 is the sequence, which context parallelism
    cuts. Empty: the model cannot be cut so."""
    positions: str | None = None
    """Name of the argument of forward that takes the positions in the sequence, (1, T), int64."""
    flops_per_token: float | None = None
    """Floating point operations of forward and backward for one token; None: not known."""

    @classmethod
    def of(cls, module: nn.Module) -> "Plan":
        """Derives a plan for any module: its repeated blocks are units, it starts as built."""
        return cls().resolved(module)

    def resolved(self, module: nn.Module) -> "Plan":
        """Returns this plan with `units` found in the module where they are None."""
        if self.units is not None:
            return self
        return replace(self, units=tuple(escape(name) for name in repeated_blocks(module)))


def repeated_blocks(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Yields the names of the children of the outermost ModuleLists and Sequentials.

    A list counts where two children or more have parameters. A block that shares a parameter
    with the rest of the model is left out, since a unit must own what it shards.
    """
    yield from (
        name for name, block in _blocks(module, prefix) if owns_its_parameters(module, block)
    )


def _blocks(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    children = [(f"{prefix}{name}", child) for name, child in module.named_children()]
    weighty = [(name, child) for name, child in children if any(True for _ in child.parameters())]
    is_list = isinstance(module, nn.ModuleList | nn.Sequential) and len(weighty) > 1
    for name, child in weighty:
        if is_list and has_forward(child):
            yield name, child
        else:
            yield from _blocks(child, f"{name}.")


def has_forward(module: nn.Module) -> bool:
    """Whether a module can be called: containers such as ModuleList cannot."""
    return type(module).forward is not nn.Module.forward


def owns_its_parameters(root: nn.Module, unit: nn.Module) -> bool:
    """Whether no module of `root` outside `unit` holds one of the unit's parameters."""
    inside = set(map(id, unit.modules()))
    owned = set(map(id, unit.parameters()))
    return not any(
        id(parameter) in owned
        for module in root.modules()
        if id(module) not in inside
        for parameter in module.parameters(recurse=False)
    )
