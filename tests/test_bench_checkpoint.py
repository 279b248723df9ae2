"""The bench of checkpoints: ratios are of the same turn, and its table says what was left out."""

import json
import mmap
from pathlib import Path

import pytest
from support.scripts import load_script
from support.world import run_world

load_script("bench_checkpoint")

from saving import metadata  # noqa: E402 - the bench says where it is
from saving.rank import Rank  # noqa: E402
from saving.report import RATIOS, ratios, show, write  # noqa: E402

FOUND = {
    "ranks": 2,
    "bytes": 2**30,
    "seconds": {"memcpy": [1.0, 2.0, 4.0], "keepstep memory restore": [1.5, 2.0, 8.0]},
    "missing": {"torch_checkpointing": "no --peers"},
    "memory": {"snapshot": 2.5, "save": 7.5, "restore": 1.0},
    "metadata": {"planned": 0.25, "written": 0.5, "read": 0.75},
}


def test_ratios_are_of_the_same_turn_and_of_what_was_measured() -> None:
    found = ratios(FOUND["seconds"])  # type: ignore[arg-type]
    assert found == {"memory restore / memcpy": {"median": 1.5, "min": 1.0, "max": 2.0}}


def test_the_table_says_what_is_asked_and_what_was_left_out(tmp_path: Path) -> None:
    found = {**FOUND, "ratios": ratios(FOUND["seconds"])}  # type: ignore[arg-type]
    table = show(found)
    assert "1.500     1.000 to 2.000     asked <= 1.5" in table
    assert "10.0 MiB (snapshot 2.5, save 7.5, restore 1.0)   asked <= 64" in table
    assert "1.500 s (planned 0.25, written 0.50, read 0.75)" in table
    assert "torch_checkpointing was not measured: no --peers" in table
    write(found, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["ratios"] == found["ratios"]


def test_every_ratio_has_names_of_its_own() -> None:
    pairs = [(ratio.one, ratio.other) for ratio in RATIOS.values()]
    assert len(set(pairs)) == len(pairs)


def test_metadata_is_written_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, count in (("TENSORS", 3), ("RANKS", 4), ("COUNT", 12)):
        monkeypatch.setattr(metadata, name, count)
    assert set(metadata.metadata_seconds(tmp_path)) == {"planned", "written", "read"}


def test_what_a_block_takes_of_memory_is_seen_though_it_is_given_back() -> None:
    def body(rank: int) -> dict[str, list[float]]:
        one = Rank.__new__(Rank)
        one.mib = {}
        with one.weighed("nothing"):
            one.size = 1
        with one.weighed("some"), mmap.mmap(-1, 20 * 2**20) as some:
            some.write(bytes(len(some)))
        return one.mib

    (mib,) = run_world(1, body)
    assert mib["nothing"][0] < 2
    assert mib["some"][0] > 18
