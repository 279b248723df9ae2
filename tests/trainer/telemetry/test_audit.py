"""The audit's chain: whatever is changed, taken out, put in or cut off is named by its line."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keepstep.trainer.telemetry.audit import AUDIT, FIRST, append, broken, head


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    for step in range(5):
        append(tmp_path, "checkpoint", step=step, path=f"step-{step}")
    return tmp_path / AUDIT


def test_each_line_has_the_digest_of_the_one_before(chain: Path) -> None:
    records = [json.loads(line) for line in chain.read_text().splitlines()]
    assert [one["n"] for one in records] == [0, 1, 2, 3, 4]
    assert records[0]["previous"] == FIRST
    assert broken(chain) is None
    found = head(chain.parent)
    assert found is not None
    assert found.lines == 5


def test_a_changed_line_is_found_at_the_next_one(chain: Path) -> None:
    chain.write_text(chain.read_text().replace('"step": 1', '"step": 9'))
    assert (found := broken(chain)) is not None
    assert found.startswith("line 3: found the digest ")


@pytest.mark.parametrize(("take", "line"), [([0, 1, 3, 4], 3), ([0, 0, 1], 2), ([1, 0, 2], 1)])
def test_lines_that_were_moved_are_found(chain: Path, take: list[int], line: int) -> None:
    lines = chain.read_text().splitlines(keepends=True)
    chain.write_text("".join(lines[number] for number in take))
    assert (found := broken(chain)) is not None
    assert found.startswith(f"line {line}: ")


def test_a_line_that_was_torn_is_told_of_and_the_chain_goes_on(chain: Path) -> None:
    os.truncate(chain, chain.stat().st_size - 20)
    assert broken(chain) == "line 5: found no whole record at the end"
    append(chain.parent, "start", step=5)
    kinds = [line[:5] and line for line in chain.read_text().splitlines()]
    assert [json.loads(kinds[number])["kind"] for number in (5, 6)] == ["torn", "start"]
    assert broken(chain) is None


def test_rubbish_that_nobody_told_of_is_found(chain: Path) -> None:
    lines = chain.read_text().splitlines(keepends=True)
    chain.write_text("".join([*lines[:2], "rubbish\n", *lines[2:]]))
    assert (found := broken(chain)) is not None
    assert found.startswith("line 3: found no record")


def test_many_writers_make_one_chain_of_long_lines(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(64):
            pool.submit(append, tmp_path, "job", words="x" * (3000 * (number % 40)))
    assert broken(tmp_path / AUDIT) is None
    found = head(tmp_path)
    assert found is not None
    assert found.lines == 64


def test_where_nothing_was_written_there_is_no_head(tmp_path: Path) -> None:
    assert head(tmp_path) is None
