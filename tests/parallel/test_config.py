"""What ParallelConfig and PrecisionConfig accept, refuse and say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import ValidationError

from keepstep.parallel import (
    ContextAttention,
    DeviceKind,
    MemoryConfig,
    ParallelConfig,
    PrecisionConfig,
    PrecisionName,
    Recompute,
)


@pytest.mark.parametrize("name", ["replicate", "context", "tensor", "pipeline", "expert"])
def test_a_degree_below_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"parallel\.{name}: found 0, needed 1 or more; set"):
        ParallelConfig(**{name: 0})


@pytest.mark.parametrize("found", [0, -2])
def test_shard_is_minus_one_or_at_least_one(found: int) -> None:
    with pytest.raises(ValueError, match=rf"parallel\.shard: found {found}, needed .*or -1"):
        ParallelConfig(shard=found)


def test_an_unknown_schedule_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"found 'zbv', needed one of .*schedule=ZBVZeroBubble"):
        ParallelConfig(schedule="zbv")
    with pytest.raises(ValueError, match=r"schedule=Interleaved1F1B$"):
        ParallelConfig(schedule="interleaved1f1b")
    assert ParallelConfig(schedule="my/own.csv").schedule == "my/own.csv"


def test_a_recompute_budget_needs_compiled_blocks() -> None:
    with pytest.raises(ValueError, match=r"memory\.recompute=budget: found memory\.compile=false"):
        MemoryConfig(recompute=Recompute.budget)
    with pytest.raises(ValueError, match=r"memory\.activation_budget: found 1\.5, needed 0 to 1"):
        MemoryConfig(activation_budget=1.5)
    with pytest.raises(ValueError, match=r"memory\.loss_chunk_tokens: found 0, needed 1 or more"):
        MemoryConfig(loss_chunk_tokens=0)


@given(st.sampled_from([0.0, -1.0, float("inf"), float("nan")]))
def test_a_deadline_is_a_finite_time_above_zero(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"parallel\.timeout_seconds: found .*needed a finite"):
        ParallelConfig(timeout_seconds=seconds)


def test_a_negative_number_of_microbatches_is_refused() -> None:
    with pytest.raises(ValueError, match=r"parallel\.microbatches: found -1, needed 0 or more"):
        ParallelConfig(microbatches=-1)


def test_members_of_the_choices_are_named_as_their_values() -> None:
    for choice in (DeviceKind, PrecisionName, ContextAttention, Recompute):
        assert [member.name for member in choice] == [member.value for member in choice]


def test_a_structured_config_comes_back_as_itself() -> None:
    composed = OmegaConf.merge(
        OmegaConf.structured(ParallelConfig), OmegaConf.from_dotlist(["shard=2", "device=cpu"])
    )
    assert OmegaConf.to_object(composed) == ParallelConfig(shard=2, device=DeviceKind.cpu)


def test_an_unknown_precision_is_refused_with_the_choices() -> None:
    with pytest.raises(ValidationError, match="fp32, tf32, bf16"):
        OmegaConf.merge(
            OmegaConf.structured(PrecisionConfig), OmegaConf.from_dotlist(["name=fp64"])
        )
