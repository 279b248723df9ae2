"""xxh3-128 digests of bytes, of tensors and of a whole state; nothing about files."""

import json
from collections.abc import Iterable

import torch
import xxhash

from .dtypes import dtype_name


def digest_bytes(data: bytes | bytearray | memoryview) -> str:
    """The xxh3-128 of the bytes as 32 hex digits."""
    return str(xxhash.xxh3_128_hexdigest(data))


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's elements in row-major order, as flat bytes.

    A contiguous CPU tensor is viewed, not copied: writing to the view writes to the tensor.
    """
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def state_digest(named_full_tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """One digest over (name, dtype, shape, bytes) of full tensors, in the order given.

    Holds one tensor at a time, so an iterator that gathers each from its shards stays small.
    """
    state = xxhash.xxh3_128()
    for name, tensor in named_full_tensors:
        head = json.dumps([name, dtype_name(tensor.dtype), list(tensor.shape)]).encode()
        state.update(len(head).to_bytes(8, "little"))
        state.update(head)
        state.update(tensor_bytes(tensor))
    return str(state.hexdigest())
