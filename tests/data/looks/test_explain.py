"""Where a sample lies is where reading it reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keepstep.data.access import LocalAccess, Ranges
from keepstep.data.lock import lock
from keepstep.data.sources.open import open_records
from keepstep.data.store import LocalStore

FIXTURES = Path(__file__).parents[1] / "fixtures"
Triples = set[tuple[int, ...]]


class Heard:
    """An access that remembers what was read through it."""

    def __init__(self, inner: LocalAccess) -> None:
        self.inner = inner
        self.objects = inner.objects
        self.ranges: Triples = set()

    def read(self, ranges: Ranges) -> list[memoryview]:
        self.ranges |= triples(ranges)
        return self.inner.read(ranges)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def triples(ranges: Ranges) -> Triples:
    return set(zip(*(column.tolist() for column in ranges), strict=True))


@pytest.mark.parametrize(
    "kind",
    ["mds/all", "mds/zstd", "webdataset/kinds", "litdata/samples", "litdata/rows", "mds/json"],
)
def test_every_record_is_read_from_where_it_is_said_to_lie(kind: str) -> None:
    dataset = lock(str(FIXTURES / kind), LocalStore())
    heard = Heard(LocalAccess(dataset.objects))
    records = open_records(dataset, heard)  # type: ignore[arg-type]
    for sample in range(len(records)):
        where = triples(records.where(sample))
        heard.ranges.clear()
        records.records(np.array([sample], dtype=np.int64))
        # What was decoded as one, and is kept, is not read again; a group may have a header that
        # is read with it.
        assert where <= heard.ranges or not heard.ranges, sample
        assert sample or len(heard.ranges - where) == (kind == "litdata/rows")
    heard.inner.close()
