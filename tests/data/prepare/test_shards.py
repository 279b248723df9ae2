"""Shards hold every token once, in order, in the smallest fitting type."""

from pathlib import Path

import numpy as np
import pytest
import xxhash

from keepstep.data.prepare.shards import ShardWriter, token_dtype, write_file


@pytest.mark.parametrize(
    ("size", "dtype"), [(4096, "uint16"), (65535, "uint16"), (65536, "uint32")]
)
def test_the_type_is_the_smallest_that_holds_every_id(size: int, dtype: str) -> None:
    assert token_dtype(size) == dtype


def test_shards_joined_are_the_documents_in_order(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", 70_000, shard_bytes=64)
    documents = [np.arange(start, start + 11, dtype=np.uint32) for start in (0, 500, 69_000)]
    for document in documents:
        writer.add(document)
    facts = writer.close()
    loaded = [np.load(tmp_path / shard.name) for shard in facts.shards]
    assert [shard.name for shard in facts.shards] == [f"train-{n:05d}.npy" for n in range(3)]
    assert (np.concatenate(loaded) == np.concatenate(documents)).all()
    assert (facts.documents, facts.tokens, loaded[0].dtype) == (3, 33, np.uint32)
    assert [shard.tokens for shard in facts.shards] == [16, 16, 1]


def test_facts_of_a_file_are_those_of_its_bytes(tmp_path: Path) -> None:
    facts = write_file(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"
    assert (facts.name, facts.bytes) == ("a", 7)
    assert facts.digest == xxhash.xxh3_128_hexdigest(b"content")


def test_entropy_is_that_of_the_token_frequencies(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", 1000)
    writer.add(np.array([0, 1, 2, 3] * 5, dtype=np.uint32))
    writer.close()
    assert writer.entropy_nats() == pytest.approx(np.log(4))
