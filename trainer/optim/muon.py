"""Muon on sharded matrices: momentum where the shard is, orthogonalisation where the owner is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement

from ...parallel import is_sharded, local_part
from .config import MuonScale
from .elementwise import Keeping, begin_step, gradient, keep, make_state, step_elementwise
from .orthogonalise import as_matrices, orthogonalise, step_size
from .owners import Owners
from .rule import Rule

_MOMENTUM = "momentum_buffer"
Place = tuple[DeviceMesh, tuple[Placement, ...]]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class MuonSettings:
    """The arithmetic of hidden matrices."""

    momentum: float
    nesterov: bool
    iterations: int
    dtype: torch.dtype
    """What the iterations are computed in."""
    scale: MuonScale


@final
class Muon(torch.optim.Optimizer):
    """Keller Jordan, https://kellerjordan.github.io/posts/muon/; the momentum is an average, as in
    torch.optim.Muon, and the weight decay decoupled, as in arXiv 2502.16982.

    Each matrix is orthogonalised on one rank of its mesh, in whole; then every rank has its shard
    of the step. A stack of matrices that is cut between matrices only, and what is whole on a rank,
    stays where it is. State is placed like its parameter.

    Args:
        groups: each with `params` (pairs of a canonical name and a parameter), `weight_decay` and
            `is_hidden`; those that are not hidden step by `rest`.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        settings: MuonSettings,
        rest: Rule,
        keeping: Keeping,
        *,
        lr: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "is_hidden": False})
        self.settings, self.rest, self.keeping = settings, rest, keeping
        self._owners: dict[tuple[nn.Parameter, ...], Owners] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Collective over each mesh that cuts a hidden matrix; blocks. The ranks of a mesh must
        have gradients of the same parameters."""
        for group in self.param_groups:
            if group["is_hidden"]:
                self._step_hidden(group)
            else:
                step_elementwise(group, self.rest, self.keeping, self.state)

    def make_state(self) -> None:
        """Makes all state that there is none of, zero."""
        for group in self.param_groups:
            moments = (_MOMENTUM,) if group["is_hidden"] else self.rest.moments
            for parameter in group["params"]:
                make_state(parameter, moments, self.keeping, self.state)

    def _step_hidden(self, group: dict[str, Any]) -> None:
        ready = begin_step(group, (_MOMENTUM,), self.keeping, self.state)
        places: dict[Place | None, list[nn.Parameter]] = {}
        for _, parameter in ready:
            places.setdefault(_place(parameter), []).append(parameter)
        names = {parameter: name for name, parameter in ready}
        for place, parameters in places.items():
            averages = [self._averaged(names[p], p) for p in parameters]
            moves = self._orthogonal(place, parameters, averages)
            for parameter, move in zip(parameters, moves, strict=True):
                self._descend(names[parameter], parameter, move, group)

    def _averaged(self, name: str, parameter: nn.Parameter) -> Tensor:
        """Takes the gradient into the momentum; this rank's part of what is orthogonalised."""
        own, beta = self.state[parameter], self.settings.momentum
        average, grad = local_part(own[_MOMENTUM]).float(), gradient(parameter)
        average.mul_(beta).add_(grad * (1 - beta))
        step = int(own["step"])
        keep(own[_MOMENTUM], average, name=f"{name}.{_MOMENTUM}", step=step, seed=self.keeping.seed)
        return grad * (1 - beta) + average * beta if self.settings.nesterov else average

    def _orthogonal(
        self, place: Place | None, parameters: list[nn.Parameter], averages: list[Tensor]
    ) -> list[Tensor]:
        if place is None:
            return self._all_orthogonal(averages)
        owners = self._owners_of(place, parameters)
        whole = owners.gather(averages)
        moves = self._all_orthogonal(list(whole.values()))
        return owners.scatter(dict(zip(whole, moves, strict=True)), averages)

    def _owners_of(self, place: Place, parameters: list[nn.Parameter]) -> Owners:
        key = tuple(parameters)
        if key not in self._owners:
            shapes = [parameter.shape for parameter in parameters]
            self._owners[key] = Owners(*place, shapes, [_cost(shape) for shape in shapes])
        return self._owners[key]

    def _all_orthogonal(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors of one shape in one batch."""
        shapes: dict[torch.Size, list[int]] = {}
        for index, tensor in enumerate(tensors):
            shapes.setdefault(tensor.shape, []).append(index)
        moves = list(tensors)
        for indices in shapes.values():
            stacks = [as_matrices(tensors[index]) for index in indices]
            if stacks[0].numel() == 0:
                continue
            done = orthogonalise(
                torch.cat(stacks),
                iterations=self.settings.iterations,
                dtype=self.settings.dtype,
            )
            for index, move in zip(indices, done.split(stacks[0].size(0)), strict=True):
                moves[index] = move.reshape(tensors[index].shape)
        return moves

    def _descend(
        self, name: str, parameter: nn.Parameter, move: Tensor, group: dict[str, Any]
    ) -> None:
        lr, size = group["lr"], step_size(parameter.shape, self.settings.scale)
        values = local_part(parameter).float()
        values.mul_(1 - lr * group["weight_decay"]).sub_(move * (lr * size))
        step = int(self.state[parameter]["step"])
        keep(parameter, values, name=name, step=step, seed=self.keeping.seed)


def _place(parameter: nn.Parameter) -> Place | None:
    """Where a parameter's matrices are cut; None where each is whole on the rank that has it."""
    if not isinstance(parameter, DTensor) or parameter.device_mesh.size() == 1:
        return None
    cut = [one for one in parameter.placements if is_sharded(one)]
    if cut and parameter.ndim == 3 and all(one.dim == 0 for one in cut):  # type: ignore[attr-defined]
        return None
    return parameter.device_mesh, tuple(parameter.placements)


def _cost(shape: torch.Size) -> float:
    """Multiplications of one Newton-Schulz iteration, but for a factor."""
    stack, rows, columns = as_matrices(torch.empty(shape, device="meta")).shape
    return float(stack * rows * columns * min(rows, columns))
