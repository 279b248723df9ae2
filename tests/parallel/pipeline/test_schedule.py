"""Every schedule leaves the gradients of one process, a relay forwards as the whole model does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.decoder import Decoder, assembled, decoder_plan, tokens
from support.world import run_world
from torch import Tensor, nn

from keepstep.parallel import Call, ParallelConfig, Pipeline, Stages, canonical_name, initialise
from keepstep.parallel.config import SCHEDULES

CPU = torch.device("cpu")
COUNT = 4


def calls() -> list[Call]:
    return [Call(row[:, :-1], {"targets": row[:, 1:]}) for row in tokens(2 * COUNT).split(2)]


def whole(**model: Any) -> Decoder:
    module = Decoder(**model)
    initialise(module, decoder_plan(), seed=3)
    return module


def grads(module: nn.Module) -> dict[str, Tensor]:
    return {
        canonical_name(name): p.grad.full_tensor().clone() for name, p in module.named_parameters()
    }


def by_pipeline(
    schedule: str, *, size: int = 2, dropout: float = 0.0, **config: Any
) -> tuple[dict[str, Tensor], float]:
    """Gradients of all stages and the sum of losses after two windows of the same micro-batches."""

    def body(rank: int) -> tuple[dict[str, Tensor], float]:
        settings = ParallelConfig(pipeline=2, schedule=schedule, **config)
        module, _ = assembled(settings, dropout=dropout)
        assert isinstance(module, Stages)
        pipeline = Pipeline(module, decoder_plan(), schedule=schedule, device=CPU)
        for _ in range(2):
            for parameter in module.parameters():
                parameter.grad = None
            losses = pipeline.run(
                calls(), lambda number, output: output, lambda stage, number: 100 * stage + number
            )
            assert len(losses) == (COUNT if module.has_last else 0)
        return grads(module), float(sum(losses, torch.zeros(())))

    found = run_world(size, body)
    return {name: grad for one, _ in found for name, grad in one.items()}, sum(
        part for _, part in found
    )


@pytest.fixture(scope="module")
def reference() -> tuple[dict[str, Tensor], float]:
    module, total = whole(), 0.0
    for call in calls():
        loss = module(call.first, **call.arguments)
        loss.backward()
        total += float(loss.detach())
    return {name: p.grad for name, p in module.named_parameters()}, total


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_leaves_the_gradients_of_one_process(
    schedule: str, reference: tuple[dict[str, Tensor], float]
) -> None:
    found, loss = by_pipeline(schedule)
    assert loss == pytest.approx(reference[1], rel=1e-6)
    assert found.keys() == reference[0].keys()
    for name, grad in reference[0].items():
        assert (found[name] - grad).abs().max() <= 2e-6 * grad.abs().max(), name


CSV = """0F0,0F1,0F2,0F3,0B0,0B1,0B2,0B3
1F0,1B0,1F1,1B1,1F2,1B2,1F3,1B3
"""


def test_a_schedule_from_a_csv_is_run(
    tmp_path: Path, reference: tuple[dict[str, Tensor], float]
) -> None:
    path = tmp_path / "own.csv"
    path.write_text(CSV)
    found, loss = by_pipeline(str(path))
    assert loss == pytest.approx(reference[1], rel=1e-6)
    grad = reference[0]["embed.weight"]
    assert (found["embed.weight"] - grad).abs().max() <= 2e-6 * grad.abs().max()


def test_dropout_does_not_depend_on_the_order_of_a_schedule() -> None:
    one, other, plain = (
        by_pipeline("GPipe", dropout=0.5),
        by_pipeline("1F1B", dropout=0.5),
        by_pipeline("GPipe"),
    )
    assert one[1] == other[1] != plain[1]
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])


def test_a_schedule_that_torch_refuses_is_named() -> None:
    def body(rank: int) -> str:
        module, _ = assembled(ParallelConfig(pipeline=2))
        assert isinstance(module, Stages)
        pipeline = Pipeline(module, decoder_plan(), schedule="1F1B", device=CPU)
        with pytest.raises(ValueError, match="found 1 micro-batches for 2 stages") as caught:
            pipeline.run(calls()[:1], lambda _, output: output, lambda _, number: number)
        return str(caught.value)

    assert all("set another parallel.schedule" in words for words in run_world(2, body))


@pytest.mark.parametrize("schedule", ["1F1B", "Interleaved1F1B", "ZBVZeroBubble"])
def test_a_relay_gives_every_rank_the_output_of_the_whole_model(schedule: str) -> None:
    reference = whole()

    def body(rank: int) -> list[Tensor]:
        module, _ = assembled(ParallelConfig(pipeline=2, schedule=schedule))
        logits = module(tokens()[:, :5])  # the lengths may differ from call to call
        loss = module(tokens()[:, :-1], targets=tokens()[:, 1:])
        return [logits, module(tokens(1)[:, :3]), loss]

    with torch.no_grad():
        wanted = [
            reference(tokens()[:, :5]),
            reference(tokens(1)[:, :3]),
            reference(tokens()[:, :-1], targets=tokens()[:, 1:]),
        ]
    for found in run_world(2, body):
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", ["1F1B", "DualPipeV"])
def test_copies_of_a_tied_weight_have_the_gradient_of_both_uses(schedule: str) -> None:
    plan = decoder_plan(tied=(("head.weight", "embed.weight"),))
    reference = Decoder()
    initialise(reference, plan, seed=3)
    reference.head.weight = reference.embed.weight
    for call in calls():
        reference(call.first, **call.arguments).backward()

    def body(rank: int) -> dict[str, Tensor]:
        module, _ = assembled(ParallelConfig(pipeline=2, schedule=schedule), plan=plan)
        assert isinstance(module, Stages)
        pipeline = Pipeline(module, plan, schedule=schedule, device=CPU)
        pipeline.run(calls(), lambda _, output: output, lambda _, number: number)
        return grads(module)

    found = {name: grad for one in run_world(2, body) for name, grad in one.items()}
    wanted = reference.embed.weight.grad
    for name in ("embed.weight", "head.weight"):
        assert (found[name] - wanted).abs().max() <= 2e-6 * wanted.abs().max(), name
    assert torch.equal(found["embed.weight"], found["head.weight"])
