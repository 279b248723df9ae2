"""`bits.jsonl`: after a step, a number for each tensor of the state that differs where one of its
bits does, and that does not depend on the layout; so that two runs can be told apart to the step
and the tensor (`keepstep compare --bits`)."""

import json
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ...parallel import Exchange, Topology, counts, local_part, sum_
from .prints import read, sum_of_bits

BITS = "bits.jsonl"
_MODULUS = 2**64


@final
class Bits:
    """Of one run's state. All ranks of the world have one, and call alike."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        at = topology.coordinates()
        # Of what every rank holds in full the first of those that hold the same names speaks.
        self._is_first = not any(at[axis] for axis in at if axis != "pipeline")

    def of(self, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Collective: by name, sorted, the sum of the bits of all elements modulo 2^64, in hex; on
        all ranks, of all stages. Waits for the device.

        Args:
            tensors: what this rank holds of each.
        """
        own = read({name: sum_of_bits(_flat(one)) for name, one in tensors.items()})
        held = {name: own[name] * self._counts(one) for name, one in tensors.items()}
        said = Exchange(self._topology.control).gather_bytes(json.dumps(list(held)).encode())
        names = sorted({name for one in set(said) for name in json.loads(one)})
        total = torch.tensor([held.get(name, 0) for name in names], dtype=torch.int64)
        if self._topology.world_size > 1:
            sum_(total, self._topology.control)
        return {
            name: f"{bits % _MODULUS:016x}"
            for name, bits in zip(names, total.tolist(), strict=True)
        }

    def _counts(self, tensor: Tensor) -> bool:
        return counts(tensor) if isinstance(tensor, DTensor) else self._is_first


def _flat(tensor: Tensor) -> Tensor:
    return local_part(tensor.detach()).contiguous().reshape(-1)
