"""One verdict for the world: a step is applied by all or by none, and wishes of one reach all."""

from typing import Any

import pytest
import torch
from support.world import run_world
from torch import nn

from keepstep.parallel import (
    Degrees,
    LossScale,
    ParallelConfig,
    Plan,
    Policy,
    PrecisionConfig,
    Topology,
    assemble,
)
from keepstep.trainer.guard.findings import Odd, Spike
from keepstep.trainer.sums import PlainSums
from keepstep.trainer.update import Updater, Verdict

CPU = torch.device("cpu")
SPIKE = Spike(what="loss", value=3.0, score=12.5)


def updater(
    size: int, *, replicate: int = 1, clip_norm: float = 0.0, scale: LossScale | None = None
) -> Updater:
    """A linear layer of ones under plain SGD with rate 1, so that a step subtracts the gradient."""
    degrees = Degrees.resolve(ParallelConfig(replicate=replicate), size)
    topology = Topology.create(degrees, "cpu")
    module = assemble(
        lambda: nn.Linear(4, 4, bias=False),
        plan=Plan(),
        topology=topology,
        policy=Policy.of(PrecisionConfig()),
        device=CPU,
        seed=0,
    )
    with torch.no_grad():
        module.weight.fill_(1.0)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    return Updater(
        PlainSums({"weight": list(module.parameters())}),
        [],
        optimizer,
        topology,
        clip_norm=clip_norm,
        scale=scale or LossScale(),
        end_step=lambda applied: None,
        wait=lambda: 0.0,
    )


def update(made: Updater, gradient: float, loss: float = 1.0, **wishes: Any) -> Verdict:
    for parameter in made.parameters:
        parameter.grad = torch.full_like(parameter, gradient)
    wanted = {"wants_stop": False, "wants_save": False, **wishes}
    return made.update(torch.tensor([loss]), **wanted)


def weights(made: Updater) -> list[float]:
    return sorted(set(made.parameters[0].full_tensor().flatten().tolist()))


def test_a_finite_step_is_applied_and_its_gradient_cleared() -> None:
    def body(rank: int) -> None:
        made = updater(1)
        verdict = update(made, 0.25)
        assert verdict == Verdict(
            applied=True,
            loss=1.0,
            grad_norm=1.0,
            is_stop=False,
            is_save=False,
            group_norms={"weight": 1.0},
        )
        assert weights(made) == [0.75]
        assert made.parameters[0].grad is None

    run_world(1, body)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("replicate", [1, 2])
def test_a_gradient_that_is_not_finite_on_one_rank_is_skipped_by_all(
    value: float, replicate: int
) -> None:
    def body(rank: int) -> tuple[bool, list[float]]:
        made = updater(2, replicate=replicate)
        verdict = update(made, value if rank == 1 else 0.25)
        assert made.parameters[0].grad is None
        return verdict.applied, weights(made)

    assert run_world(2, body) == [(False, [1.0])] * 2


def test_a_loss_that_is_not_finite_on_one_rank_is_skipped_by_all() -> None:
    def body(rank: int) -> tuple[bool, list[float]]:
        made = updater(2)
        applied = update(made, 0.25, float("nan") if rank == 0 else 1.0).applied
        return applied, weights(made)

    assert run_world(2, body) == [(False, [1.0])] * 2


def test_a_step_after_a_skipped_one_is_applied() -> None:
    def body(rank: int) -> list[bool]:
        made = updater(2)
        applied = [update(made, gradient).applied for gradient in (float("nan"), 0.5)]
        assert weights(made) == [0.5]
        return applied

    assert run_world(2, body) == [[False, True]] * 2


@pytest.mark.parametrize("wish", ["stop", "save", "snapshot", "look"])
def test_the_wish_of_one_rank_is_the_verdict_of_all(wish: str) -> None:
    def body(rank: int) -> dict[str, bool]:
        verdict = update(updater(2), 0.25, **{f"wants_{wish}": rank == 1})
        assert verdict.applied
        return {
            name: getattr(verdict, f"is_{name}") for name in ("stop", "save", "snapshot", "look")
        }

    one = {name: name == wish for name in ("stop", "save", "snapshot", "look")}
    assert run_world(2, body) == [one] * 2


def test_a_wish_counts_in_a_step_that_is_skipped() -> None:
    def body(rank: int) -> Verdict:
        return update(updater(1), float("nan"), wants_stop=True)

    (verdict,) = run_world(1, body)
    assert (verdict.applied, verdict.is_stop) == (False, True)


def test_a_spike_is_judged_by_the_numbers_of_all_ranks_and_not_applied() -> None:
    def body(rank: int) -> tuple[bool, str, list[float]]:
        made, seen = updater(2), []
        made.judge = lambda loss, norm: seen.append((loss, norm)) or SPIKE
        verdict = update(made, 0.25, loss=1.0 + rank)
        assert seen == [(3.0, pytest.approx(1.0))]
        assert made.parameters[0].grad is None
        return verdict.applied, str(verdict.spike), weights(made)

    words = "loss 3 stands 12.5 robust standard deviations out"
    assert run_world(2, body) == [(False, words, [1.0])] * 2


def test_a_step_that_is_not_finite_is_no_spike() -> None:
    def body(rank: int) -> Verdict:
        made = updater(1)
        made.judge = lambda loss, norm: SPIKE
        return update(made, 0.25, loss=float("nan"))

    (verdict,) = run_world(1, body)
    assert (verdict.applied, verdict.spike) == (False, None)


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        ((Odd.none, Odd.suspect), Odd.suspect),
        ((Odd.corrupt, Odd.suspect), Odd.corrupt),
        ((Odd.none, Odd.none), Odd.none),
    ],
)
def test_odd_bits_on_one_rank_keep_all_from_the_step(own: tuple[Odd, Odd], wanted: Odd) -> None:
    def body(rank: int) -> tuple[bool, Odd]:
        verdict = update(updater(2), 0.25, odd=own[rank])
        return verdict.applied, verdict.odd

    assert run_world(2, body) == [(wanted is Odd.none, wanted)] * 2


@pytest.mark.parametrize("size", [1, 2])
def test_a_gradient_over_the_bound_is_scaled_to_it_by_its_whole_norm(size: int) -> None:
    def body(rank: int) -> tuple[float, list[float]]:
        made = updater(size, clip_norm=1.0)
        return update(made, 1.0).grad_norm, weights(made)

    for norm, ends in run_world(size, body):
        assert norm == pytest.approx(4.0)
        assert ends == pytest.approx([0.75])


def test_a_gradient_under_the_bound_keeps_its_bits() -> None:
    def body(rank: int) -> list[float]:
        made = updater(1, clip_norm=5.0)
        update(made, 0.25)
        return weights(made)

    assert run_world(1, body) == [[0.75]]
