"""Guardians that save out of slots: together, again after trouble, and never at the loop's cost."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from keepstep.checkpoint import (
    Cargo,
    Checkpoints,
    Keep,
    LocalStore,
    SoloExchange,
    Store,
    committed,
    read_manifest,
    verify,
)
from keepstep.checkpoint.claims import OPEN
from keepstep.checkpoint.config import TierConfig
from keepstep.checkpoint.seal import PLAIN
from keepstep.checkpoint.slots import Image, SlotFile, Snapshots
from keepstep.trainer.recovery.exchange import StoreExchange
from keepstep.trainer.recovery.generation import Failure, Generations
from keepstep.trainer.recovery.ledger import read_lines
from keepstep.trainer.recovery.promoter import Promoter, Promotion
from keepstep.trainer.recovery.saver import Request, Rules, Saver
from keepstep.trainer.recovery.slots import SlotSet
from keepstep.trainer.telemetry.events import Events


class Fleet:
    """The savers of some ranks over one store, each with the slots that its worker would fill."""

    def __init__(
        self,
        folder: Path,
        size: int,
        open_place: Callable[[], Store],
        tiers: Sequence[TierConfig] = (),
    ) -> None:
        self.folder = folder
        self.states = [{f"model.w{rank}": torch.full((5,), float(rank))} for rank in range(size)]
        store = HashStore()
        self.generations = [Generations(store, rank, size) for rank in range(size)]
        self.slots = [SlotSet([], [SlotFile.unnamed() for _ in range(2)]) for _ in range(size)]
        self.snapshots = [self._snapshots(rank) for rank in range(size)]
        self.said: list[str] = []
        self.tiers = list(tiers)
        self.promoters = [self._promoter(rank, open_place) for rank in range(size)]
        for promoter in self.promoters:
            promoter.start()
        self.savers = [self._saver(rank, open_place) for rank in range(size)]
        for saver in self.savers:
            saver.start()

    def take(self, rank: int, step: int, *, is_last: bool = False) -> Request:
        """What a worker does at a step that is to be saved."""
        cargo = Cargo(step=step, topology={}, progress={"samples": step}, lineage={"seed": 0})
        slot = self.snapshots[rank].begin(self.states[rank], cargo, pin=True)
        place = -1 if slot is None else slot
        request = Request(generation=0, serial=step, step=step, slot=place, is_last=is_last)
        self.savers[rank].request(request)
        return request

    def wait(self) -> None:
        deadline = time.monotonic() + 20
        while not all(one.is_idle for one in (*self.savers, *self.promoters)):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in read_lines(self.folder / "events.jsonl") if one["kind"] == kind]

    def close(self) -> None:
        for saver, snapshots, slots in zip(self.savers, self.snapshots, self.slots, strict=True):
            saver.close()
            saver.join(20)
            snapshots.close()
            slots.close()

    def _snapshots(self, rank: int) -> Snapshots:
        state, slots = self.states[rank], self.slots[rank]
        image = Image.of(state, state, rank=rank, holders=[rank], label={})
        taken = Snapshots(slots.all[:2], slots.all[2:], image, volatile=(), say=print)
        taken.open()
        return taken

    def _promoter(self, rank: int, open_place: Callable[[], Store]) -> Promoter:
        def exchange(promotion: Promotion) -> StoreExchange:
            return StoreExchange(
                self.generations[rank],
                name=f"{promotion.tier}-{promotion.folder}",
                generation=promotion.generation,
                step=promotion.step,
                seconds=20.0,
            )

        return Promoter(
            self.tiers,
            open_place,
            lambda tier: LocalStore(self.tiers[tier].path),
            exchange,
            Events(self.folder, rank=rank),
            self.said.append,
            lambda: None,
        )

    def _saver(self, rank: int, open_place: Callable[[], Store]) -> Saver:
        def exchange(request: Request, attempt: int) -> StoreExchange:
            return StoreExchange(
                self.generations[rank],
                name=f"{request.generation}-{request.serial}-{attempt}",
                generation=request.generation,
                step=request.step,
                seconds=20.0,
            )

        return Saver(
            self.slots[rank],
            open_place,
            exchange,
            Events(self.folder, rank=rank),
            self.said.append,
            promoter=self.promoters[rank],
            rules=Rules(fence=OPEN, seal=PLAIN, keep=Keep(last=2), max_failures=2),
        )


Start = Callable[..., Fleet]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr("keepstep.trainer.recovery.saver._BACKOFF_SECONDS", 0.001)
    fleets: list[Fleet] = []

    def begin(
        size: int, open_place: Callable[[], Store] | None = None, *tiers: TierConfig
    ) -> Fleet:
        place = LocalStore(tmp_path / "saved")
        fleets.append(Fleet(tmp_path, size, open_place or (lambda: place), tiers))
        return fleets[-1]

    yield begin
    for fleet in fleets:
        fleet.close()


def test_the_ranks_save_one_checkpoint_together_and_keep_the_newest(
    start: Start, tmp_path: Path
) -> None:
    fleet, place = start(2), LocalStore(tmp_path / "saved")
    for step in (1, 2, 3):
        for rank in (1, 0):
            fleet.take(rank, step)
        fleet.wait()
    found = committed(place)
    assert [one.step for one in found] == [3, 2]
    assert [verify(place, one.folder) for one in found] == [[], []]
    assert found[0].head is not None
    assert found[0].head.lineage["parent"] == place.address(found[1].folder)
    assert [one["step"] for one in fleet.events("checkpoint")] == [1, 2, 3]
    state = {name: torch.zeros_like(one) for part in fleet.states for name, one in part.items()}
    restored = Checkpoints(place, SoloExchange(), keep=1).restore(state)
    assert restored is not None
    assert restored.progress == {"samples": 3}
    assert state["model.w1"].tolist() == [1.0] * 5


def test_a_slot_is_free_again_once_it_is_saved(start: Start) -> None:
    fleet = start(1)
    request = fleet.take(0, 1)
    fleet.wait()
    assert not fleet.slots[0].all[request.slot].is_pinned
    fleet.savers[0].drain()


def test_a_save_that_one_rank_has_no_slot_for_is_given_up_by_all_and_the_next_one_made(
    start: Start,
) -> None:
    fleet = start(2)
    for slot in fleet.slots[1].all[:2]:
        slot.pin()
    assert fleet.take(1, 1).slot == -1
    fleet.take(0, 1)
    fleet.wait()
    (failed,) = fleet.events("save_failed")
    assert "another rank has no snapshot of it" in failed["reason"]
    fleet.slots[1].release(kept=[])
    for rank in (0, 1):
        fleet.take(rank, 2)
    fleet.wait()
    assert [one["step"] for one in fleet.events("checkpoint")] == [2]
    assert [saver.fatal for saver in fleet.savers] == ["", ""]


def test_a_worker_that_dies_while_it_copies_leaves_no_checkpoint(start: Start) -> None:
    fleet = start(1)
    fleet.savers[0].request(Request(generation=0, serial=0, step=9, slot=0))
    assert fleet.savers[0].end_generation(0) == 9
    fleet.wait()
    (failed,) = fleet.events("save_failed")
    assert failed["reason"] == "SlotLostError: step 9: the worker died while it was copied"


def test_a_rank_that_died_before_it_asked_is_not_waited_for(start: Start) -> None:
    fleet = start(2)
    fleet.take(0, 5)
    died = Failure(rank=1, step=4, cause="killed", reason="killed by SIGKILL", time=0.0)
    fleet.generations[1].raise_from(0, died)
    fleet.generations[1].note_over(0, fleet.savers[1].end_generation(0))
    fleet.wait()
    (failed,) = fleet.events("save_failed")
    assert (
        "rank 1: its training process ended before it had a snapshot of step 5" in failed["reason"]
    )


def test_a_save_goes_on_after_its_worker_died(start: Start, tmp_path: Path) -> None:
    gate = threading.Event()

    def open_place() -> Store:
        assert gate.wait(20)
        return LocalStore(tmp_path / "saved")

    fleet = start(2, open_place)
    for rank in (0, 1):
        fleet.take(rank, 5)
        fleet.snapshots[rank].settle()
        fleet.generations[rank].note_over(0, fleet.savers[rank].end_generation(0))
    gate.set()
    fleet.wait()
    assert [one["step"] for one in fleet.events("checkpoint")] == [5]


def test_what_is_committed_is_copied_to_further_places_at_their_own_pace(
    start: Start, tmp_path: Path
) -> None:
    often = TierConfig(path=str(tmp_path / "often"), every_seconds=0, keep=2)
    seldom = TierConfig(path=str(tmp_path / "seldom"), every_seconds=3600, keep=1)
    fleet = start(2, None, often, seldom)
    for step in (1, 2, 3):
        for rank in (0, 1):
            fleet.take(rank, step, is_last=step == 3)
        fleet.wait()
    saved, *places = (LocalStore(tmp_path / name) for name in ("saved", "often", "seldom"))
    assert [[one.step for one in committed(place)] for place in places] == [[3, 2], [3]]
    for place in places:
        (newest, *_) = committed(place)
        assert verify(place, newest.folder) == []
        manifests = [read_manifest(one, newest.folder) for one in (place, saved)]
        assert manifests[0] == manifests[1]
    assert sorted(one["step"] for one in fleet.events("promotion")) == [1, 2, 3, 3]


def test_a_further_place_that_fails_is_named_and_holds_up_nothing(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    fleet = start(2, None, TierConfig(path=str(tmp_path / "file" / "in"), every_seconds=0))
    for rank in (0, 1):
        fleet.take(rank, 1)
    fleet.wait()
    (failed,) = fleet.events("promotion_failed")
    assert "Not a directory" in failed["reason"]
    assert [one["step"] for one in fleet.events("checkpoint")] == [1]
    assert [saver.fatal for saver in fleet.savers] == ["", ""]


class Broken:
    """A place that refuses its first `count` writes; then it is the local disk."""

    def __init__(self, place: LocalStore, count: int) -> None:
        self._place = place
        self._left = count

    def create(self, name: str, pieces: Any) -> None:
        if self._left:
            self._left -= 1
            raise PermissionError(13, "Permission denied", name)
        self._place.create(name, pieces)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._place, name)


def test_trouble_is_tried_again_and_then_said(start: Start, tmp_path: Path) -> None:
    place = Broken(LocalStore(tmp_path / "saved"), 2)
    fleet = start(1, lambda: place)  # type: ignore[arg-type,return-value]
    fleet.take(0, 1)
    fleet.wait()
    assert [one["tries"] for one in fleet.events("save_retry")] == [1, 2]
    assert "Permission denied" in fleet.events("save_retry")[0]["reason"]
    assert [one["step"] for one in fleet.events("checkpoint")] == [1]
    assert fleet.said[0].startswith("step 1 is not saved yet (try 1 of 4): CheckpointError: ")


def test_an_event_that_cannot_be_written_keeps_nothing_from_being_saved(
    start: Start, tmp_path: Path
) -> None:
    fleet, place = start(1), LocalStore(tmp_path / "saved")
    (tmp_path / "events.jsonl").mkdir()
    for step in (1, 2):
        fleet.take(0, step)
        fleet.wait()
    assert [one.step for one in committed(place)] == [2, 1]


def test_saves_that_fail_in_a_row_end_the_run_with_the_reason(start: Start, tmp_path: Path) -> None:
    place = Broken(LocalStore(tmp_path / "saved"), 1000)
    fleet = start(1, lambda: place)  # type: ignore[arg-type,return-value]
    fleet.take(0, 1)
    fleet.wait()
    assert fleet.savers[0].fatal == ""
    fleet.take(0, 2)
    fleet.wait()
    assert fleet.savers[0].fatal.startswith(
        "checkpoint.max_failures: found 2 saves in a row that failed, needed fewer than 2; mend"
    )
    assert "step 2 was not saved: CheckpointError" in fleet.said[-1]


def test_a_last_save_that_fails_ends_the_run(start: Start, tmp_path: Path) -> None:
    place = Broken(LocalStore(tmp_path / "saved"), 1000)
    fleet = start(1, lambda: place)  # type: ignore[arg-type,return-value]
    fleet.take(0, 1, is_last=True)
    fleet.wait()
    assert fleet.savers[0].fatal.startswith("the last save, of step 1: CheckpointError: ")
