"""A node that cannot keep copies for another says so, and its run goes on without."""

import json
from pathlib import Path

import pytest
from torch.distributed import HashStore

from keepstep.parallel import World
from keepstep.trainer.compose import compose
from keepstep.trainer.peering import start_peering
from keepstep.trainer.recovery.generation import Generations
from keepstep.trainer.recovery.slots import SlotSet
from keepstep.trainer.telemetry.events import Events

ELSEWHERE = "192.0.2.1"  # an address of no machine


def test_an_address_that_cannot_be_listened_at_is_a_sentence_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Generations, "meet", lambda *_, **__: True)  # the other rank
    world = World(
        rank=0,
        world_size=2,
        local_rank=0,
        local_world_size=1,
        master_addr="127.0.0.1",
        master_port=1,
        has_agent_store=False,
    )
    words = [f"run.dir={tmp_path}", "recovery.peers=1", f"recovery.peer_address={ELSEWHERE}"]
    found = start_peering(
        compose(words),
        world,
        Generations(HashStore(), 0, 2),
        SlotSet([], []),
        Events(tmp_path, rank=0),
        say=print,
    )
    found.close(forget=True)
    assert (found.keeper, found.sender) == (None, None)
    (event,) = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert event["kind"] == "peer_lost"
    assert event["reason"].startswith(
        f"recovery.peer_address: found that rank 0 cannot listen at {ELSEWHERE} ("
    )
    assert event["reason"].endswith("set that, or recovery.peers=0")
    assert event["reason"] in capsys.readouterr().err
