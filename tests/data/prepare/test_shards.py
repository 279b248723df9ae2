"""Shards hold every token once, in order, in the smallest fitting type."""

from pathlib import Path

import numpy as np
import pytest
import xxhash

from keepstep.data.prepare.shards import (
    entropy_nats,
    span,
    token_dtype,
    write_array,
    write_file,
)


@pytest.mark.parametrize(
    ("size", "dtype"), [(4096, "uint16"), (65535, "uint16"), (65536, "uint32")]
)
def test_the_type_is_the_smallest_that_holds_every_id(size: int, dtype: str) -> None:
    assert token_dtype(size) == dtype


def test_a_span_of_arrays_is_that_of_their_concatenation() -> None:
    arrays = [np.arange(5), np.arange(0), np.arange(5, 12)]
    for start in range(12):
        for stop in range(start, 13):
            joined = np.concatenate([np.empty(0, int), *span(arrays, start, stop)])
            assert joined.tolist() == list(range(start, min(stop, 12)))


def test_an_array_written_in_pieces_is_an_ordinary_npy(tmp_path: Path) -> None:
    pieces = [np.array([1, 2], dtype=np.uint16), np.array([70], dtype=np.uint16)]
    facts = write_array(tmp_path / "a.npy", pieces, 3, "uint16")
    loaded = np.load(tmp_path / "a.npy")
    assert (loaded.tolist(), loaded.dtype) == ([1, 2, 70], np.uint16)
    content = (tmp_path / "a.npy").read_bytes()
    assert (facts.bytes, facts.digest) == (len(content), xxhash.xxh3_128_hexdigest(content))


def test_facts_of_a_file_are_those_of_its_bytes(tmp_path: Path) -> None:
    facts = write_file(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"
    assert (facts.name, facts.bytes) == ("a", 7)
    assert facts.digest == xxhash.xxh3_128_hexdigest(b"content")


def test_entropy_is_that_of_the_token_frequencies() -> None:
    assert entropy_nats(np.array([5, 0, 5, 5, 5])) == pytest.approx(np.log(4))
    assert entropy_nats(np.zeros(4, dtype=np.int64)) == 0
