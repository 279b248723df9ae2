"""What a guardian starts to save with: no thread for what is never done."""

import threading
from pathlib import Path
from typing import Any, cast

import pytest

from keepstep.checkpoint.claims import OPEN
from keepstep.trainer.compose import compose
from keepstep.trainer.keeping import start_saver
from keepstep.trainer.recovery.slots import SlotSet
from keepstep.trainer.telemetry.events import Events


@pytest.mark.parametrize("tiers", ["[]", "[{path:/elsewhere}]"])
def test_a_thread_that_copies_to_further_places_lives_only_where_there_are_some(
    tmp_path: Path, tiers: str
) -> None:
    config = compose([f"run.dir={tmp_path}", f"checkpoint.tiers={tiers}"])
    nobody = cast(Any, None)  # a connection is made at the first save
    events = Events(tmp_path, rank=0)
    saver = start_saver(config, SlotSet([], []), nobody, nobody, events, say=print, fence=OPEN)
    names = [thread.name for thread in threading.enumerate()]
    saver.promoter.close()
    saver.close()
    saver.join(10)
    assert "keepstep-saver" in names
    assert ("keepstep-promoter" in names) == (tiers != "[]")
