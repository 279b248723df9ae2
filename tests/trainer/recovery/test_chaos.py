"""Planned faults: each strikes its rank at its step, once in the life of a run folder."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.trainer.config import Fault, FaultKind
from keepstep.trainer.recovery.chaos import Chaos, PlannedFault, flip_byte


def chaos(folder: Path, *faults: Fault, rank: int = 0) -> Chaos:
    return Chaos(faults, rank=rank, folder=folder / "chaos", checkpoints=folder / "checkpoints")


def fault(kind: str, *, rank: int = 0, step: int = 3) -> Fault:
    return Fault(do=FaultKind(kind), rank=rank, step=step)


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
