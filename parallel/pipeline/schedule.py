"""One accumulation window through torch's pipeline schedules.

Owns the choice of the schedule, random numbers of each micro-batch, and the gradient of tied
parameters whose copies lie on two stages. Sums, never means: the loss divides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    PipelineScheduleSingle,
    _PipelineScheduleRuntime,
    get_schedule_class,
)

from ..names import canonical_name
from ..plan import Plan
from ..positions import local_part
from ..process import seed_draws
from .cut import borrowed
from .stages import Call, Stages


class SeededStage(PipelineStage):
    """A stage that draws its random numbers from its micro-batch's seed, whenever it is its turn,
    so that the order of a schedule changes none of them. Final."""

    seed_of: Callable[[int, int], int]

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        seed_draws(self.seed_of(self.stage_index, fwd_chunk_id), self.device)
        return super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)


@final
class Pipeline:
    """Runs windows of micro-batches through the stages of one rank and its peers."""

    def __init__(self, stages: Stages, plan: Plan, *, schedule: str, device: torch.device) -> None:
        self.stages = stages
        self.schedule = schedule
        self.device = device
        self._ties = _ties(stages, plan)
        self._runner: Any = None
        self._made_for: tuple[Any, ...] = ()
        self._loss_of: Callable[[int, Tensor], Tensor] | None = None
        self._seed_of: Callable[[int, int], int] = lambda stage, number: number

    def run(
        self,
        calls: Sequence[Call],
        loss_of: Callable[[int, Tensor], Tensor],
        seed_of: Callable[[int, int], int],
    ) -> list[Tensor]:
        """Collective over the pipeline: forward and backward of a window's micro-batches, the
        gradients summed once over the ranks of PARAM at its end. Blocks.

        Args:
            calls: one a micro-batch, all of the same shapes; equal on all ranks of the pipeline.
            loss_of: (number of a micro-batch, the model's output) -> its loss, 0-d; called on the
                rank that has the last stage.
            seed_of: (stage, number of a micro-batch) -> the seed of its random numbers.

        Returns:
            Each micro-batch's loss on the rank that has the last stage, nothing elsewhere.

        Raises:
            ValueError: the schedule cannot run that many micro-batches.
        """
        self._loss_of, self._seed_of = loss_of, seed_of
        calls = [self.stages.cut_call(call) for call in calls]
        self._prepare(calls)
        first = torch.cat([call.first for call in calls])
        losses: list[Tensor] = []
        self._runner.step(
            *((first,) if 0 in self.stages.indices else ()),
            target=torch.arange(len(calls)) if self.stages.has_last else None,
            losses=losses if self.stages.has_last else None,
            return_outputs=False,
            **_joined([call.arguments for call in calls]),
        )
        self._sum_ties()
        return [loss.detach() for loss in losses]

    def _prepare(self, calls: Sequence[Call]) -> None:
        made_for = (len(calls), calls[0].first.shape, calls[0].first.dtype)
        if made_for == self._made_for:
            return
        # A forward by relay says which shapes the stages hand on; torch would learn them by
        # running each stage on made-up values, a loss included, and exchange them by pickle.
        with torch.no_grad():
            self.stages.relay(calls[0])
        self._runner = self._schedule([self._torch_stage(i) for i in self.stages.indices], calls)
        self._made_for = made_for

    def _torch_stage(self, index: int) -> SeededStage:
        inputs, outputs = (
            torch.empty_like(shape, device=self.device) for shape in self.stages.shapes[index]
        )
        if index > 0:
            inputs.requires_grad_()
        if index < self.stages.num_stages - 1:
            outputs.requires_grad_()
        stage = SeededStage(
            self.stages.stage(index),
            index,
            self.stages.num_stages,
            self.device,
            input_args=inputs,
            output_args=outputs,
            group=self.stages.group,
        )
        stage.seed_of = lambda at, number: self._seed_of(at, number)
        return stage

    def _schedule(self, stages: list[SeededStage], calls: Sequence[Call]) -> Any:
        keywords = {"n_microbatches": len(calls), "loss_fn": self._loss, "scale_grads": False}
        try:
            if self.schedule.endswith(".csv"):
                runner = _PipelineScheduleRuntime(stages, **keywords)
                runner._load_csv(self.schedule)
                return runner
            kind = get_schedule_class(self.schedule)
            is_single = issubclass(kind, PipelineScheduleSingle)
            return kind(stages[0] if is_single else stages, **keywords)
        except (ValueError, AssertionError) as error:
            raise ValueError(
                f"parallel.schedule={self.schedule}: found {len(calls)} micro-batches for "
                f"{self.stages.num_stages} stages, which torch's schedule refuses: {error}; set "
                "another parallel.schedule or train.microbatch_samples"
            ) from error

    def _loss(self, output: Tensor, number: Tensor) -> Tensor:
        assert self._loss_of is not None
        return self._loss_of(int(number), output)

    def _sum_ties(self) -> None:
        """Adds the gradients of the two copies of a tied parameter, on both stages alike."""
        for tie in self._ties:
            if tie.owner is not None and tie.borrower is not None:
                total = _local_grad(tie.owner) + _local_grad(tie.borrower)
                _local_grad(tie.owner).copy_(total)
                _local_grad(tie.borrower).copy_(total)
                continue
            mine = tie.owner if tie.owner is not None else tie.borrower
            assert mine is not None
            grad = _local_grad(mine)
            sent, received = grad.contiguous().clone(), torch.empty_like(grad)
            peer = dist.get_global_rank(self.stages.group, tie.peer)
            operations = [
                dist.P2POp(dist.isend, sent, peer, self.stages.group),
                dist.P2POp(dist.irecv, received, peer, self.stages.group),
            ]
            for work in dist.batch_isend_irecv(operations):
                work.wait()
            grad.add_(received)  # a + b is b + a, bit for bit


@dataclass(frozen=True, slots=True)
class _Tie:
    """A tied pair as this rank has it: one of the two and the rank of the other, or both."""

    owner: nn.Parameter | None
    borrower: nn.Parameter | None
    peer: int


def _ties(stages: Stages, plan: Plan) -> list[_Tie]:
    """The pairs of `plan.tied` that lie on the first and the last stage."""
    first, last = 0, stages.num_stages - 1
    found = []
    for borrower, owner in plan.tied:
        here = {
            index: {canonical_name(n): p for n, p in stage.named_parameters(remove_duplicate=False)}
            for index, stage in stages.own()
        }
        lent = {index: borrowed(stage, plan) for index, stage in stages.own()}
        is_whole = borrower in here.get(first, {})  # both in one stage: one tensor, one gradient
        of_owner = None if is_whole else here.get(first, {}).get(owner)
        of_borrower = here.get(last, {}).get(borrower) if borrower in lent.get(last, {}) else None
        if of_owner is not None or of_borrower is not None:
            peer = stages.ranks[last if of_owner is not None else first]
            found.append(_Tie(of_owner, of_borrower, peer))
    return found


def _local_grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return local_part(parameter.grad)


def _joined(arguments: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The keyword arguments of all micro-batches, tensors joined along dim 0, as schedules split
    them again."""
    return {
        name: torch.cat([one[name] for one in arguments]) if isinstance(value, Tensor) else value
        for name, value in arguments[0].items()
    }
