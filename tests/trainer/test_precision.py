"""Whole runs in every dtype policy: they train on every layout, and fp16 steps over overflows."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import Corpus, differs, events, losses, observed, summary, train

from keepstep.trainer import Trainer
from keepstep.trainer.update import Verdict

importlib.import_module("torchao.float8")  # seconds: once here instead of in each rank

SHORT = (
    *("train.steps=6", "train.batch_samples=8", "checkpoint.at_end=false", "model.num_kv_heads=2"),
    "model.num_layers=2",
)
LAYOUTS = {
    "1": (1, ()),
    "shard2": (2, ("parallel.shard=2",)),
    "tensor2": (2, ("parallel.tensor=2",)),
    "pipeline2": (2, ("parallel.pipeline=2",)),
}
EMULATED = ("precision=fp8", "precision.emulate=true")
# With how far a curve may be from float32's, and that of a layout from that of one rank.
POLICIES = {
    "bf16": (("precision=bf16",), 0.02, 2e-3),
    "bf16_pure": (("precision=bf16_pure",), 0.05, 5e-3),
    "fp16": (("precision=fp16",), 0.005, 5e-4),
    "fp8": (EMULATED, 0.05, 1e-2),
    "fp8-rowwise": ((*EMULATED, "precision.recipe=rowwise"), 0.05, 1e-2),
}
PAIRS = [
    *[(policy, layout) for policy in ("bf16_pure", "fp8") for layout in LAYOUTS],
    *[("fp16", "shard2"), ("fp16", "pipeline2"), ("bf16", "tensor2"), ("fp8-rowwise", "1")],
]


@pytest.fixture(scope="module")
def curves(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The loss curve of a policy on a layout, computed once."""
    known: dict[tuple[str, str], list[float]] = {}

    def curve(policy: str, layout: str) -> list[float]:
        if (policy, layout) not in known:
            folder = tmp_path_factory.mktemp("curve") / "run"
            size, degrees = LAYOUTS[layout]
            chosen = POLICIES[policy][0] if policy in POLICIES else (f"precision={policy}",)
            assert train(corpus.config(folder, *SHORT, *chosen, *degrees), size) == [0] * size
            known[policy, layout] = losses(folder)
        return known[policy, layout]

    return curve


@pytest.mark.slow(but=["fp8-1", "fp8-shard2", "bf16_pure-shard2", "fp16-pipeline2"])
@pytest.mark.parametrize(("policy", "layout"), PAIRS)
def test_every_policy_trains_near_fp32_on_every_layout(
    curves: Any, policy: str, layout: str
) -> None:
    found, (_, from_fp32, from_one) = curves(policy, layout), POLICIES[policy]
    assert found[-1] < found[0] - 0.5
    assert 0 < differs(found, curves("fp32", "1")) < from_fp32
    assert differs(found, curves(policy, "1")) < from_one


def overflowing(at: int, on: int) -> Any:
    """An observer that makes a gradient of rank `on` infinite in the step with index `at`."""

    def observe(trainer: Trainer, rank: int) -> list[Any]:
        real, seen = trainer.updater.update, []

        def update(parts: torch.Tensor, **wishes: bool) -> Verdict:
            if rank == on and trainer.progress.step == at:
                local(trainer.updater.parameters[0].grad).fill_(float("inf"))
            before = [local(p).clone() for p in trainer.updater.parameters]
            verdict = real(parts, **wishes)
            after = [local(p) for p in trainer.updater.parameters]
            kept = all(map(torch.equal, before, after))
            seen.append((verdict.applied, verdict.is_overflow, kept, trainer.job.scale.scale))
            return verdict

        trainer.updater.update = update
        return seen

    return observe


def local(tensor: Any) -> torch.Tensor:
    return tensor.to_local()


@pytest.mark.slow(but=["2-degrees0-0", "2-degrees2-1"])
@pytest.mark.parametrize(
    ("size", "degrees", "on"),
    [
        (2, ("parallel.pipeline=2",), 0),
        (2, ("parallel.pipeline=2",), 1),
        (2, ("parallel.shard=2",), 1),
        (2, ("parallel.replicate=2",), 1),
        (2, ("parallel.tensor=2",), 1),
    ],
)
def test_fp16_an_overflow_on_one_rank_is_skipped_on_all_and_scales_stay_equal(
    corpus: Corpus, tmp_path: Path, size: int, degrees: tuple[str, ...], on: int
) -> None:
    config = corpus.config(tmp_path / "run", *SHORT, "train.steps=4", "precision=fp16", *degrees)
    found = observed(config, size, overflowing(at=1, on=on))
    applied, skipped = (True, False, False), (False, True, True)
    scales = [2.0**16, 2.0**15, 2.0**15, 2.0**15]
    wanted = [
        (*kind, s) for kind, s in zip([applied, skipped, applied, applied], scales, strict=True)
    ]
    assert found == [wanted] * size
    (event,) = events(tmp_path / "run", "overflow")
    assert (event["step"], event["loss_scale"]) == (2, 2.0**15)
    assert events(tmp_path / "run", "skip") == []
    assert summary(tmp_path / "run")["skips"] == 0
    assert losses(tmp_path / "run")[2:3] != losses(tmp_path / "run")[3:]


def test_fp16_a_scale_that_is_too_large_is_searched_down_until_steps_are_applied(
    corpus: Corpus, tmp_path: Path
) -> None:
    def observe(trainer: Trainer, rank: int) -> list[Any]:
        trainer.job.scale.scale = 2.0**24
        return overflowing(at=-1, on=-1)(trainer, rank)

    config = corpus.config(tmp_path / "run", *SHORT, "train.steps=12", "precision=fp16")
    (found,) = observed(config, 1, observe)
    count = len(events(tmp_path / "run", "overflow"))
    overflows = [line[1] for line in found]
    assert (overflows[0], overflows[-1], sum(overflows)) == (True, False, count)
    assert [line[3] for line in found] == [
        2.0 ** (24 - sum(overflows[: step + 1])) for step in range(12)
    ]
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]


def test_fp16_a_loss_that_is_not_finite_is_a_skip_and_leaves_the_scale(
    corpus: Corpus, tmp_path: Path
) -> None:
    def observe(trainer: Trainer, rank: int) -> list[Any]:
        seen = overflowing(at=1, on=0)(trainer, rank)
        inner = trainer.updater.update
        trainer.updater.update = lambda parts, **wishes: inner(
            parts * float("nan") if trainer.progress.step == 1 else parts, **wishes
        )
        return seen

    config = corpus.config(tmp_path / "run", *SHORT, "train.steps=3", "precision=fp16")
    (found,) = observed(config, 1, observe)
    assert [line[0] for line in found] == [True, False, True]
    assert {line[3] for line in found} == {2.0**16}
    assert [event["step"] for event in events(tmp_path / "run", "skip")] == [2]
    assert summary(tmp_path / "run")["skips"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "layout"), [("fp16", "shard2"), ("fp16", "pipeline2"), ("bf16_pure", "shard2")]
)
def test_a_stop_and_a_resumption_change_no_bit(
    corpus: Corpus, tmp_path: Path, policy: str, layout: str
) -> None:
    size, degrees = LAYOUTS[layout]
    chosen = (*SHORT[:2], "train.steps=4", "model.num_layers=2", f"precision={policy}", *degrees)

    def observe(trainer: Trainer, rank: int) -> list[Any]:
        return overflowing(at=1, on=1 if policy == "fp16" else -1)(trainer, rank)

    straight = corpus.config(tmp_path / "straight", *chosen)
    observed(straight, size, observe)
    stopped = corpus.config(tmp_path / "run", *chosen, "train.steps=2")
    observed(stopped, size, observe)
    rest = observed(corpus.config(tmp_path / "run", *chosen, "run.on_change=accept"), size, observe)
    assert len(rest[0]) == 2
    assert {line[3] for line in rest[0]} == {2.0**15 if policy == "fp16" else 1.0}
    ends = [summary(tmp_path / name)["state_digest"] for name in ("run", "straight")]
    assert ends[0] == ends[1]


def weights(trainer: Trainer, rank: int) -> list[Any]:
    """Whole parameters after the run, by name, and their dtypes; filled in at its end."""
    seen: list[Any] = []
    real = trainer._finish

    def finish() -> int:
        code = real()
        seen.extend((n, p.full_tensor().detach()) for n, p in trainer.job.module.named_parameters())
        return code

    trainer._finish = finish  # type: ignore[method-assign]
    return seen


@pytest.mark.slow
def test_bf16_pure_keeps_bf16_and_two_ranks_end_near_one(corpus: Corpus, tmp_path: Path) -> None:
    chosen = (*SHORT, "precision=bf16_pure", "optim.state_dtype=bf16")
    one = dict(observed(corpus.config(tmp_path / "one", *chosen), 1, weights)[0])
    two = dict(observed(corpus.config(tmp_path / "two", *chosen), 2, weights)[0])
    assert {tensor.dtype for tensor in (*one.values(), *two.values())} == {torch.bfloat16}
    for name, tensor in one.items():
        scale = tensor.float().square().mean().sqrt()
        # Adam's first steps are as large for tiny gradients, whose signs rounding decides.
        assert (two[name].float() - tensor.float()).square().mean().sqrt() < 0.25 * scale, name
