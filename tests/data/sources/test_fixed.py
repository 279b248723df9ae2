"""Records of one size are gathered as rows of bytes, in which their columns lie at set places."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keepstep.data import CorruptDataError
from keepstep.data.access import LocalAccess
from keepstep.data.lock import lock
from keepstep.data.sources import Fixed
from keepstep.data.sources.open import open_records
from keepstep.data.store import LocalStore

FIXTURES = Path(__file__).parent.parent / "fixtures"
COLUMNS = {"a": ("ndarray:uint16:2,3", 12), "b": ("int", 8), "c": ("float32", 4)}


def write(folder: Path, bodies: list[bytes]) -> None:
    """Shards of three samples, in the layout that the tests of peers hold against the writer."""
    shards = []
    for number in range(0, len(bodies), 3):
        part = bodies[number : number + 3]
        sizes = [4 * (len(part) + 2) + 2, *(len(body) for body in part)]
        head = struct.pack(f"<{len(part) + 2}I", len(part), *np.cumsum(sizes).tolist())
        name = f"shard.{number}.mds"
        (folder / name).write_bytes(head + b"{}" + b"".join(part))
        raw = {"basename": name, "bytes": (folder / name).stat().st_size, "hashes": {}}
        shards.append(
            {
                "format": "mds", "version": 2, "samples": len(part), "raw_data": raw,
                "zip_data": None, "compression": None, "column_names": list(COLUMNS),
                "column_encodings": [encoding for encoding, _ in COLUMNS.values()],
                "column_sizes": [size for _, size in COLUMNS.values()],
            }
        )  # fmt: skip
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))


def sample(n: int) -> bytes:
    return np.arange(n, n + 6, dtype="<u2").tobytes() + struct.pack("<qf", -n, n / 2)


def opened(folder: Path) -> Any:
    dataset = lock(str(folder), LocalStore())
    return open_records(dataset, LocalAccess(dataset.objects))


def test_rows_hold_what_the_records_hold(tmp_path: Path) -> None:
    write(tmp_path, [sample(n) for n in range(8)])
    records = opened(tmp_path)
    assert isinstance(records, Fixed)
    ids = np.array([7, 0, 3, 3])
    rows = np.zeros((4, 24), dtype=np.uint8)
    records.fill(rows, ids)
    layout = records.layout
    assert layout is not None
    for row, record in zip(rows, records.records(ids), strict=True):
        for name, (start, dtype, shape) in layout.items():
            size = dtype.itemsize * int(np.prod(shape, dtype=int))
            value = np.frombuffer(row[start : start + size].tobytes(), dtype).reshape(shape)
            assert np.array_equal(value, record[name])
    assert records.records(np.array([5]))[0]["b"] == -5


def test_a_sample_of_another_size_is_corrupt(tmp_path: Path) -> None:
    write(tmp_path, [sample(0), sample(1), sample(2) + b"x"])
    records = opened(tmp_path)
    records.fill(np.zeros((2, 24), np.uint8), np.array([0, 1]))
    with pytest.raises(CorruptDataError, match=r"sample 2: found 25 bytes, needed 24 as all"):
        records.fill(np.zeros((2, 24), np.uint8), np.array([0, 2]))


@pytest.mark.parametrize("case", ["mds/all", "mds/zstd", "mds/json", "litdata/plain"])
def test_records_that_differ_in_size_have_no_layout(case: str) -> None:
    assert opened(FIXTURES / case).layout is None
