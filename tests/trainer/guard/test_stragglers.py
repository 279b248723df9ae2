"""A rank that stays slower than those with the same work is named once, and past a bound replaced
by another process: the run that comes out is the undisturbed one."""

import socket
from pathlib import Path

import pytest
from support.job import Job, Ran, overrides, start_job, tiny

from keepstep.trainer.guard.stragglers import Looks
from keepstep.trainer.recipe import MakeRecipe

LIKES = [range(4)]
BUSY = tiny(sleep_seconds=0.02)
OFTEN = ("recovery.straggler_seconds=0.001", "recovery.straggler_ratio=2")


def looks(*own: list[float], ratio: float = 1.5, step: float = 1.0) -> list[list[int]]:
    """Who is newly slow after each look."""
    seen = Looks(LIKES, ratio)
    return [sorted(seen.add(one, step)[1]) for one in own]


EVEN, SLOW = [1.0, 1.1, 0.9, 1.0], [1.0, 1.1, 3.0, 1.0]


def test_a_rank_is_named_in_its_third_slow_look_and_only_once() -> None:
    assert looks(*[SLOW] * 6) == [[], [], [2], [], [], []]


def test_one_even_look_begins_the_count_anew() -> None:
    assert looks(SLOW, SLOW, EVEN, SLOW, SLOW, EVEN, SLOW) == [[]] * 7


def test_who_was_named_is_named_again_only_after_three_even_looks() -> None:
    flapping = [SLOW] * 3 + [EVEN, EVEN] + [SLOW] * 3
    assert looks(*flapping) == [[], [], [2], *[[]] * 5]
    assert looks(*[SLOW] * 3, *[EVEN] * 3, *[SLOW] * 3)[-1] == [2]


def test_even_ranks_and_few_milliseconds_are_not_slow() -> None:
    assert looks(*[EVEN] * 9) == [[]] * 9
    assert looks(*[[0.001, 0.001, 0.009, 0.001]] * 9, step=0.01) == [[]] * 9
    assert looks(*[[0.1, 0.1, 0.19, 0.1]] * 9) == [[]] * 9, "less than a tenth of the step"


def test_of_two_ranks_the_quicker_is_the_measure() -> None:
    seen = Looks([range(2)], 1.5)
    for _ in range(3):
        slow, _ = seen.add([0.2, 1.0], 1.0)
    (one,) = slow
    assert (one.rank, one.median_seconds, one.own_seconds) == (1, 0.2, 1.0)
    assert one.ratio == one.least_ratio == pytest.approx(5.0)
    assert str(one) == "takes 5.0 times as long as its likes: 1 s a step, not 0.2 s"


def test_ranks_without_likes_are_never_slow() -> None:
    seen = Looks([[0], [1]], 1.5)
    assert [seen.add([0.1, 9.0], 10.0) for _ in range(5)] == [([], set())] * 5


def finished(
    folder: Path, size: int, *words: str, steps: int = 14, recipe: MakeRecipe = BUSY
) -> tuple[Ran, str]:
    ran = Ran(folder / f"run-{len(list(folder.iterdir()))}")
    said = overrides(ran.folder, *OFTEN, *words, steps=steps, save_every=0)
    with start_job(size, said, folder=folder, recipe=recipe) as job:
        assert job.wait() == [0] * size, errors(job)
        return ran, job.output(0)


def errors(job: Job) -> str:
    return "\n".join(job.errors(rank) for rank in range(len(job.guardians)))


def slow(rank: int, *, steps: int, seconds: float = 0.3) -> str:
    return f"chaos.plan=[{{do:slow,rank:{rank},step:0,steps:{steps},seconds:{seconds}}}]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "layout"),
    [
        (2, "parallel.shard=2"),
        (2, "parallel.replicate=2"),
        (4, "parallel.replicate=2"),
    ],
)
def test_a_slow_rank_is_named_with_its_ratio_and_host(
    size: int, layout: str, tmp_path: Path
) -> None:
    ran, said = finished(tmp_path, size, layout, slow(1, steps=14))
    (found,) = ran.events("straggler")
    assert (found["rank"], found["host"]) == (1, socket.gethostname())
    assert found["own_seconds"] > 0.3
    assert found["own_seconds"] - found["median_seconds"] > 0.15
    assert found["ratio"] == pytest.approx(found["own_seconds"] / found["median_seconds"], rel=0.01)
    assert f"step {found['step']}: rank 1 on {found['host']} takes " in said
    assert ran.events("failure") == [], "and not replaced unless that is asked for"


@pytest.mark.slow
def test_an_even_run_names_nobody(tmp_path: Path) -> None:
    # So long that a busy machine's own unevenness is small beside it.
    busier = tiny(sleep_seconds=0.1)
    ran, _ = finished(tmp_path, 2, "recovery.straggler_bound=2", steps=12, recipe=busier)
    assert ran.events("straggler", "failure") == []


@pytest.mark.slow
@pytest.mark.parametrize("in_place", ["true", "false"])
def test_past_the_bound_another_process_takes_its_place_once(in_place: str, tmp_path: Path) -> None:
    undisturbed, _ = finished(tmp_path, 2, steps=24)
    bound, way = "recovery.straggler_bound=3", f"recovery.in_place={in_place}"
    ran, said = finished(tmp_path, 2, bound, way, slow(1, steps=24), steps=24)
    (failure,) = ran.events("failure")
    assert (failure["rank"], failure["cause"]) == (1, "slow")
    assert failure["reason"].startswith("recovery.straggler_bound: found that rank 1 takes ")
    assert len(ran.events("recovery")) == 1
    named = ran.events("straggler")
    assert [(one["rank"], one["generation"]) for one in named] == [(1, 0), (1, 1)]
    assert "rank 1 failed at step" in said
    assert (ran.digest, ran.losses) == (undisturbed.digest, undisturbed.losses)


@pytest.mark.slow
def test_without_a_guardian_it_is_named_alone(tmp_path: Path) -> None:
    words = ("recovery.enabled=false", "recovery.straggler_bound=3")
    ran, _ = finished(tmp_path, 2, *words, slow(0, steps=14))
    assert [one["rank"] for one in ran.events("straggler")] == [0]
