"""Datasets are surveyed and read alike in a bucket: full URLs, no folders, ranges of objects."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.plain import plain

from keepstep.data import DataError
from keepstep.data.access import LocalAccess
from keepstep.data.errors import MissingError
from keepstep.data.lock import lock
from keepstep.data.sources.open import open_records, open_tokens
from keepstep.data.store import StoredObject

FIXTURES = Path(__file__).parent.parent / "fixtures"


class Bucket:
    """The fixtures as a bucket, which knows objects alone; it counts the bytes that are read."""

    def __init__(self) -> None:
        files = [path for path in FIXTURES.rglob("*") if path.is_file()]
        self.files = {f"s3://bucket/{path.relative_to(FIXTURES)}": path for path in files}
        self.bytes = 0

    def list(self, url: str) -> list[StoredObject]:
        below = url.rstrip("/") + "/"
        return [self.stat(one) for one in sorted(self.files) if one == url or one.startswith(below)]

    def stat(self, url: str) -> StoredObject:
        if url not in self.files:
            raise MissingError(url, "found no such object", "404")
        return StoredObject(url, self.files[url].stat().st_size, f"etag-{url}")

    def read(self, obj: StoredObject, start: int, stop: int) -> bytes:
        assert obj == self.stat(obj.url) or obj.packing
        assert 0 <= start <= stop <= obj.size
        self.bytes += stop - start
        return self.files[obj.url].read_bytes()[start:stop]

    def close(self) -> None:
        """Nothing is held."""


def access(bucket: Bucket, objects: Any) -> LocalAccess:
    """Over the files behind the bucket's objects."""
    local = [
        StoredObject(str(bucket.files[o.url]), o.size, "", o.packing, o.raw_size) for o in objects
    ]
    return LocalAccess(local)


@pytest.mark.parametrize(
    ("case", "url", "only_indexes"),
    [
        ("mds/all", "mds/all/", True),
        ("mds/merged", "mds/merged", True),
        ("mds/csv", "mds/csv", True),
        ("litdata/plain", "litdata/plain", True),
        ("litdata/rows", "litdata/rows", False),
        ("webdataset/wids", "webdataset/wids/shardindex.json", True),
        ("webdataset/energon", "webdataset/energon", True),
        ("webdataset/plain", "webdataset/plain/part-{000..002}.tar", False),
    ],
)
def test_records_are_found_by_their_urls(case: str, url: str, only_indexes: bool) -> None:
    bucket = Bucket()
    dataset = lock(f"s3://bucket/{url}", bucket)
    files = [path for name, path in bucket.files.items() if f"/{case}/" in name]
    indexes = [path for path in files if path.suffix in (".json", ".idx")]
    if only_indexes:
        # Twice, since the format is found by them too; and a few bytes of each object's end.
        assert bucket.bytes <= 2 * sum(p.stat().st_size for p in indexes) + 8 * len(files)
    assert all(obj.tag == f"etag-{obj.url}" for obj in dataset.objects)
    records = open_records(dataset, access(bucket, dataset.objects))
    samples = json.loads((FIXTURES / f"{case}.expected.json").read_text())["samples"]
    assert plain(records.records(np.arange(len(samples)))) == samples


@pytest.mark.parametrize("url", ["megatron/one", "megatron/one/part0_text_document"])
def test_tokens_are_found_by_their_folder_or_prefix(url: str) -> None:
    bucket = Bucket()
    dataset = lock(f"s3://bucket/{url}", bucket)
    tokens = json.loads((FIXTURES / "megatron/one.expected.json").read_text())["tokens"]
    found = open_tokens(dataset, access(bucket, dataset.objects))
    rows = found.gather(np.array([0]), len(tokens))
    assert rows[0].tolist() == tokens


def test_nothing_there_is_said() -> None:
    with pytest.raises(DataError, match="s3://bucket/none: found no objects, needed the folder"):
        lock("s3://bucket/none", Bucket())
