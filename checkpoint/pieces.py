"""Chunks cut into pieces of 4 MiB, each with a digest of its own: the least of a checkpoint that is
proven by itself, so that a reader of a few rows reads little more than these."""

from collections.abc import Callable, Iterator

from .digest import copy_bytes, digest_bytes, is_digest_of

PIECE_BYTES = 4 * 2**20


def num_pieces(num_bytes: int) -> int:
    """How many pieces a chunk of so many bytes has; an empty one has one, which is empty."""
    return max(1, -(-num_bytes // PIECE_BYTES))


def cut(data: memoryview) -> Iterator[memoryview]:
    """The pieces of a chunk's bytes, as views."""
    yield data[:PIECE_BYTES]
    for start in range(PIECE_BYTES, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]


def digest_pieces(data: memoryview, digest: Callable[[memoryview], str] = digest_bytes) -> str:
    """The digests of a chunk's pieces, one behind the other."""
    return "".join(map(digest, cut(data)))


def copy_pieces(source: memoryview, target: memoryview) -> str:
    """Copies a chunk's bytes; what `digest_pieces` says of the target then, at little more than
    the copy's cost."""
    return "".join(map(copy_bytes, cut(source), cut(target)))


def split_digests(digests: str, num_bytes: int) -> list[str]:
    """What `digest_pieces` joined, for a chunk of so many bytes."""
    width = len(digests) // num_pieces(num_bytes)
    return [digests[at : at + width] for at in range(0, len(digests), width)]


def first_damaged(data: memoryview, digests: str) -> int | None:
    """Which piece of a chunk's bytes does not match its digest; None where all do."""
    both = zip(cut(data), split_digests(digests, len(data)), strict=True)
    return next((at for at, (part, one) in enumerate(both) if not is_digest_of(part, one)), None)
