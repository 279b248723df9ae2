"""Which checkpoints of a real place go: by sizes, by tags, by the metrics in their manifests."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from keepstep.checkpoint import Checkpoints, LocalStore, SoloExchange, committed
from keepstep.checkpoint.prune import tag, tags, to_prune
from keepstep.checkpoint.retention import Keep

Solo = Callable[..., Checkpoints]


def pruned(folder: Path, **keep: object) -> list[int]:
    return [one.step for one in to_prune(LocalStore(folder), Keep(**keep))]


@pytest.fixture
def place(kit: SimpleNamespace, solo: Solo, tmp_path: Path) -> Path:
    """Five checkpoints, steps 1 to 5, with losses 5, 1, 4, 2, 3."""
    checkpoints = solo()
    for step, loss in enumerate((5, 1, 4, 2, 3), 1):
        checkpoints.save(
            kit.full_state(step),
            step=step,
            topology={"world_size": 1},
            progress={"metrics": {"loss": loss}},
            lineage={},
        )
    return tmp_path


def folder_of(place: Path, step: int) -> str:
    return next(one.folder for one in committed(LocalStore(place)) if one.step == step)


def test_a_torn_checkpoint_is_not_counted(place: Path) -> None:
    (place / folder_of(place, 5) / "rank-00000.safetensors").write_bytes(b"short")
    assert pruned(place, last=2) == [2, 1]


def test_the_best_by_the_metric_in_the_manifest_stay(place: Path) -> None:
    assert pruned(place, last=1, best=2, metric="loss") == [3, 1]
    assert pruned(place, last=1, best=2, metric="eval_loss") == [4, 3, 2, 1]


def test_a_tagged_one_stays_and_is_still_whole(place: Path) -> None:
    tag(LocalStore(place), folder_of(place, 1), "v1.0")
    assert tags(LocalStore(place)) == {folder_of(place, 1): ["v1.0"]}
    assert pruned(place, last=1) == [4, 3, 2]


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "\u00e9"])
def test_a_tag_that_is_no_name_is_refused(place: Path, name: str) -> None:
    with pytest.raises(ValueError, match="needed letters, digits"):
        tag(LocalStore(place), folder_of(place, 1), name)


def test_a_run_keeps_what_its_rules_say(kit: SimpleNamespace, tmp_path: Path) -> None:
    keep = Keep(last=1, every_steps=2)
    checkpoints = Checkpoints(LocalStore(tmp_path), SoloExchange(), keep=keep)
    for step in range(1, 6):
        kit.save(checkpoints, kit.full_state(step), step)
    assert [step for step, _ in checkpoints.steps()] == [5, 4, 2]
