"""Only folders with a manifest are checkpoints; the rest is debris, and removed once it is old."""

import os
import shutil
import time
from datetime import timedelta
from pathlib import Path

import pytest

from keepstep.checkpoint import CorruptError, LocalStore, read_manifest
from keepstep.checkpoint.listing import collect_debris, committed


def attempt(root: Path, name: str) -> Path:
    (root / name).mkdir()
    (root / name / "rank-00000.safetensors").write_bytes(b"torn")
    return root / name


def test_a_folder_without_a_manifest_is_never_listed_or_read(kit, solo, tmp_path):
    kit.save(solo(), kit.full_state(1), 1)
    attempt(tmp_path, "step-000000009-0123abcd")
    (tmp_path / "notes.txt").write_text("mine")
    assert [found.step for found in committed(LocalStore(tmp_path))] == [1]
    assert solo().restore(kit.full_state(0)).step == 1


def test_debris_goes_once_it_is_old_and_nothing_else_does(kit, solo, tmp_path):
    kit.save(solo(), kit.full_state(1), 1)
    torn = attempt(tmp_path, "step-000000002-0123abcd")
    (tmp_path / "step-000000003-0123abcd").mkdir()
    attempt(tmp_path, "holiday-photos")
    place, hour = LocalStore(tmp_path), timedelta(hours=1)
    assert collect_debris(place, older_than=hour, now=time.time()) == []
    gone = collect_debris(place, older_than=hour, now=time.time() + 3700)
    assert sorted(gone) == ["step-000000002-0123abcd", "step-000000003-0123abcd"]
    assert not torn.exists()
    assert len(list(tmp_path.iterdir())) == 2
    assert [found.step for found in committed(place)] == [1]


def test_a_save_that_still_writes_is_not_debris_though_it_began_long_ago(tmp_path):
    folder = attempt(tmp_path, "step-000000002-0123abcd")
    (folder / "rank-00001.safetensors").write_bytes(b"torn")
    place, hour, now = LocalStore(tmp_path), timedelta(hours=1), time.time()
    os.utime(folder / "rank-00001.safetensors", (now - 7200, now - 7200))
    assert collect_debris(place, older_than=hour, now=now) == []
    assert len(list(folder.iterdir())) == 2


def test_old_debris_is_removed_by_the_next_save(kit, solo, tmp_path, monkeypatch):
    attempt(tmp_path, "step-000000002-0123abcd")
    kit.save(solo(), kit.full_state(3), 3)
    assert len(list(tmp_path.iterdir())) == 2
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 3600)
    kit.save(solo(), kit.full_state(4), 4)
    assert [path.name[:14] for path in sorted(tmp_path.iterdir())] == [
        "step-000000003",
        "step-000000004",
    ]


def test_a_manifest_moved_to_another_folder_is_refused(kit, solo, tmp_path):
    saved = Path(kit.save(solo(), kit.full_state(1), 1).path)
    shutil.copytree(saved, tmp_path / "step-000000002-0123abcd")
    with pytest.raises(CorruptError, match=f"was written for folder {saved.name}"):
        read_manifest(LocalStore(tmp_path), "step-000000002-0123abcd")


def test_a_manifest_says_what_was_saved(kit, solo, tmp_path):
    saved = Path(kit.save(solo(), kit.full_state(1), 12).path)
    manifest = read_manifest(LocalStore(tmp_path), saved.name)
    assert manifest.step == 12
    assert manifest.progress == {"step": 12, "loss": 0.1}
    assert manifest.topology == {"world_size": 1}
    assert abs(manifest.created - time.time()) < 60
    assert manifest.by_name.keys() == kit.full_state(1).keys()
