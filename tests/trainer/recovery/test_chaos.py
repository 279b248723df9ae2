"""Planned faults: each strikes its rank at its step, once in the life of a run folder."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.trainer.errors import ConfigError
from keepstep.trainer.recovery.chaos import Chaos, PlannedFault, draw, flip_byte
from keepstep.trainer.recovery.config import ANY_RANK, Fault, FaultKind, FaultPhase


def chaos(
    folder: Path,
    *faults: Fault,
    rank: int = 0,
    seed: int = 0,
    size: int = 4,
    cut: Callable[[], None] = lambda: None,
) -> Chaos:
    marks, checkpoints = folder / "chaos", folder / "checkpoints"
    return Chaos(
        faults, rank=rank, size=size, seed=seed, folder=marks, checkpoints=checkpoints, cut=cut
    )


def fault(kind: str, *, rank: int = 0, step: int | None = 3, **more: object) -> Fault:
    return Fault(do=FaultKind(kind), rank=rank, step=step, **more)  # type: ignore[arg-type]


def struck(folder: Path, *faults: Fault, seed: int = 0, steps: int = 200) -> list[tuple[int, int]]:
    """The steps and ranks at which planned failures strike a world of four."""
    found = []
    for rank in range(4):
        own = chaos(folder, *faults, rank=rank, seed=seed)
        for step in range(steps):
            try:
                own.strike(step)
            except PlannedFault:
                found.append((step, rank))
    return sorted(found)


def test_a_fault_strikes_its_rank_at_its_step_only(tmp_path: Path) -> None:
    plan = [fault("fail", rank=1, step=3)]
    for step in (0, 2, 4):
        chaos(tmp_path, *plan, rank=1).strike(step)
    chaos(tmp_path, *plan, rank=0).strike(3)
    with pytest.raises(PlannedFault, match=r"chaos\.plan"):
        chaos(tmp_path, *plan, rank=1).strike(3)


def test_a_fault_that_has_struck_stays_quiet_after_a_restart(tmp_path: Path) -> None:
    with pytest.raises(PlannedFault):
        chaos(tmp_path, fault("fail")).strike(3)
    chaos(tmp_path, fault("fail")).strike(3)


def test_two_equal_faults_strike_twice(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(PlannedFault):
            chaos(tmp_path, fault("fail"), fault("fail")).strike(3)
    chaos(tmp_path, fault("fail"), fault("fail")).strike(3)


def test_kill_is_sigkill_and_leaves_its_mark_first(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        chaos(tmp_path, fault("kill")).strike(3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    chaos(tmp_path, fault("kill")).strike(3)


def test_corrupt_flips_one_byte_of_the_newest_checkpoints_largest_file(tmp_path: Path) -> None:
    sizes = {"rank-0.safetensors": 900, "manifest.json": 300}
    before = {}
    for step in ("step-000000003-aa", "step-000000006-bb"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
        for name, size in sizes.items():
            path = tmp_path / "checkpoints" / step / name
            path.write_bytes(before.setdefault(path, os.urandom(size)))
    chaos(tmp_path, fault("corrupt")).strike(3)
    changed = {path: differences(data, path.read_bytes()) for path, data in before.items()}
    struck = tmp_path / "checkpoints/step-000000006-bb/rank-0.safetensors"
    assert changed == {path: [450] if path == struck else [] for path in before}


def test_corrupt_without_a_checkpoint_does_nothing(tmp_path: Path) -> None:
    chaos(tmp_path, fault("corrupt")).strike(3)
    assert not (tmp_path / "checkpoints").exists()


def test_a_fault_in_a_step_strikes_there_once_and_not_at_its_start(tmp_path: Path) -> None:
    made, part = chaos(tmp_path, fault("poison"), fault("spike")), torch.ones(())
    made.strike(3)
    assert made.poisoned(2, part) is part
    assert made.boost(2) == 1.0
    assert [bool(made.poisoned(3, part).isnan()) for _ in range(2)] == [True, False]
    assert [made.boost(3) for _ in range(2)] == [1e4, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_flip_inverts_one_bit_of_one_element(dtype: torch.dtype, tmp_path: Path) -> None:
    empty, weights = torch.empty(0, 2), torch.full((2, 3), 0.5, dtype=dtype)
    chaos(tmp_path, fault("flip")).flip(3, [empty, weights])
    assert (weights == 0.5).sum() == 5
    assert weights[0, 0] > 1e30
    chaos(tmp_path, fault("flip")).flip(3, [empty, weights])
    assert (weights == 0.5).sum() == 5


@settings(max_examples=30, deadline=None)
@given(data=st.binary(min_size=1, max_size=64), place=st.integers(0, 63))
def test_flipping_changes_exactly_one_byte_and_twice_none(
    data: bytes, place: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, place = tmp_path_factory.mktemp("flip") / "file", place % len(data)
    path.write_bytes(data)
    flip_byte(path, place)
    assert differences(data, path.read_bytes()) == [place]
    flip_byte(path, place)
    assert path.read_bytes() == data


def differences(before: bytes, after: bytes) -> list[int]:
    assert len(before) == len(after)
    return [at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]


def test_a_fault_of_any_rank_strikes_one_that_the_seed_draws(tmp_path: Path) -> None:
    anyone = fault("fail", rank=ANY_RANK)
    found = [struck(tmp_path / str(seed), anyone, seed=seed) for seed in range(20)]
    assert [len(one) for one in found] == [1] * 20
    assert {one[0] for (one,) in found} == {3}
    assert {one[1] for (one,) in found} == {0, 1, 2, 3}


def test_a_rate_strikes_a_rerun_alike_and_another_seed_otherwise(tmp_path: Path) -> None:
    often = fault("fail", rank=ANY_RANK, step=None, rate=100)
    first = struck(tmp_path / "a", often)
    assert struck(tmp_path / "b", often) == first
    assert struck(tmp_path / "c", often, seed=1) != first
    assert 10 <= len(first) <= 32  # 20 of 200 steps are meant


def test_a_rate_of_one_rank_counts_for_that_rank(tmp_path: Path) -> None:
    found = struck(tmp_path, fault("fail", rank=2, step=None, rate=100), steps=1000)
    assert {rank for _, rank in found} == {2}
    assert 70 <= len(found) <= 130


def test_what_a_rate_has_struck_stays_quiet_after_a_restart(tmp_path: Path) -> None:
    often = fault("fail", rank=ANY_RANK, step=None, rate=100)
    assert struck(tmp_path, often)
    assert struck(tmp_path, often) == []


def test_draws_are_even_and_depend_on_each_number() -> None:
    found = [draw(0, step, rank, 1) for step in range(500) for rank in range(4)]
    assert len(set(found)) == 2000
    assert all(180 <= sum(int(one * 10) == tenth for one in found) <= 225 for tenth in range(10))


def test_a_fault_strikes_in_its_phase_only(tmp_path: Path) -> None:
    own = chaos(tmp_path, fault("fail", phase=FaultPhase.save))
    for phase in (FaultPhase.data, FaultPhase.step, FaultPhase.evaluate):
        own.strike(3, phase)
    with pytest.raises(PlannedFault):
        own.strike(3, FaultPhase.save)


def test_a_slow_rank_sleeps_in_each_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    own = chaos(tmp_path, fault("slow", seconds=0.25, steps=3))
    counts = []
    for step in (2, 3, 4, 5, 6, 5):  # the last is done again
        own.strike(step)
        counts.append(len(slept))
    assert counts == [0, 1, 2, 3, 3, 4]
    assert set(slept) == {0.25}


def test_stop_is_sigstop(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        chaos(tmp_path, fault("stop")).strike(3)
        os._exit(0)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_cut_breaks_the_connections_it_was_given(tmp_path: Path) -> None:
    cuts: list[int] = []
    chaos(tmp_path, fault("cut"), cut=lambda: cuts.append(1)).strike(3)
    assert cuts == [1]


def room(folder: Path) -> int:
    """Bytes of the file without a name that this process holds there."""
    held = 0
    for one in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(one)
            if target.startswith(str(folder)) and target.endswith("(deleted)"):
                held += 512 * one.stat().st_blocks
        except FileNotFoundError:
            continue
    return held


def test_fill_takes_room_for_a_while_and_leaves_nothing(tmp_path: Path) -> None:
    chaos(tmp_path, fault("fill", bytes=2**20, seconds=0.1)).strike(3)
    assert room(tmp_path) >= 2**20
    deadline = time.monotonic() + 10
    while room(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert room(tmp_path) == 0
    assert [path.name for path in (tmp_path / "chaos").iterdir()] == ["fired-0"]


def test_fill_refuses_what_would_leave_the_disk_without_room(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bytes=4611686018427387904 of do=fill, needed \d+ at"):
        chaos(tmp_path, fault("fill", bytes=2**62)).strike(3)
    assert room(tmp_path) == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rank": -2}, "chaos.plan.rank: found -2, needed -1 or a rank"),
        ({"step": None}, "found 'step=None and rate=0 of do=kill', needed either a step or a rate"),
        ({"rate": 5.0}, "found 'step=3 and rate=5 of do=kill', needed either a step or a rate"),
        ({"step": -1}, "chaos.plan.step: found -1, needed 0 or more"),
        ({"step": None, "rate": 2000.0}, "chaos.plan.rate: found 2000.0, needed 0 to 1000"),
        ({"seconds": 0.0}, "chaos.plan.seconds: found 0.0, needed more than 0"),
        ({"steps": 2}, "chaos.plan.steps: found 2, needed 1, or more for do=slow"),
        ({"bytes": 0}, "chaos.plan.bytes: found 0, needed more than 0"),
    ],
)
def test_a_wrong_fault_is_refused_in_one_sentence(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=r"^chaos") as caught:
        fault("kill", **wrong)  # type: ignore[arg-type]
    assert said in str(caught.value)
