"""An optimizer made of a rule: computes in float32, keeps what it is told to keep in bfloat16.

Nothing is communicated: each rank steps the elements that it holds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ...parallel import global_positions, local_part
from .rounding import round_stochastic, rounding_key
from .rule import Rule

Named = tuple[str, nn.Parameter]
State = Mapping[Tensor, dict[str, Any]]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Keeping:
    """How state is kept in between steps."""

    dtype: torch.dtype
    """Of moments: float32 or bfloat16."""
    seed: int
    """Of the lots that round to bfloat16."""
    is_foreach: bool = True
    """Whether one kernel serves many parameters; where something is rounded they go one by one,
    so that float32 copies are never those of a whole model."""


@final
class Elementwise(torch.optim.Optimizer):
    """Steps every element by a rule. Parameters may be float32 or bfloat16, plain or DTensors over
    any meshes; the bits do not depend on the layout.

    State of a parameter: `step` (steps made, 0-d float32 on the CPU) and the rule's moments, placed
    like the parameter.

    Args:
        groups: each with `params` (pairs of a canonical name and a parameter) and `weight_decay`.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], rule: Rule, keeping: Keeping, *, lr: float
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.rule = rule
        self.keeping = keeping

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Steps all parameters that have a gradient."""
        for group in self.param_groups:
            step_elementwise(group, self.rule, self.keeping, self.state)

    def make_state(self) -> None:
        """Makes all state that there is none of, zero."""
        for group in self.param_groups:
            for parameter in group["params"]:
                make_state(parameter, self.rule.moments, self.keeping, self.state)


def step_elementwise(group: dict[str, Any], rule: Rule, keeping: Keeping, state: State) -> None:
    """Steps the parameters of one group that have a gradient; without autograd."""
    ready = begin_step(group, rule.moments, keeping, state)
    rates = {"lr": group["lr"], "weight_decay": group["weight_decay"]}
    exact: dict[int, list[nn.Parameter]] = {}
    for name, parameter in ready:
        own = state[parameter]
        kept = [parameter, *(own[moment] for moment in rule.moments)]
        if keeping.is_foreach and all(tensor.dtype is torch.float32 for tensor in kept):
            exact.setdefault(int(own["step"]), []).append(parameter)
        else:
            _step_one(name, parameter, rule, keeping, own, rates)
    for step, parameters in exact.items():
        moments = {m: [local_part(state[p][m]) for p in parameters] for m in rule.moments}
        gradients = [gradient(p) for p in parameters]
        rule([local_part(p) for p in parameters], gradients, moments, step=step, **rates)


def begin_step(
    group: dict[str, Any], moments: Sequence[str], keeping: Keeping, state: State
) -> list[Named]:
    """Counts a step for each parameter of a group that has a gradient, and makes state where there
    is none; these parameters by name."""
    named = zip(group["param_names"], group["params"], strict=True)
    ready = [(name, parameter) for name, parameter in named if parameter.grad is not None]
    for _, parameter in ready:
        make_state(parameter, moments, keeping, state)
        state[parameter]["step"] += 1
    return ready


def make_state(
    parameter: nn.Parameter, moments: Sequence[str], keeping: Keeping, state: State
) -> None:
    """Makes what a parameter's state lacks, zero."""
    own = state[parameter]
    own.setdefault("step", torch.zeros((), dtype=torch.float32))
    for moment in moments:
        if moment not in own:
            own[moment] = zeros(parameter, keeping.dtype)


def zeros(parameter: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros that lie as the parameter does; no DTensor's dispatch has to work that out."""
    part = torch.zeros_like(local_part(parameter), dtype=dtype)
    if not isinstance(parameter, DTensor):
        return part
    return DTensor.from_local(
        part,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def gradient(parameter: nn.Parameter) -> Tensor:
    """This rank's part of a parameter's gradient, in float32. Collective where the gradient is
    placed in another way than the parameter, such as the partial sums of sequence parallelism."""
    grad = parameter.grad
    assert grad is not None
    if isinstance(grad, DTensor) and isinstance(parameter, DTensor):
        grad = grad.redistribute(placements=parameter.placements)
    return local_part(grad).float()


def keep(tensor: Tensor, values: Tensor, *, name: str, step: int, seed: int) -> None:
    """Writes new float32 values of this rank's part into a tensor, by lot where it is bfloat16."""
    target = local_part(tensor)
    if target.dtype is torch.float32:
        if target is not values:
            target.copy_(values)
        return
    key = rounding_key(seed, step, name)
    target.copy_(round_stochastic(values, key=key, positions=global_positions(tensor)))


def _step_one(
    name: str,
    parameter: nn.Parameter,
    rule: Rule,
    keeping: Keeping,
    own: dict[str, Any],
    rates: dict[str, float],
) -> None:
    step = int(own["step"])
    values = local_part(parameter).float()
    moments = {moment: local_part(own[moment]).float() for moment in rule.moments}
    lists = {moment: [tensor] for moment, tensor in moments.items()}
    rule([values], [gradient(parameter)], lists, step=step, **rates)
    for moment, tensor in moments.items():
        keep(own[moment], tensor, name=f"{name}.{moment}", step=step, seed=keeping.seed)
    keep(parameter, values, name=name, step=step, seed=keeping.seed)
