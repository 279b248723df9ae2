"""Each optimizer's config refuses its own wrong values in one sentence."""

from typing import Any

import pytest

from keepstep.trainer.optim.config import (
    AdamWConfig,
    Implementation,
    LionConfig,
    MuonConfig,
    OptimConfig,
    SGDConfig,
)

WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (OptimConfig, {"lr": 0.0}, "optim.lr: found 0.0, needed a finite number above 0"),
    (OptimConfig, {"lr": float("nan")}, "optim.lr: found nan, needed a finite number above 0"),
    (AdamWConfig, {"beta1": 1.0}, "optim.beta1: found 1.0, needed 0 <= value < 1"),
    (AdamWConfig, {"beta2": -0.1}, "optim.beta2: found -0.1, needed 0 <= value < 1"),
    (OptimConfig, {"clip_norm": -1.0}, "optim.clip_norm: found -1.0, needed 0 or more"),
    (OptimConfig, {"ema_decay": 1.0}, "optim.ema_decay: found 1.0, needed 0 <= value < 1"),
    (SGDConfig, {"ema_eval": True}, "optim.ema_eval: found True, needed false without an average"),
    (AdamWConfig, {"eps": -1.0}, "optim.eps: found -1.0, needed 0 or more"),
    (AdamWConfig, {"name": "lion"}, "optim.name: found 'lion', needed adamw"),
    (LionConfig, {"lr": -1.0}, "optim.lr: found -1.0, needed a finite number above 0"),
    (LionConfig, {"beta2": 1.5}, "optim.beta2: found 1.5, needed 0 <= value < 1"),
    (
        LionConfig,
        {"implementation": Implementation.fused},
        "optim.implementation: found 'fused', needed auto, foreach or loop",
    ),
    (SGDConfig, {"momentum": 1.0}, "optim.momentum: found 1.0, needed 0 <= value < 1"),
    (
        SGDConfig,
        {"momentum": 0.0, "nesterov": True},
        "optim.nesterov: found True, needed false without momentum",
    ),
    (
        SGDConfig,
        {"implementation": Implementation.fused},
        "optim.implementation: found 'fused', needed auto, foreach or loop",
    ),
    (MuonConfig, {"iterations": 0}, "optim.iterations: found 0, needed 1 or more"),
    (MuonConfig, {"adamw_ratio": 0.0}, "optim.adamw_ratio: found 0.0, needed a finite number"),
    (MuonConfig, {"weight_decay": -0.1}, "optim.weight_decay: found -0.1, needed 0 or more"),
    (
        MuonConfig,
        {"implementation": Implementation.fused},
        "optim.implementation: found 'fused', needed auto, foreach or loop",
    ),
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
        (AdamWConfig, {"beta1": 0.0, "eps": 0.0, "weight_decay": 0.0, "clip_norm": 0.0}),
        (SGDConfig, {"momentum": 0.0, "nesterov": False}),
        (LionConfig, {"beta1": 0.0, "beta2": 0.0}),
        (MuonConfig, {"iterations": 1, "exclude": [], "momentum": 0.0}),
    ],
)
def test_values_at_the_edges_are_taken(kind: Any, values: dict[str, Any]) -> None:
    made = kind(**values)
    assert {name: getattr(made, name) for name in values} == values


@pytest.mark.parametrize("kind", [AdamWConfig, LionConfig, MuonConfig, SGDConfig])
def test_every_optimizer_has_the_keys_that_others_read(kind: type[OptimConfig]) -> None:
    made = kind(lr=0.5, weight_decay=0.25, clip_norm=2.0)
    assert (made.lr, made.weight_decay, made.clip_norm) == (0.5, 0.25, 2.0)
