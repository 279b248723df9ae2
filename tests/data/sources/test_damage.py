"""Damaged indexes, headers and samples of other tools' datasets are said to be so, by name."""

import gzip
import json
import shutil
import struct
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.data import CorruptDataError, DataError
from keepstep.data.access import LocalAccess
from keepstep.data.lock import lock
from keepstep.data.sources.open import open_records, open_tokens
from keepstep.data.sources.records.webdataset import braces
from keepstep.data.store import LocalStore

FIXTURES = Path(__file__).parent.parent / "fixtures"
Change = Callable[[dict[str, Any]], object]


def read_all(url: Path) -> int:
    """Reads a hundred records, or every token; how many were read."""
    dataset = lock(str(url), LocalStore())
    access = LocalAccess(dataset.objects)
    if dataset.format in ("megatron", "litdata_tokens", "npy"):
        tokens = open_tokens(dataset, access)
        tokens.gather(np.arange(len(tokens) // 5) * 5, 5)
        return len(tokens)
    records = open_records(dataset, access)
    if not len(records):
        return 0
    # Evenly over however many there are said to be: a count that lies is no reason to hang.
    ids = np.unique(np.linspace(0, len(records) - 1, 100).astype(np.int64))
    records.want(ids, np.zeros(len(ids)))
    return len(records.records(ids))


def copied(case: str, folder: Path) -> Path:
    shutil.copytree(FIXTURES / case, folder / "data")
    return folder / "data"


def patched(case: str, folder: Path, change: Change) -> Path:
    """A copy of a dataset whose index.json is changed."""
    data = copied(case, folder)
    body = json.loads((data / "index.json").read_text())
    change(body)
    (data / "index.json").write_text(json.dumps(body))
    return data


MDS: list[tuple[Change, str]] = [
    (lambda b: b.pop("version"), "found version None, needed 2; write"),
    (lambda b: b["shards"][0].update(samples=2), "found 3 samples in its header, needed 2 by"),
    (lambda b: b["shards"][0].update(samples=2**61), "found 10013 bytes, needed a header of 9223"),
    (lambda b: b["shards"][0].update(samples=-1), "found samples = -1, needed samples of type"),
    (lambda b: b["shards"][0].update(samples=True), "found samples = True"),
    (lambda b: b["shards"][0].pop("raw_data"), "found raw_data = None, needed raw_data of type"),
    (lambda b: b["shards"][0]["raw_data"].update(bytes=9), "found 10013 bytes, needed 9 bytes by"),
    (lambda b: b["shards"][0]["raw_data"].update(basename="x"), "data/x: found no such object"),
    (lambda b: b["shards"][0]["raw_data"].update(basename="../x"), "found the name '../x'"),
    (lambda b: b["shards"][0]["raw_data"].update(basename="s3://b/x"), "found the name 's3://b"),
    (lambda b: b["shards"][0].update(column_sizes=[1]), "found columns of sizes"),
    (lambda b: b["shards"][0].update(column_names=[1]), "needed a list of strings"),
    (lambda b: b["shards"][0].update(format="tfrecord"), "found shards of the format 'tfrecord'"),
    (lambda b: b["shards"][0]["column_encodings"].__setitem__(0, "x"), "the encoding 'x', needed"),
    (lambda b: b["shards"][0]["column_sizes"].__setitem__(0, 9**9), "ends beyond the sample's"),
    (lambda b: b.update(shards=5), "found shards = 5, needed shards of type list"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), MDS, ids=[said for _, said in MDS])
def test_an_index_of_mds_that_lies_is_found(change: Change, said: str, tmp_path: Path) -> None:
    data = patched("mds/all", tmp_path, change)
    with pytest.raises((CorruptDataError, DataError), match=said):
        read_all(data)


LITDATA: list[tuple[Change, str]] = [
    (lambda b: b["chunks"][0].update(chunk_size=99), "in its header, needed 99 by the index"),
    (lambda b: b["chunks"][0].update(chunk_bytes=9), "needed 9 bytes by"),
    (lambda b: b["chunks"][0].update(filename="a/../../b"), "found the name 'a/../../b'"),
    (lambda b: b["config"].update(data_spec="[1, 2]"), "found data_spec .*, needed a tree"),
    (lambda b: b["config"]["data_format"].pop(), "needed a tree|leaves"),
    (lambda b: b["config"].update(encryption={"x": 1}), "found encrypted chunks"),
    (lambda b: b["config"].update(item_loader="ParquetLoader"), "found chunks of ParquetLoader"),
    (lambda b: b["config"].update(compression="lz4"), "found the compression 'lz4'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), LITDATA, ids=[said for _, said in LITDATA])
def test_an_index_of_litdata_that_lies_is_found(change: Change, said: str, tmp_path: Path) -> None:
    data = patched("litdata/plain", tmp_path, change)
    with pytest.raises((CorruptDataError, DataError), match=said):
        read_all(data)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100000])
def test_an_index_that_is_no_json_object_is_corrupt(content: bytes, tmp_path: Path) -> None:
    data = copied("mds/zstd", tmp_path)
    (data / "index.json").write_bytes(content)
    with pytest.raises(CorruptDataError, match=r"index\.json: found (no JSON|a list)"):
        lock(str(data), LocalStore())


@pytest.mark.parametrize("offsets", [[40, 30, 40], [0, 20, 40], [16, 20, 2**32 - 1]])
def test_offsets_out_of_order_or_range_are_corrupt(offsets: list[int], tmp_path: Path) -> None:
    data = copied("mds/json", tmp_path)
    for path in data.glob("*.meta"):
        content = path.read_bytes()
        count = struct.unpack("<I", content[:4])[0]
        words = [offsets[min(i, 1)] for i in range(count)] + [offsets[2]]
        path.write_bytes(
            content[:4] + struct.pack(f"<{count + 1}I", *words) + content[8 + 4 * count :]
        )
    with pytest.raises(CorruptDataError, match=r"\.meta: found offsets out of|do not decode"):
        read_all(data)


def test_a_wids_index_that_lies_is_found(tmp_path: Path) -> None:
    data = copied("webdataset/wids", tmp_path)
    index = data / "shardindex.json"
    for change, said in (
        ({"nsamples": 5}, "found 6 samples, needed 5 by its index"),
        ({"filesize": 5}, r"w-0.tar: found 20480 bytes, needed 5 by"),
        ({"url": "http://elsewhere/x.tar"}, "found the name 'http://elsewhere"),
    ):
        body = json.loads((FIXTURES / "webdataset/wids/shardindex.json").read_text())
        body["shardlist"][0].update(change)
        index.write_text(json.dumps(body))
        with pytest.raises((CorruptDataError, DataError), match=said):
            read_all(data)


def test_an_index_of_energon_that_lies_is_found(tmp_path: Path) -> None:
    data = copied("webdataset/energon", tmp_path)
    path = data / "e-0.tar.idx"
    whole = path.read_bytes()
    for content in (b"", whole[:-1], whole[::-1], whole[:8] + whole[16:]):
        path.write_bytes(content)
        with pytest.raises(CorruptDataError):
            read_all(data)


def archive(*members: tuple[str, bytes]) -> bytes:
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as out:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            out.addfile(info, BytesIO(body))
    return stream.getvalue()


def test_a_sample_with_a_member_twice_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(archive(("a.x", b"1"), ("a.X", b"2")))
    with pytest.raises(CorruptDataError, match=r"a\.tar, sample 0: .*two members 'x' of 'a'"):
        read_all(tmp_path)


def test_a_tar_of_a_size_in_base_256_is_read_and_a_false_one_is_corrupt(tmp_path: Path) -> None:
    content = bytearray(archive(("a.x", b"12345")))

    def with_size(size: int) -> bytes:
        content[124:136] = b"\x80" + size.to_bytes(11, "big")
        content[148:156] = b" " * 8
        content[148:156] = b"%06o\0 " % sum(content[:512])
        return bytes(content)

    (tmp_path / "a.tar").write_bytes(with_size(5))
    assert read_all(tmp_path) == 1
    (tmp_path / "a.tar").write_bytes(with_size(2**70))
    with pytest.raises(CorruptDataError, match="more than there are"):
        read_all(tmp_path)


@pytest.mark.parametrize("content", [b"x", b"x" * 1024, archive(("a.x", b"1" * 300))[:700]])
def test_what_is_no_tar_is_corrupt(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(CorruptDataError, match=r"a\.tar: found"):
        read_all(tmp_path)


def test_braces_stand_for_urls_and_name_what_is_missing() -> None:
    assert braces("d/{a,b}-{08..10}.tar")[1:4] == ["d/a-09.tar", "d/a-10.tar", "d/b-08.tar"]
    assert braces("{2..0}") == ["2", "1", "0"]
    url = str(FIXTURES / "webdataset" / "plain" / "part-{000..001}.tar")
    assert lock(url, LocalStore()).counts.tolist() == [4, 4]
    with pytest.raises(CorruptDataError, match=r"part-003\.tar: found no such object"):
        lock(url.replace("001", "003"), LocalStore())
    with pytest.raises(DataError, match="found a range of 10000001 URLs"):
        braces("{0..10000000}")


def write_parquet(folder: Path) -> None:
    table = columns()
    parquet.write_table(table, folder / "a.parquet", row_group_size=4)
    parquet.write_table(table, folder / "b.parquet", use_dictionary=False, compression="zstd")


def write_arrow(folder: Path) -> None:
    table = columns()
    options = arrow.ipc.IpcWriteOptions(compression="zstd")
    with arrow.ipc.new_file(folder / "a.arrow", table.schema, options=options) as out:
        out.write_table(table, max_chunksize=4)
    with arrow.ipc.new_stream(folder / "b.arrow", table.schema) as out:
        out.write_table(table, max_chunksize=4)


def write_lines(folder: Path) -> None:
    lines = b"".join(json.dumps({"n": n}).encode() + b"\n" for n in range(9))
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines))


def write_arrays(folder: Path) -> None:
    for name in "ab":
        np.save(folder / f"{name}.npy", np.arange(33, dtype=np.uint16))


def columns() -> arrow.Table:
    words = [f"w{n}" * (n % 4) for n in range(12)]
    return arrow.table(
        {
            "n": list(range(12)),
            "text": words,
            "kind": arrow.array(words).dictionary_encode(),
            "row": [[float(n)] * (n % 3) for n in range(12)],
            "tree": [{"a": word, "b": None} for word in words],
        }
    )


def copy_of(case: str) -> Callable[[Path], None]:
    return lambda folder: shutil.copytree(FIXTURES / case, folder, dirs_exist_ok=True) and None


FLIPPED: dict[str, Callable[[Path], None]] = {
    **{case: copy_of(case) for case in (
        *("mds/all", "mds/gz", "mds/xsv", "litdata/plain", "litdata/samples", "litdata/frames"),
        *("litdata/rows_zstd", "litdata/tokens", "webdataset/kinds", "webdataset/packed"),
        *("webdataset/energon", "webdataset/wids", "megatron/many"),
    )},
    "parquet": write_parquet, "arrow": write_arrow, "jsonl": write_lines, "npy": write_arrays,
}  # fmt: skip
FLIPS = 20


@pytest.mark.parametrize("case", FLIPPED)
def test_flipped_bytes_give_an_error_of_ours_or_none(case: str, tmp_path: Path) -> None:
    FLIPPED[case](tmp_path)
    whole = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
    files = [path for path, content in whole.items() if content]

    def places(content: bytes) -> st.SearchStrategy[int]:
        """Where headers and indexes are, or anywhere."""
        end = len(content) - 1
        return (
            st.integers(0, min(end, 300))
            | st.integers(max(0, end - 300), end)
            | st.integers(0, end)
        )

    changes = st.sampled_from(files).flatmap(
        lambda path: st.tuples(
            st.just(path),
            st.lists(st.tuples(places(whole[path]), st.integers(1, 255)), min_size=1, max_size=4),
        )
    )

    @settings(max_examples=FLIPS, deadline=None, database=None)
    @given(changes)
    def flip(change: tuple[Path, list[tuple[int, int]]]) -> None:
        path, flips = change
        content = bytearray(whole[path])
        for place, mask in flips:
            content[place] ^= mask
        path.write_bytes(content)
        try:
            read_all(tmp_path)
        except (CorruptDataError, DataError):
            pass
        finally:
            path.write_bytes(whole[path])

    flip()
    assert read_all(tmp_path) > 0
