"""The pipeline stages of one rank as one module, and the forward of the whole pipeline by relay.

Training's schedules are in `pipeline`; this one is for evaluation, for generation, and to learn
the shapes that stages hand on.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..context import SequenceCut
from ..plan import Plan
from .cut import borrowed

STAGE = re.compile(r"_pipeline_stage_\d+\.")
_DTYPES = (
    *(torch.float32, torch.bfloat16, torch.float16, torch.float64),
    *(torch.int64, torch.int32, torch.bool),
)
_MOST_DIMS = 8


@dataclass(frozen=True, slots=True)
class Call:
    """How a micro-batch calls the model: one tensor, and keyword arguments that all stages get."""

    first: Tensor
    arguments: dict[str, Any]


@final
class Stages(nn.Module):
    """What this rank has of a model that is cut over the ranks of a pipeline.

    Args:
        stages: this rank's stages by index; each takes the previous one's output, the first one
            the model's first argument.
        ranks: which rank of the group has each stage, over all stages.
        group: the ranks of the pipeline.
        device: where the stages compute; parameters may wait in the host's memory.
    """

    def __init__(
        self,
        stages: Mapping[int, nn.Module],
        ranks: Sequence[int],
        group: dist.ProcessGroup,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.device = device
        self.ranks = list(ranks)
        self.group = group
        self.indices = sorted(stages)
        self.sequence_cut: SequenceCut | None = None
        self.positions: str | None = None
        self.shapes: dict[int, tuple[Tensor, Tensor]] = {}
        for index in self.indices:
            self.add_module(f"_pipeline_stage_{index}", stages[index])

    def stage(self, index: int) -> nn.Module:
        """One of this rank's stages."""
        return self.get_submodule(f"_pipeline_stage_{index}")

    def own(self) -> Iterator[tuple[int, nn.Module]]:
        """This rank's stages with their indices, in order."""
        return ((index, self.stage(index)) for index in self.indices)

    @property
    def num_stages(self) -> int:
        """Stages of the whole pipeline."""
        return len(self.ranks)

    @property
    def has_last(self) -> bool:
        """Whether this rank has the last stage, where the loss is."""
        return self.num_stages - 1 in self.indices

    def forward(self, first: Tensor, **arguments: Any) -> Tensor:
        """Collective over the pipeline: the model's output, the same on each of its ranks. Blocks.

        All ranks pass the same arguments; gradients do not cross stages here, so it is for
        `torch.no_grad()`.
        """
        with torch.no_grad():
            output = self.relay(self.cut_call(Call(first, arguments)))
            return output if self.sequence_cut is None else self.sequence_cut.whole(output)

    def cut_call(self, call: Call) -> Call:
        """This rank's part of the sequences of a call, where context parallelism cuts them; with
        positions, since no stage but the first sees how long the whole sequence is."""
        if self.sequence_cut is not None:
            return Call(*self.sequence_cut.part(call.first, call.arguments))
        name = self.positions
        if name is None or call.arguments.get(name) is not None:
            return call
        positions = torch.arange(call.first.shape[1], device=call.first.device).unsqueeze(0)
        return Call(call.first, {**call.arguments, name: positions})

    def relay(self, call: Call) -> Tensor:
        """Collective over the pipeline: as `forward`, of a call that is cut already."""
        passed: Tensor | None = call.first
        for index, rank in enumerate(self.ranks):
            passed = self._turn(index, rank, passed, call.arguments)
        return self._broadcast(passed, self.ranks[-1])

    def _turn(
        self, index: int, rank: int, passed: Tensor | None, arguments: dict[str, Any]
    ) -> Tensor | None:
        """One stage's turn: its output on its rank, then on the next stage's rank; else None."""
        me = dist.get_rank(self.group)
        output: Tensor | None = None
        if rank == me:
            assert passed is not None
            output = self.stage(index)(passed, **arguments)
            self.shapes[index] = (_empty_like(passed), _empty_like(output))
        is_last = index == self.num_stages - 1
        next_rank = rank if is_last else self.ranks[index + 1]
        if next_rank == rank:
            return output
        if rank == me:
            assert output is not None
            self._send(output, next_rank)
        return self._receive(rank) if next_rank == me else None

    def _send(self, tensor: Tensor, rank: int) -> None:
        to = dist.get_global_rank(self.group, rank)
        dist.send(_header(tensor), to, self.group)
        dist.send(tensor.contiguous(), to, self.group)

    def _receive(self, rank: int) -> Tensor:
        source = dist.get_global_rank(self.group, rank)
        header = torch.zeros(_MOST_DIMS + 2, dtype=torch.int64)
        dist.recv(header, source, self.group)
        tensor = _from_header(header, self.device)
        dist.recv(tensor, source, self.group)
        return tensor

    def _broadcast(self, tensor: Tensor | None, rank: int) -> Tensor:
        source = dist.get_global_rank(self.group, rank)
        is_source = dist.get_rank(self.group) == rank
        header = torch.zeros(_MOST_DIMS + 2, dtype=torch.int64)
        if is_source:
            assert tensor is not None
            header = _header(tensor)
        dist.broadcast(header, source, self.group)
        if not is_source:
            tensor = _from_header(header, self.device)
        assert tensor is not None
        tensor = tensor.contiguous()
        dist.broadcast(tensor, source, self.group)
        return tensor


def lent_parameters(module: nn.Module, plan: Plan) -> dict[str, str]:
    """This rank's copies of tied parameters that another stage owns: name -> owner's name."""
    if not isinstance(module, Stages):
        return {}
    return {k: v for _, stage in module.own() for k, v in borrowed(stage, plan).items()}


def _empty_like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


def _header(tensor: Tensor) -> Tensor:
    """Dtype and shape as ten integers: shapes may differ from call to call, as in generation."""
    assert tensor.dim() <= _MOST_DIMS, tensor.shape
    header = torch.zeros(_MOST_DIMS + 2, dtype=torch.int64)
    numbers = [_DTYPES.index(tensor.dtype), tensor.dim(), *tensor.shape]
    header[: len(numbers)] = torch.tensor(numbers)
    return header


def _from_header(header: Tensor, device: torch.device) -> Tensor:
    code, dims, *sizes = header.tolist()
    return torch.empty(sizes[:dims], dtype=_DTYPES[code], device=device)
