"""`parallel.exact`: the same bits on any number of data-parallel ranks. What may not depend on them
is said here; how gradients are summed is said in `parallel.exact`."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from ..data import Window
from ..parallel import Exchange, Grid, Router, Topology, canonical_name
from .errors import ConfigError
from .forward_backward import Divisor, Runner, SeedOf
from .sums import ExactSums, names_of

# Modules whose output, or state, follows from which samples a rank happens to have.
_BATCH_STATISTICS = (nn.modules.batchnorm._BatchNorm,)


@contextmanager
def deterministic() -> Iterator[None]:
    """Kernels that add in a fixed order, where torch has them: else every pass would differ."""
    before = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch_fills: Any = torch.utils.deterministic
    fills = torch_fills.fill_uninitialized_memory
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*deterministic.*")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # It would write NaN into every new tensor, which a kernel then overwrites.
        torch_fills.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch_fills.fill_uninitialized_memory = fills
            torch.use_deterministic_algorithms(before, warn_only=only_warns)


@final
class Exact:
    """What a run's ranks need to be exact. Collective to make.

    Args:
        microbatches: of one step, over all ranks.
        own: those of this rank.

    Raises:
        ConfigError: a module whose results depend on how samples are dealt to ranks.
    """

    def __init__(
        self,
        module: nn.Module,
        topology: Topology,
        *,
        microbatches: int,
        own: range,
    ) -> None:
        check_module(module)
        self.module, self.topology = module, topology
        self.microbatches, self._own = microbatches, own
        self._exchange = Exchange(topology.control)
        self.is_redone = False
        """Whether the last step's window was run a second time."""
        degrees = topology.degrees
        self.grid = Grid(
            module,
            self._exchange,
            addends=microbatches * degrees.context * degrees.tensor,
        )

    def state_dict(self) -> dict[str, dict[str, int]]:
        """What a manifest keeps of it, by its name there."""
        return {"exact": self.grid.state_dict()}

    def take(self, saved: dict[str, Any]) -> None:
        """Takes its own out of a manifest's values; of a run that was not exact there is none."""
        self.grid.load_state_dict(saved.pop("exact", {}))

    def sums(self, groups: Mapping[str, Sequence[nn.Parameter]]) -> ExactSums:
        """Collective: how loss and norm of these groups are summed."""
        context, place = self.topology.degrees.context, self.topology.coordinates()["context"]
        return ExactSums(
            groups,
            self.grid,
            self._exchange,
            names=names_of(self.module),
            losses=self.microbatches * context,
            own=range(self._own.start * context + place, self._own.stop * context + place, context),
        )


@final
class ExactRunner:
    """Runs windows with gradients on grids; one whose bounds were too narrow a second time."""

    def __init__(self, inner: Runner, exact: Exact) -> None:
        self.inner = inner
        self._exact, self._grid, self._module = exact, exact.grid, exact.module
        self._buffers = dict(_buffers(exact.module))
        """Those that a forward may change: all, until one has been seen."""

    def run(self, window: Window, divisor: Divisor, seed_of: SeedOf) -> Tensor:
        """As `Runner.run`; `end_step` follows.

        Raises:
            ConfigError: a forward changes a buffer, which would be that of one rank.
        """
        before = {name: (one, one._version, one.clone()) for name, one in self._buffers.items()}
        with deterministic():
            parts = self.inner.run(window, divisor, seed_of)
            moved = {n: value for n, (one, at, value) in before.items() if one._version > at}
            self._buffers = {name: self._buffers[name] for name in moved}
            _check_buffers(self._module, self._buffers)
            self._exact.is_redone = not self._grid.settle()
            if self._exact.is_redone:
                self._forget(moved)
                parts = self.inner.run(window, divisor, seed_of)
                if not self._grid.settle():
                    raise RuntimeError(
                        "parallel.exact: the same micro-batches had other gradients a second time; "
                        "a kernel is not deterministic, or this rank computes wrongly"
                    )
        return parts

    def _forget(self, before: Mapping[str, Tensor]) -> None:
        for parameter in self._module.parameters():
            parameter.grad = None
        with torch.no_grad():
            for name, value in before.items():
                self._buffers[name].copy_(value)


def check_module(module: nn.Module) -> None:
    """Refuses what no order of sums makes exact.

    Raises:
        ConfigError: by name.
    """
    for name, child in module.named_modules():
        if isinstance(child, _BATCH_STATISTICS) and (
            child.track_running_stats or isinstance(child, nn.SyncBatchNorm)
        ):
            raise ConfigError(
                f"parallel.exact=true: found {canonical_name(name)}, a "
                f"{type(child).__name__.removeprefix('FSDP')}, "
                "whose statistics follow from the samples that one rank happens to have, needed "
                "layers that look at one sample, or micro-batch, alone; use LayerNorm, RMSNorm or "
                "GroupNorm, or set parallel.exact=false"
            )


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((canonical_name(name), one) for name, one in module.named_buffers())


def _check_buffers(module: nn.Module, changed: Mapping[str, Tensor]) -> None:
    counted = {
        id(buffer)
        for child in module.modules()
        if isinstance(child, Router)
        for buffer in child.buffers()
    }
    for name, one in changed.items():
        if id(one) not in counted:
            raise ConfigError(
                f"parallel.exact=true: found the buffer {name} changed by a forward, which makes "
                "it that of the samples of one rank, needed buffers that stay; keep such state "
                "out of the model, or set parallel.exact=false"
            )
