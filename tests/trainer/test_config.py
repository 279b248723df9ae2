"""Each config object refuses its own wrong values in one sentence, and touches nothing else."""

from typing import Any

import pytest

from keepstep.trainer.config import (
    ConstantConfig,
    CosineConfig,
    InverseSqrtConfig,
    LinearConfig,
    LlamaConfig,
    ModelConfig,
    RecoveryConfig,
    RunSection,
    ScheduleConfig,
    TelemetryConfig,
    TrainConfig,
    WSDConfig,
)


def llama(**changes: Any) -> LlamaConfig:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_layers": 1}
    return LlamaConfig(**{"name": "x", "num_heads": 2, "num_kv_heads": 1, **sizes, **changes})


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (llama, {"hidden_size": 0}, "model.hidden_size: found 0, needed 1 or more"),
    (llama, {"num_layers": -1}, "model.num_layers: found -1, needed 1 or more"),
    (llama, {"hidden_size": 10}, r"model.hidden_size: found 10, needed a multiple of 2 x .* \(4\)"),
    (llama, {"num_kv_heads": 3}, r"model.num_heads: found 2, needed a multiple of .* \(3\)"),
    (ScheduleConfig, {"warmup_steps": -1}, "schedule.warmup_steps: found -1, needed 0 or more"),
    (ScheduleConfig, {"min_ratio": 1.1}, "schedule.min_ratio: found 1.1, needed 0 to 1"),
    (WSDConfig, {"min_ratio": -0.1}, "schedule.min_ratio: found -0.1, needed 0 to 1"),
    (WSDConfig, {"decay_fraction": 2.0}, "schedule.decay_fraction: found 2.0, needed 0 to 1"),
    (ConstantConfig, {"min_ratio": 0.5}, "schedule.min_ratio: found 0.5, needed 1 for a constant"),
    (LinearConfig, {"min_ratio": 1.5}, "schedule.min_ratio: found 1.5, needed 0 to 1"),
    (InverseSqrtConfig, {"warmup_steps": -2}, "schedule.warmup_steps: found -2, needed 0 or more"),
    (CosineConfig, {"name": "wsd"}, "schedule.name: found 'wsd', needed cosine"),
    (TrainConfig, {"steps": 0}, "train.steps: found 0, needed 1 or more"),
    (TrainConfig, {"batch_samples": 0}, "train.batch_samples: found 0, needed 1 or more"),
    (TrainConfig, {"eval_every": -1}, "train.eval_every: found -1, needed 0 or more"),
    (TrainConfig, {"max_skips": -1}, "train.max_skips: found -1, needed 0 or more"),
    (RecoveryConfig, {"max_recoveries": -1}, "recovery.max_recoveries: found -1, needed 0 or"),
    (RecoveryConfig, {"grace_seconds": 0.0}, "recovery.grace_seconds: found 0.0, needed more"),
    (RecoveryConfig, {"straggler_seconds": -1.0}, "recovery.straggler_seconds: found -1.0, needed"),
    (RecoveryConfig, {"straggler_ratio": 1.0}, "recovery.straggler_ratio: found 1.0, needed more"),
    (
        RecoveryConfig,
        {"straggler_bound": 1.2},
        r"recovery.straggler_bound: found 1.2, needed 0, or recovery.straggler_ratio=1.5 or more",
    ),
    (TelemetryConfig, {"progress_seconds": -1.0}, "telemetry.progress_seconds: found -1.0, needed"),
    (RunSection, {"resume": "newest"}, "run.resume: found 'newest', needed auto, never, must or"),
    (RunSection, {"resume": "-3"}, "run.resume: found '-3', needed auto, never, must or"),
]


@pytest.mark.parametrize(("kind", "values", "words"), WRONG)
def test_a_wrong_value_is_refused_with_key_found_needed_and_remedy(
    kind: Any, values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=f"^{words}") as caught:
        kind(**values)
    assert "; " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (ScheduleConfig, {"warmup_steps": 0, "min_ratio": 1.0}),
        (WSDConfig, {"decay_fraction": 1.0, "min_ratio": 0.0}),
        (TrainConfig, {"eval_every": 0, "eval_samples": 0, "max_skips": 0, "sample_tokens": 0}),
        (TrainConfig, {"steps": 1, "microbatch_samples": 1, "batch_samples": None}),
        (RecoveryConfig, {"hang_seconds": 0.0, "max_recoveries": 0}),
        (RunSection, {"resume": "17"}),
        (llama, {"num_heads": 4, "num_kv_heads": 4}),
    ],
)
def test_values_at_the_edges_are_taken(kind: Any, values: dict[str, Any]) -> None:
    made = kind(**values)
    assert {name: getattr(made, name) for name in values} == values


def test_an_unknown_field_cannot_be_set() -> None:
    config = TrainConfig()
    with pytest.raises(AttributeError):
        config.stps = 5  # type: ignore[attr-defined]


def test_a_model_needs_a_name() -> None:
    with pytest.raises(TypeError, match="name"):
        ModelConfig()  # type: ignore[call-arg]
