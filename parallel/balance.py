"""The loads of a model's experts, once a step: summed over the ranks, applied, and reported."""

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from .collectives import max_, sum_
from .layers.router import Router
from .mesh import Role, Topology
from .plan import Plan


@final
class Balance:
    """All routers of a model over a step. Where the plan has no experts nothing is done or said."""

    def __init__(self, module: nn.Module, plan: Plan, topology: Topology) -> None:
        self.routers = [child for child in module.modules() if isinstance(child, Router)]
        self.num_experts = plan.num_experts
        self.topology = topology
        self._loads_LE = torch.zeros(len(self.routers), self.num_experts, dtype=torch.float64)

    def begin_step(self, unit: Callable[[], float]) -> None:
        """Before the step's first forward.

        Args:
            unit: answers in backward what one of the summed loss counts: loss scale / targets.
        """
        for router in self.routers:
            router.unit = unit

    @torch.no_grad()
    def end_step(self, applied: bool) -> None:
        """Collective over the ranks of LOSS: sums the step's counts, has the routers move by them
        where the step was applied, and begins to count anew. Does not wait for the device."""
        if not self.routers:
            return
        loads_LE = torch.stack([router.load_E for router in self.routers])
        self._loads_LE = sum_(loads_LE, self.topology.group(Role.LOSS)).double()
        for router, loads_E in zip(self.routers, self._loads_LE, strict=True):
            if applied:
                router.rebalance(loads_E)
            router.load_E.zero_()

    def statistics(self) -> dict[str, float]:
        """Collective over the ranks of STAGE: the last step's loads over all layers, empty for a
        model without experts. Waits for the device.

        Returns:
            `router_max_load` and `router_min_load`, the largest and smallest count of an expert as
            a multiple of the mean of its layer; `router_entropy`, the entropy of the counts as a
            part of the largest it can be, the mean of all layers: 1 where all are equal.
        """
        if not self.num_experts:
            return {}
        largest, smallest, entropy = self._summarised()
        group = self.topology.group(Role.STAGE)
        most, least = max_(_vector(largest, -smallest), group).tolist()
        total, layers = sum_(_vector(*entropy), group).tolist()
        return {
            "router_max_load": most,
            "router_min_load": -least,
            "router_entropy": total / max(1.0, layers),
        }

    def _summarised(self) -> tuple[float, float, tuple[float, float]]:
        """Of this rank's layers: largest and smallest load, sum of the entropies and number."""
        loads_LE = self._loads_LE.cpu()
        if not loads_LE.numel():
            return 0.0, math.inf, (0.0, 0.0)
        parts_LE = loads_LE / loads_LE.sum(1, keepdim=True).clamp(min=1)
        entropy_L = torch.special.entr(parts_LE).sum(1) / math.log(max(2, self.num_experts))
        loads = parts_LE * self.num_experts
        return (
            float(loads.max()),
            float(loads.min()),
            (float(entropy_L.sum()), float(len(entropy_L))),
        )


def _vector(*values: float) -> Tensor:
    # On the CPU whatever the device is, for a stage without a layer of experts must answer too.
    return torch.tensor(values, dtype=torch.float64)
