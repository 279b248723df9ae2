"""What is left in memory and cannot be saved: each trouble is a sentence, and the slots stay."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from keepstep.checkpoint import Cargo, LocalStore, SoloExchange, committed
from keepstep.checkpoint.claims import OPEN
from keepstep.checkpoint.layout import Chunk
from keepstep.checkpoint.pieces import digest_pieces
from keepstep.checkpoint.slots import Held, Image, SlotFile, newest
from keepstep.checkpoint.slots.image import pack_digests
from keepstep.checkpoint.specs import Spec
from keepstep.trainer import RunConfig
from keepstep.trainer.compose import compose
from keepstep.trainer.errors import StoppedError
from keepstep.trainer.identity import digest, identity
from keepstep.trainer.salvage import Salvaged, salvage

Leave = Callable[..., Held]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setattr("keepstep.trainer.salvage._PAUSE_SECONDS", 0.0)
    return compose([f"run.dir={tmp_path}/run"])


@pytest.fixture
def leave(config: RunConfig) -> Iterator[Leave]:
    """leave(step=5, rows=4) -> a slot of rank 0 of two replicas that are gone, of a tensor of four
    rows, of which it has so many."""
    slots: list[SlotFile] = []

    def left(step: int = 5, rows: int = 4) -> Held:
        box = Chunk(name="w", dtype="float32", global_shape=(4,), offsets=(0,), shape=(rows,))
        label = {
            "run": str(Path(str(config.run.dir)).resolve()),
            "config": digest(identity(config)),
            "rank": 0,
            "world_size": 2,
            "topology": {"replicate": 2, "shard": 1},
        }
        spec = Spec(dtype="float32", shape=(4,), boxes=1)
        image = Image(label, {"w": spec}, own=(box,), beside=())
        slot, header = SlotFile.unnamed(), image.header
        slot.prepare(image.encode(), image.starts[-1])
        slot.map()[: len(header)] = header
        facts = {**asdict(cargo(step)), "created": float(step)}
        digests = digest_pieces(slot.map()[image.starts[0] :])
        slot.seal(step, pack_digests([digests]) + json.dumps(facts).encode())
        slots.append(slot)
        return newest([slot])[0]

    yield left
    for slot in slots:
        slot.close()


def cargo(step: int) -> Cargo:
    return Cargo(step=step, topology={}, progress={"samples": 8 * step}, lineage={})


def salvaged(
    config: RunConfig, *found: Held, say: Callable[[str], object] = print
) -> Salvaged | None:
    return salvage(config, SoloExchange(), [], found, fence=OPEN, say=say)


def test_what_one_of_two_replicas_left_is_saved(config: RunConfig, leave: Leave) -> None:
    saved = salvaged(config, leave())
    assert saved is not None
    assert (saved.step, saved.lost) == (5, (1,))
    (found,) = committed(LocalStore(f"{config.run.dir}/checkpoints"))
    assert found.step == 5


def test_a_disk_that_is_full_stops_the_run_with_a_sentence(
    config: RunConfig, leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, tries = leave(), []

    def create(place: LocalStore, name: str, pieces: object) -> None:
        tries.append(name)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    monkeypatch.setattr(LocalStore, "create", create)
    with pytest.raises(StoppedError, match=r"step 5: found it in the memory .* bytes free"):
        salvaged(config, held)
    assert len(tries) == 3
    held.prove()


def test_a_place_that_cannot_be_listed_stops_the_run_with_a_sentence(
    config: RunConfig, leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(place: LocalStore) -> dict[str, float]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place.root))

    monkeypatch.setattr(LocalStore, "list", refuse)
    with pytest.raises(StoppedError, match=r"cannot be listed \(rank 0: .*Permission denied"):
        salvaged(config, leave())


def test_boxes_with_a_gap_are_passed_over_for_an_older_step(
    config: RunConfig, leave: Leave
) -> None:
    said: list[str] = []
    saved = salvaged(config, leave(step=6, rows=3), leave(step=5), say=said.append)
    assert saved is not None
    assert saved.step == 5
    assert said[1].startswith("step 6: passed over what is in memory: ")
    assert "gap" in said[1]
