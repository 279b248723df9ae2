"""What a step sums over the ranks beside its gradients: the loss, and the squares of the gradient's
norm. Added as floats, in whatever order; or so that no order shows (`parallel.exact`)."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

from torch import Tensor, nn

from ..parallel import Exchange, Grid, canonical_name, squares


@dataclass(frozen=True, slots=True)
class Own:
    """What one rank adds to the world's vote."""

    places: list[float]
    is_loss_finite: bool
    are_gradients_finite: bool


class Sums(Protocol):
    """How loss and norm are summed; equal on all ranks but for what each of them holds."""

    groups: Mapping[str, Sequence[nn.Parameter]]

    @property
    def places(self) -> int:
        """Of the vote, which is summed in float64."""
        ...

    def own(self, parts: Tensor) -> Own:
        """This rank's places; waits for the device.

        Args:
            parts: of the step's loss, one by each micro-batch of this rank, 1-d.
        """
        ...

    def read(self, summed: Sequence[float]) -> tuple[float, list[float]]:
        """The loss and, by group, the norms of the gradients as they are, scaled for fp16."""
        ...


@final
class PlainSums:
    """One float of the loss and one of each group.

    Args:
        groups: the parameters whose gradients are counted, by name of a group; the same names in
            the same order on all ranks, whatever a rank has of each.
    """

    def __init__(self, groups: Mapping[str, Sequence[nn.Parameter]]) -> None:
        self.groups = groups

    @property
    def places(self) -> int:
        """As `Sums.places`."""
        return 1 + len(self.groups)

    def own(self, parts: Tensor) -> Own:
        """As `Sums.own`."""
        loss, found = float(parts.sum()), squares(self.groups)
        return Own([loss, *found], math.isfinite(loss), all(map(math.isfinite, found)))

    def read(self, summed: Sequence[float]) -> tuple[float, list[float]]:
        """As `Sums.read`."""
        return summed[0], [math.sqrt(one) for one in summed[1:]]


@final
class ExactSums:
    """A place for each micro-batch's loss, which one rank fills and all add up alike; and two for
    each parameter's squares, which are integers.

    Args:
        groups: as of `PlainSums`.
        grid: settled before `own`.
        exchange: over all ranks.
        losses: places of the loss.
        own: those of them that this rank fills, one by each of its micro-batches.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[nn.Parameter]],
        grid: Grid,
        exchange: Exchange,
        *,
        names: Mapping[nn.Parameter, str],
        losses: int,
        own: range,
    ) -> None:
        self.groups = groups
        self._grid, self._losses, self._own = grid, losses, own
        members = {
            group: {names[one]: one.numel() for one in parameters}
            for group, parameters in groups.items()
        }
        said = exchange.gather_bytes(json.dumps(members).encode())
        self._members: dict[str, dict[str, int]] = {group: {} for group in groups}
        for one in map(json.loads, said):
            for group, found in one.items():
                self._members[group].update(found)
        self._members = {group: dict(sorted(one.items())) for group, one in self._members.items()}

    @property
    def places(self) -> int:
        """As `Sums.places`."""
        return self._losses + 2 * len(self._grid.names)

    def own(self, parts: Tensor) -> Own:
        """As `Sums.own`."""
        losses = [0.0] * self._losses
        for place, part in zip(self._own, parts.tolist(), strict=True):
            losses[place] = part
        return Own(
            [*losses, *self._grid.squares()], all(map(math.isfinite, losses)), self._grid.is_finite
        )

    def read(self, summed: Sequence[float]) -> tuple[float, list[float]]:
        """As `Sums.read`."""
        totals = self._grid.totals(summed[self._losses :])
        norms = [
            math.sqrt(total_of(self._grid.unscaled(n, totals[n], size) for n, size in one.items()))
            for one in self._members.values()
        ]
        return total_of(summed[: self._losses]), norms


def total_of(values: Iterable[float]) -> float:
    """The sum, rounded once: no order of the values shows."""
    values = list(values)
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)


def names_of(module: nn.Module) -> dict[nn.Parameter, str]:
    """Names of parameters without wrappers."""
    return {parameter: canonical_name(name) for name, parameter in module.named_parameters()}
