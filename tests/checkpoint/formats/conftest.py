"""A checkpoint of ours, as items."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from keepstep.checkpoint import Checkpoints, LocalStore, SoloExchange, committed, read_manifest
from keepstep.checkpoint.offline import Item, items_of


@pytest.fixture
def items(kit: SimpleNamespace, tmp_path: Path) -> list[Item]:
    """The full state of seed 3, committed."""
    place = LocalStore(tmp_path / "ours")
    kit.save(Checkpoints(place, SoloExchange(), keep=1), kit.full_state(3), 3)
    (found,) = committed(place)
    return items_of(place, found.folder, read_manifest(place, found.folder))
