"""An exact run over a random schedule of sizes and kills; a hundred of them: scripts/rehearse
--exact."""

import random
from pathlib import Path

import pytest
from support.resizing import bits_of, resized, schedule, straight

STEPS = 8


@pytest.mark.slow
def test_sizes_and_kills_do_not_show_in_a_bit(tmp_path: Path) -> None:
    wanted = bits_of(straight(tmp_path / "straight", "bf16", steps=STEPS))
    dice = random.Random(9)
    parts = schedule(dice, steps=STEPS, most_parts=3)
    assert len({part.size for part in parts}) > 1
    assert any(part.kills for part in parts)
    ran = resized(tmp_path / "resized", parts, "bf16", steps=STEPS, dice=dice)
    assert bits_of(ran) == wanted, [str(part) for part in parts]
    assert len(wanted["losses"]) == STEPS
