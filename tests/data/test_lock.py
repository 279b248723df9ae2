"""A lock says all that was surveyed, is checked when read, and is not overwritten unsaid."""

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import xxhash

from keepstep.data import CorruptDataError, DataError, DataFormat
from keepstep.data.access import Cut, ExtentMap, LocalAccess
from keepstep.data.dataset import Dataset
from keepstep.data.lock import lock, with_digests
from keepstep.data.lockfile import read_lock, write_lock
from keepstep.data.sources.open import open_records
from keepstep.data.store import LocalStore, StoredObject

FIXTURES = Path(__file__).parent / "fixtures"
CASES = (
    "mds/all",
    "mds/json",
    "litdata/frames",
    "litdata/rows",
    "webdataset/kinds",
    "megatron/many",
)


def locked(case: str) -> Dataset:
    return lock(str(FIXTURES / case), LocalStore())


@pytest.mark.parametrize("case", CASES)
def test_what_is_read_is_what_was_written(case: str, tmp_path: Path) -> None:
    dataset = locked(case)
    write_lock(dataset, tmp_path / "lock")
    found = read_lock(tmp_path / "lock")
    assert list(found.objects) == list(dataset.objects)
    assert (found.format, found.url, found.facts) == (dataset.format, dataset.url, dataset.facts)
    assert dict(found.digests) == dict(dataset.digests)
    assert np.array_equal(found.counts, dataset.counts)
    assert set(found.arrays) == set(dataset.arrays)
    for name, array in dataset.arrays.items():
        assert np.array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype
    assert found.digest == dataset.digest


def test_a_lock_is_a_file_of_safetensors(tmp_path: Path) -> None:
    dataset = locked("megatron/many")
    write_lock(dataset, tmp_path / "lock")
    arrays = safetensors.numpy.load_file(tmp_path / "lock")
    assert np.array_equal(arrays["counts"], dataset.counts)
    assert np.array_equal(arrays["array.documents"], dataset.arrays["documents"])


def test_a_moved_dataset_is_read_from_where_it_is_now(tmp_path: Path) -> None:
    dataset = locked("webdataset/plain")
    write_lock(dataset, tmp_path / "lock")
    moved = tmp_path / "moved"
    moved.mkdir()
    for obj in dataset.objects:
        (moved / dataset.name(obj)).write_bytes(Path(obj.url).read_bytes())
    found = read_lock(tmp_path / "lock", url=str(moved))
    records = open_records(found, LocalAccess(found.objects))
    assert records.records(np.array([9]))[0]["__key__"] == "deep.er/dir/0009"
    assert found.objects[0].url == str(moved / "part-000.tar")
    assert found.digest == dataset.digest


def test_an_equal_lock_is_left_and_another_only_replaced_when_told(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_lock(locked("mds/zstd"), path)
    before = path.stat().st_mtime_ns
    write_lock(locked("mds/zstd"), path)
    assert path.stat().st_mtime_ns == before
    with pytest.raises(DataError, match="found another lock there, needed none or an equal one"):
        write_lock(locked("mds/gz"), path)
    write_lock(locked("mds/gz"), path, replace=True)
    assert read_lock(path).objects[0].packing == "gzip"
    assert [one.name for one in tmp_path.iterdir()] == ["lock"]


def test_any_changed_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_lock(locked("mds/json"), path)
    content = path.read_bytes()
    head = struct.unpack("<Q", content[:8])[0] + 8
    for place in range(0, len(content), 37):
        if content[place] == ord(" "):  # those that fill the header up say nothing
            continue
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises((CorruptDataError, DataError)):
            read_lock(path)
    for cut in (0, 5, head - 1, head + 10, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(CorruptDataError):
            read_lock(path)


def test_no_lock_or_another_version_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="found no such file, needed a lock; run `keepstep data lock`"
    ):
        read_lock(tmp_path / "nothing")
    text = json.dumps({"__metadata__": {"format": "keepstep-lock", "version": "9"}}).encode()
    (tmp_path / "new").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(DataError, match=r"found format and version \('keepstep-lock', '9'\)"):
        read_lock(tmp_path / "new")


def test_a_lock_is_read_through_a_store(tmp_path: Path) -> None:
    dataset = locked("mds/tsv")
    write_lock(dataset, tmp_path / "lock")
    found = read_lock(f"file://{tmp_path}/lock", store=LocalStore())
    assert found.digest == dataset.digest


def test_a_lock_with_a_name_outside_gives_no_object(tmp_path: Path) -> None:
    dataset = locked("mds/tsv")
    write_lock(dataset, tmp_path / "lock")
    found = read_lock(tmp_path / "lock")
    found.objects.names.content = np.frombuffer(  # type: ignore[attr-defined]
        found.objects.names.content.tobytes().replace(b"shard", b"../..")[:400],  # type: ignore[attr-defined]
        dtype=np.uint8,
    )
    with pytest.raises(DataError, match="needed the relative name of an object inside"):
        found.objects[0]


def test_many_objects_open_without_making_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = [StoredObject(f"s3://b/d/{n:06d}.bin", n, f"tag{n}") for n in range(20000)]
    dataset = Dataset(
        format="raw", url="s3://b/d", objects=objects, counts=np.arange(20000),
        facts={"dtype": "<u2"}, arrays={"heads": np.zeros(20000, np.int64)},
    )  # fmt: skip
    write_lock(dataset, tmp_path / "lock")
    digest = dataset.digest

    def refuse(*_: Any) -> None:
        raise AssertionError("an object was made")

    monkeypatch.setattr("keepstep.data.table.StoredObject", refuse)
    found = read_lock(tmp_path / "lock")
    assert len(found.objects) == 20000
    assert found.digest == digest
    monkeypatch.undo()
    assert found.objects[777] == objects[777]


def test_digests_are_of_every_byte_and_check_what_the_writer_recorded(tmp_path: Path) -> None:
    dataset = locked("mds/all")
    said: list[tuple[int, int]] = []
    found = with_digests(dataset, LocalStore(), progress=lambda *state: said.append(state))
    total = sum(obj.size for obj in dataset.objects)
    assert said[-1] == (total, total)
    assert all(digest.startswith("xxh3_128:") for digest in found.digests.values())
    assert dataset.digests["shard.00000.mds"].startswith("sha1:")
    wrong = {name: "sha1:" + "0" * 40 for name in dataset.digests}
    with pytest.raises(CorruptDataError, match=r"shard.00000.mds: found sha1 \w+, needed sha1 00"):
        with_digests(replace(dataset, digests=wrong), LocalStore())
    first = Path(dataset.objects[0].url)
    assert (
        dataset.digests["shard.00000.mds"] == f"sha1:{hashlib.sha1(first.read_bytes()).hexdigest()}"
    )


def test_digests_that_are_done_are_not_done_again(tmp_path: Path) -> None:
    dataset = locked("mds/zstd")
    read: list[str] = []

    class Counting(LocalStore):  # type: ignore[misc]
        def read(self, obj: StoredObject, start: int, stop: int) -> bytes:
            read.append(obj.url)
            return super().read(obj, start, stop)

    first = with_digests(dataset, Counting(), resume=tmp_path / "done")
    lines = (tmp_path / "done").read_text().splitlines()
    # As a stop in the middle of the third line leaves it.
    (tmp_path / "done").write_text("\n".join([*lines[:3], lines[3][:9]]))
    read.clear()
    again = with_digests(dataset, Counting(), resume=tmp_path / "done")
    assert again.digests == first.digests
    assert len(read) == len(dataset.objects) - 2


@pytest.mark.parametrize(
    ("case", "settings", "said"),
    [
        ("mds/all", {"dtype": "uint16"}, "found dtype='uint16' for data of the format mds"),
        ("megatron/one", {"end_token": 0}, "found end_token=0 for data of the format megatron"),
        ("litdata/rows", {"split": "x"}, "found split='x' for data of the format litdata"),
        ("mds/all", {"format": DataFormat.text}, "found the format text, needed one of mds"),
        ("mds/all", {"format": DataFormat.litdata}, r"index\.json: found config = None, needed"),
        ("mds/all", {"format": DataFormat.parquet}, "found no .parquet objects, needed at least"),
    ],
)
def test_a_setting_that_does_not_belong_is_refused(
    case: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises((DataError, CorruptDataError), match=said):
        lock(str(FIXTURES / case), LocalStore(), **settings)


def test_a_lock_of_the_release_before_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_lock(with_digests(locked("mds/zstd"), LocalStore()), path)
    path.write_bytes(path.read_bytes().replace(b'"version":"2"', b'"version":"1"'))
    with pytest.raises(DataError, match=r"lock: found .*'1'\), needed .*'2'\); lock the dataset"):
        read_lock(path)


def test_digests_follow_the_extents_of_tokens_over_the_pieces_that_are_read(
    tmp_path: Path,
) -> None:
    for number in range(2):
        tokens = np.random.default_rng(number).integers(0, 2**16, 4_500_000, dtype=np.uint16)
        np.save(tmp_path / f"{number}.npy", tokens)
    dataset = with_digests(lock(str(tmp_path), LocalStore()), LocalStore(), sequence_length=1000)
    assert (dataset.extent_bytes, dataset.extent_overlap) == (66_000, 2)
    extents = ExtentMap(dataset, Cut.of(dataset))
    bodies = [Path(obj.url).read_bytes() for obj in dataset.objects]
    places, starts, stops = (one.tolist() for one in extents.places(np.arange(len(extents))))
    needed = [
        xxhash.xxh3_128_digest(bodies[place][start:stop])
        for place, start, stop in zip(places, starts, stops, strict=True)
    ]
    assert dataset.extent_digests is not None
    assert [row.tobytes() for row in dataset.extent_digests] == needed
