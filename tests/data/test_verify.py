"""Every flipped, missing or cut byte of a prepared folder is found and named."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keepstep.data import CorruptDataError, inspect, verify

FILES = [
    "manifest.json",
    "tokenizer.json",
    "CARD.md",
    "keepstep-train.lock",
    "keepstep-eval.lock",
    *(f"{split}-{rest}.npy" for split in ("train", "eval") for rest in ("00000", "documents")),
]


def test_a_fresh_folder_has_no_problems(prepared: Path) -> None:
    assert sorted(path.name for path in prepared.iterdir()) == sorted(FILES)
    assert verify(prepared) == []


@pytest.mark.parametrize("name", FILES)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found_in_its_file(
    prepared: Path, name: str, place: float, bit: int
) -> None:
    path = prepared / name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(damaged)
    problems = verify(prepared)
    path.write_bytes(whole)
    assert len(problems) == 1
    assert str(path) in problems[0]


def test_a_missing_and_a_short_file_are_both_listed(prepared: Path) -> None:
    (prepared / "tokenizer.json").unlink()
    shard = prepared / "eval-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    problems = verify(prepared)
    assert [Path(problem.split(":")[0]).name for problem in problems] == [
        "eval-00000.npy",
        "tokenizer.json",
    ]


def test_inspect_tells_a_person_what_is_there(prepared: Path) -> None:
    facts = inspect(prepared, sequence_length=16)
    assert facts["documents"]["train"] + facts["documents"]["eval"] == 40
    assert facts["samples"]["train"] == (facts["tokens"]["train"] - 1) // 16
    assert facts["vocabulary_size"] == 300
    assert 0 < facts["unigram_entropy_nats"] < 6
    assert " times 0 makes 0.\n" in facts["excerpt"]


def test_inspect_refuses_a_damaged_folder(prepared: Path) -> None:
    (prepared / "train-00000.npy").unlink()
    with pytest.raises(CorruptDataError, match="no such file"):
        inspect(prepared)
