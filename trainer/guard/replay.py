"""One micro-batch twice on the same rank: what differs has been computed wrongly once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...data import Window
from ...parallel import canonical_name
from ..exact import deterministic
from ..forward_backward import Flat, Runner
from ..seeds import seed_of
from .findings import Odd
from .prints import print_of, read

_PURPOSE = 0x7265706C6179


def chosen(window: Window, runner: Runner, *, seed: int, step: int) -> Window:
    """What of a step is replayed: a random micro-batch, the same number on all ranks; of a
    pipeline, whose schedule is of so many, all."""
    if not isinstance(runner, Flat):
        return window
    number = seed_of(seed, step, 0)(0, _PURPOSE) % len(window.batches)
    first = window.microbatches[number]
    return replace(window, batches=[window.batches[number]], microbatches=range(first, first + 1))


@dataclass(frozen=True, slots=True)
class Replayed:
    """What two passes over the same differ in: names of parameters, and loss."""

    own: list[str]
    """Computed by this rank from what it was given."""
    shared: list[str]
    """Summed over ranks."""

    @property
    def odd(self) -> Odd:
        """What that says of this rank."""
        return Odd.corrupt if self.own else Odd.suspect if self.shared else Odd.none


def replay(module: nn.Module, run: Callable[[], Tensor]) -> Replayed:
    """Collective: calls `run`, a forward and backward that draws the same random numbers each
    time, twice. Afterwards buffers are as before and no parameter has a gradient; call it before a
    step's first backward.
    """
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    passes = []
    for _ in range(2):
        with deterministic():
            passes.append(_observe(module, run))
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    (own, shared), (own_again, shared_again) = passes
    return Replayed(_differing(own, own_again), _differing(shared, shared_again))


def _observe(module: nn.Module, run: Callable[[], Tensor]) -> tuple[dict[str, int], dict[str, int]]:
    """The prints of one pass: own and shared ones."""
    own: dict[str, Tensor] = {}
    with _noting_gradients(module, own):
        own["loss"] = print_of(run())
    shared = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            shared[canonical_name(name)] = print_of(parameter.grad)
            parameter.grad = None
    return read(own), read(shared)


@contextmanager
def _noting_gradients(module: nn.Module, found: dict[str, Tensor]) -> Iterator[None]:
    """Notes the gradients that this rank computes, before they are summed over ranks: those of the
    gathered parameters, which a module has from its forward on. What is compiled shows none."""
    handles: list[RemovableHandle] = []

    def before(prefix: str) -> Callable[[nn.Module, object], None]:
        def hook(child: nn.Module, _: object) -> None:
            for name, parameter in child.named_parameters(recurse=False):
                if parameter.requires_grad and torch.is_grad_enabled():
                    full = canonical_name(f"{prefix}.{name}" if prefix else name)
                    handles.append(parameter.register_hook(note(full)))

        return hook

    def note(name: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            found[name] = (
                print_of(gradient) + 3 * found[name] if name in found else print_of(gradient)
            )

        return hook

    for prefix, child in module.named_modules():
        if any(True for _ in child.parameters(recurse=False)):
            handles.append(child.register_forward_pre_hook(before(prefix)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _differing(one: dict[str, int], other: dict[str, int]) -> list[str]:
    return sorted(name for name in {**one, **other} if one.get(name) != other.get(name))
