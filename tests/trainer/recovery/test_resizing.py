"""An exact run over random schedules of sizes and kills; a hundred of them: scripts/rehearse
--exact."""

import random
from pathlib import Path

import pytest
from support.resizing import bits_of, resized, schedule, straight

STEPS = 14


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sizes_and_kills_do_not_show_in_a_bit(precision: str, tmp_path: Path) -> None:
    wanted = bits_of(straight(tmp_path / "straight", precision, steps=STEPS))
    dice = random.Random(f"sizes {precision}")
    parts = schedule(dice, steps=STEPS, most_parts=3)
    ran = resized(tmp_path / "resized", parts, precision, steps=STEPS, dice=dice)
    assert bits_of(ran) == wanted, [str(part) for part in parts]
    assert len(wanted["losses"]) == STEPS
