"""Digests of bytes, of tensors and of a whole state; nothing about files or ranks.

xxh3-128 finds all damage; who sets out to build other bytes of equal digest is held off by SHA-256.
"""

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import torch
import xxhash

from .dtypes import dtype_name

_STRONG_DIGITS = 64
# Little enough to lie in a core's cache still when it is digested, which then costs a third; and so
# much that the interpreter's lock, which neither half needs, is seldom asked for.
_BLOCK_BYTES = 2**20


def digest_bytes(data: bytes | bytearray | memoryview) -> str:
    """The xxh3-128 of the bytes as 32 hex digits."""
    return str(xxhash.xxh3_128_hexdigest(data))


def copy_bytes(source: memoryview, target: memoryview) -> str:
    """Copies flat bytes; the digest of what lies at the target then, as `digest_bytes`.

    One thread, and without the interpreter's lock, so that others go on.
    """
    there, here = np.asarray(target), np.asarray(source)
    if len(source) <= _BLOCK_BYTES:
        np.copyto(there, here)
        return digest_bytes(target)
    state = xxhash.xxh3_128()
    for start in range(0, len(source), _BLOCK_BYTES):
        block = slice(start, start + _BLOCK_BYTES)
        np.copyto(there[block], here[block])
        state.update(target[block])
    return str(state.hexdigest())


def strong_digest(data: bytes | bytearray | memoryview) -> str:
    """The SHA-256 of the bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def is_digest_of(data: bytes | bytearray | memoryview, digest: str) -> bool:
    """Whether the digest, of either kind, is that of the bytes."""
    make = strong_digest if len(digest) == _STRONG_DIGITS else digest_bytes
    return make(data) == digest


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's elements in row-major order, as flat bytes.

    A contiguous CPU tensor is viewed, not copied: writing to the view writes to the tensor.
    """
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def tensor_digest(name: str, tensor: torch.Tensor) -> str:
    """The digest of a full tensor's name, dtype, shape and bytes, as 32 hex digits."""
    head = json.dumps([name, dtype_name(tensor.dtype), list(tensor.shape)]).encode()
    state = xxhash.xxh3_128(len(head).to_bytes(8, "little"))
    state.update(head)
    state.update(tensor_bytes(tensor))
    return str(state.hexdigest())


def combine_digests(digests: Mapping[str, str]) -> str:
    """One digest of a whole state, from those of its tensors by name, in whatever order they are.

    So ranks that each hold a part need to tell one another only the digests of it.
    """
    return digest_bytes(json.dumps(sorted(digests.items())).encode())
