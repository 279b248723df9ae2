"""float32 -> bfloat16 by lot, with bits that follow from what is rounded and not from who does it.

Rounding to nearest loses every update smaller than half a unit of the last of 8 bits; rounding up
with the probability of the part that is cut off keeps it in expectation (Zamirai et al.,
arXiv 2010.06192).
"""

import torch
import xxhash
from torch import Tensor

# Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014): the increment and
# the two multipliers of SplitMix64, as signed 64-bit integers, since torch multiplies only those.
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def rounding_key(seed: int, step: int, name: str) -> int:
    """63 bits of XXH3 that tell the roundings of one tensor at one step from all others.

    Args:
        step: steps that the optimizer has made of this tensor, this one included.
        name: the same on every layout, such as `layers.0.weight.exp_avg`.
    """
    return xxhash.xxh3_64_intdigest(f"{seed}/{step}/{name}".encode()) & (2**63 - 1)


def round_stochastic(values: Tensor, *, key: int, positions: Tensor) -> Tensor:
    """Rounds to bfloat16, up or down in proportion to the distances, so that the mean is exact.

    The same (key, position, value) gives the same bits on any device and in any shard. What
    bfloat16 can hold, infinities and NaN come back as they are.

    Args:
        values: float32, any shape.
        positions: int64 of the same shape; the elements' places in the full tensor.
    """
    bits = values.view(torch.int32)
    lot = (_shifted(_mixed(positions, key), 48)).to(torch.int32)
    # The low 16 bits are what is cut off: adding 0 to 65535 carries into the others with exactly
    # the probability of that part. The sign is the highest bit, so magnitudes grow for both signs.
    rounded = ((bits + lot) & -65536).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values).to(torch.bfloat16)


def _mixed(positions: Tensor, key: int) -> Tensor:
    """SplitMix64's output for the states key + (position + 1) x increment; wraps around."""
    mixed = (positions + 1) * _INCREMENT + key
    mixed = (mixed ^ _shifted(mixed, 30)) * _FIRST
    mixed = (mixed ^ _shifted(mixed, 27)) * _SECOND
    return mixed ^ _shifted(mixed, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shifts right and fills with zeros; torch's own shift repeats the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
