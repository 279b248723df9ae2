"""The data: put your own here. What does not fit in memory is a `keepstep.data` source instead."""

from pathlib import Path

import torch
from torch import Tensor

HELD_OUT = 0.1


def read_samples(folder: Path, *, length: int) -> tuple[Tensor, Tensor]:
    """The texts of a folder as samples of `length` bytes and the one that follows.

    Returns:
        (N, length + 1) of uint8 to train on, and a tenth as many that are held out.
    """
    text = b"".join(path.read_bytes() for path in sorted(folder.glob("*.txt")))
    count = (len(text) - 1) // length
    if count < 10:
        raise ValueError(
            f"{folder}: found {len(text)} bytes in *.txt, needed {10 * length + 1} or more; add "
            "texts, or set a lower data.sequence_length"
        )
    every = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    samples = every[: count * length + 1].unfold(0, length + 1, length).clone()
    held_out = max(1, int(count * HELD_OUT))
    return samples[:-held_out], samples[-held_out:]
