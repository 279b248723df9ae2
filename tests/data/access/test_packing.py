"""Objects that are packed as a whole: what unpacks whole is taken, and nothing that does not."""

import bz2
import gzip
import importlib.util
import lzma

import numpy as np
import pytest

from keepstep.data.access.packing import unpack
from keepstep.data.errors import CorruptDataError
from keepstep.data.store import StoredObject

RAW = np.random.default_rng(0).integers(0, 40, 300_000, dtype=np.uint8).tobytes()
PACK = {"gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
PACKAGES = {
    "zstd": ("zstandard", lambda module: module.ZstdCompressor().compress),
    "br": ("brotli", lambda module: module.compress),
    "snappy": ("snappy", lambda module: module.compress),
}


@pytest.fixture(params=[*PACK, *PACKAGES])
def packed(request):
    """A packing, and what packs."""
    if request.param in PACK:
        return request.param, PACK[request.param]
    name, of = PACKAGES[request.param]
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return request.param, of(importlib.import_module(name))


def unpacked(packing, content, raw_size=-1):
    found = StoredObject(url="a.packed", size=len(content), packing=packing, raw_size=raw_size)
    return unpack(memoryview(content), found)


def test_what_was_packed_comes_back(packed):
    packing, pack = packed
    assert unpacked(packing, pack(RAW)) == RAW
    assert unpacked(packing, pack(RAW), raw_size=len(RAW)) == RAW


def test_parts_that_were_packed_one_by_one_are_one_object(packed):
    packing, pack = packed
    if packing in ("br", "snappy"):
        pytest.skip("has no such form")
    parts = [RAW[:100_000], b"", *(RAW[at : at + 50] for at in range(100_000, 120_000, 50))]
    assert unpacked(packing, b"".join(map(pack, parts))) == b"".join(parts)


@pytest.mark.parametrize("left", [0.5, 0.9, 0.9999])
def test_an_object_that_is_cut_short_is_damaged_though_nobody_knows_its_size(packed, left):
    packing, pack = packed
    content = pack(RAW)
    with pytest.raises(CorruptDataError, match="bytes that do not unpack"):
        unpacked(packing, content[: int(left * len(content))])


def test_bytes_of_another_kind_and_of_another_size_are_damage(packed):
    packing, pack = packed
    with pytest.raises(CorruptDataError, match="bytes that do not unpack"):
        unpacked(packing, b"\xffno such thing" * 50)
    with pytest.raises(CorruptDataError, match="300000 bytes unpacked"):
        unpacked(packing, pack(RAW), raw_size=7)
