"""What stands out of the last steps, and how often a run may go back for it."""

import math
from typing import Any

import pytest

from keepstep.trainer.guard.config import GuardConfig
from keepstep.trainer.guard.watch import Rolled, Watch
from keepstep.trainer.history import LossHistory


def wobble(step: int) -> float:
    return 1.0 + 0.1 * math.sin(step)


def watched(steps: int = 64, *, sign: float = 1.0, **settings: Any) -> Watch:
    """After so many usual steps of a loss of 2 and a norm of 1, give or take a tenth."""
    watch = Watch(GuardConfig(**settings))
    for step in range(steps):
        watch.add(sign * (1.0 + wobble(step)), wobble(step + 3))
    return watch


@pytest.mark.parametrize(
    ("loss", "norm", "what"),
    [
        (2.0, 1.0, None),
        (2.5, 2.0, None),
        (2.0, 50.0, "gradient norm"),
        (40.0, 1.0, "loss"),
        (40.0, 50.0, "gradient norm"),
        (0.01, 0.001, None),
        (math.nan, math.inf, None),
    ],
)
def test_a_spike_is_what_stands_far_above_the_last_steps(
    loss: float, norm: float, what: str | None
) -> None:
    spike = watched().judge(loss, norm)
    assert (spike and spike.what) == what


def test_a_spike_says_what_and_how_far() -> None:
    spike = watched().judge(2.0, 50.0)
    assert spike is not None
    assert spike.value == 50.0
    assert str(spike).startswith("gradient norm 50 stands ")
    assert spike.score > 10


def test_nothing_is_judged_before_there_are_enough_steps() -> None:
    assert watched(63).judge(2.0, 50.0) is None
    assert watched(16, history=16).judge(2.0, 50.0) is not None


@pytest.mark.parametrize(("key", "numbers"), [("norm", (2.0, 50.0)), ("loss", (40.0, 1.0))])
def test_a_threshold_of_zero_judges_nothing(key: str, numbers: tuple[float, float]) -> None:
    assert watched(**{f"{key}_threshold": 0.0}).judge(*numbers) is None


def test_losses_below_zero_are_judged_as_they_are() -> None:
    watch = watched(sign=-1.0)
    assert watch.judge(-2.1, 1.0) is None
    spike = watch.judge(3.0, 1.0)
    assert spike is not None
    assert spike.what == "loss"


def test_losses_of_zero_say_nothing_of_others() -> None:
    history = LossHistory()
    for _ in range(64):
        history.add(0.0)
    assert history.score(1.0) is None


def test_rollbacks_count_over_the_samples_of_so_many_steps() -> None:
    watch = watched(max_rollbacks=2, rollback_steps=10)
    assert not watch.is_too_often(800, 8)
    watch.rolled = [Rolled(50, 49, 392, 408), Rolled(51, 50, 416, 432)]
    assert watch.is_too_often(480, 8)
    assert not watch.is_too_often(488, 8)


def test_no_rollback_is_allowed_where_none_is() -> None:
    assert watched(max_rollbacks=0).is_too_often(800, 8)


def test_a_watch_goes_through_a_manifest() -> None:
    watch = watched()
    watch.rolled, watch.compared = [Rolled(met=9, to=7, first=56, end=80)], 7
    again, saved = Watch(GuardConfig()), {"step": 9, **watch.state_dict()}
    again.take(saved)
    assert saved == {"step": 9}
    assert again.state_dict() == watch.state_dict()
    assert again.judge(2.0, 50.0) == watch.judge(2.0, 50.0)


def test_a_manifest_of_an_older_release_has_no_losses() -> None:
    watch = Watch(GuardConfig())
    watch.take({"grad_norms": [0.0] * 64})
    assert (len(watch.norms), watch.rolled, watch.compared) == (64, [], 0)
    assert watch.judge(1e9, 1.0) is None


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"norm_threshold": -1.0}, "guard.norm_threshold: found -1.0, needed 0 or more"),
    ({"loss_threshold": math.inf}, "guard.loss_threshold: found inf, needed 0 or more"),
    ({"history": 8}, "guard.history: found 8, needed 16 to 128"),
    ({"rollback_snapshots": 0}, "guard.rollback_snapshots: found 0, needed 1 or more"),
    ({"max_rollbacks": -1}, "guard.max_rollbacks: found -1, needed 0 or more"),
    ({"compare_every": -5}, "guard.compare_every: found -5, needed 0 or more"),
]


@pytest.mark.parametrize(("values", "words"), WRONG)
def test_a_wrong_setting_is_refused_in_one_sentence(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}; set "):
        GuardConfig(**values)
