"""Parquet and Arrow files of the real writer are read row for row, a group at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest

from keepstep.data import CorruptDataError, DataError
from keepstep.data.access import LocalAccess
from keepstep.data.dataset import Dataset
from keepstep.data.lock import lock
from keepstep.data.sources.open import open_records
from keepstep.data.sources.source import Records
from keepstep.data.store import LocalStore

Write = Callable[[Path, arrow.Table], None]


def table(start: int, rows: int) -> arrow.Table:
    ids = range(start, start + rows)
    return arrow.table(
        {
            "id": arrow.array(ids, arrow.int64()),
            "text": [None if n % 5 == 0 else f"row {n} \u00e9" for n in ids],
            "kind": arrow.array([f"k{n % 3}" for n in ids]).dictionary_encode(),
            "vector": arrow.array([[n / 2] * (n % 4) for n in ids], arrow.list_(arrow.float32())),
            "pair": arrow.array([[n, n + 1] for n in ids], arrow.list_(arrow.int16(), 2)),
            "tree": [{"a": n, "b": [f"{n}"]} for n in ids],
            "image": [bytes([n % 256]) * n for n in ids],
            "moment": arrow.array([n * 1001 for n in ids], arrow.timestamp("ns")),
        }
    )


def row(n: int) -> dict[str, Any]:
    return {
        "id": n,
        "text": None if n % 5 == 0 else f"row {n} \u00e9",
        "kind": f"k{n % 3}",
        "vector": [n / 2] * (n % 4),
        "pair": [n, n + 1],
        "tree": {"a": n, "b": [f"{n}"]},
        "image": bytes([n % 256]) * n,
        "moment": n * 1001,
    }


def write_stream(path: Path, content: arrow.Table) -> None:
    with arrow.ipc.new_stream(path, content.schema) as out:
        for batch in content.to_batches(max_chunksize=7):
            out.write_batch(batch)


def write_file(path: Path, content: arrow.Table) -> None:
    options = arrow.ipc.IpcWriteOptions(compression="lz4")
    with arrow.ipc.new_file(path, content.schema, options=options) as out:
        out.write_table(content, max_chunksize=6)


WRITERS: dict[str, Write] = {
    "snappy.parquet": lambda path, content: parquet.write_table(content, path, row_group_size=7),
    "zstd.parquet": lambda path, content: parquet.write_table(
        content, path, row_group_size=5, compression="zstd", use_dictionary=False,
        write_page_checksum=True,
    ),
    "arrow": write_file,
    "stream.arrow": write_stream,
    "feather": lambda path, content: feather.write_feather(content, path, chunksize=8),
}  # fmt: skip


def opened(folder: Path) -> tuple[Dataset, Records]:
    dataset = lock(str(folder), LocalStore())
    return dataset, open_records(dataset, LocalAccess(dataset.objects))


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_of_several_objects_come_in_any_order(kind: str, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path / f"a.{kind}", table(0, 20))
    WRITERS[kind](tmp_path / f"b.{kind}", table(20, 3))
    WRITERS[kind](tmp_path / f"c.{kind}", table(23, 0))
    dataset, records = opened(tmp_path)
    ids = np.random.default_rng(0).permutation(23).astype(np.int64)
    records.want(ids, np.zeros(23))
    found = records.records(ids)
    assert isinstance(found[0]["vector"], np.ndarray)
    assert found[0]["vector"].dtype == np.float32
    plain = [
        {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in r.items()} for r in found
    ]
    assert plain == [row(n) for n in ids.tolist()]
    assert dataset.counts.tolist() == [20, 3, 0]
    assert len(dataset.arrays["group_rows"]) > 3


def test_dictionaries_that_change_along_a_stream_are_those_before_each_batch(
    tmp_path: Path,
) -> None:
    batches = [
        arrow.record_batch({"kind": arrow.array(words).dictionary_encode()})
        for words in (["a", "b"], ["c", "a", "d"], ["e"])
    ]
    with arrow.ipc.new_stream(tmp_path / "x.arrow", batches[0].schema) as out:
        for batch in batches:
            out.write_batch(batch)
    _, records = opened(tmp_path)
    found = records.records(np.arange(6)[::-1].copy())
    assert [one["kind"] for one in found] == ["e", "d", "a", "c", "b", "a"]


def test_only_the_wanted_groups_are_asked_for(tmp_path: Path) -> None:
    WRITERS["snappy.parquet"](tmp_path / "a.parquet", table(0, 21))
    dataset = lock(str(tmp_path), LocalStore())
    access = Watched(dataset)
    records = open_records(dataset, access)
    records.want(np.array([20, 1, 2]), np.array([5.0, 7.0, 6.0]))
    starts, dues = access.wanted
    assert starts.tolist() == dataset.arrays["group_starts"][[0, 2]].tolist()
    assert dues.tolist() == [6.0, 5.0]


class Watched(LocalAccess):  # type: ignore[misc]
    """Keeps what was wanted last."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset.objects)

    def want(self, ranges: Any, due: Any) -> None:
        self.wanted = (ranges.starts, due)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_objects_with_other_columns_are_refused(suffix: str, tmp_path: Path) -> None:
    WRITERS["snappy.parquet" if suffix == "parquet" else "arrow"](
        tmp_path / f"a.{suffix}", table(0, 3)
    )
    other = arrow.table({"x": [1]})
    if suffix == "parquet":
        parquet.write_table(other, tmp_path / "b.parquet")
    else:
        write_file(tmp_path / "b.arrow", other)
    with pytest.raises(DataError, match=r"b\.\w+: found columns x, needed id, text"):
        lock(str(tmp_path), LocalStore())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.parquet", b"PAR1 no footer", "no Parquet footer at its end"),
        ("a.parquet", b"PAR1" + b"x" * 50 + b"\x14\0\0\0PAR1", "a footer that does not decode"),
        ("a.arrow", b"ARROW1\0\0" + b"x" * 40, "no footer at its end"),
        (
            "a.arrow",
            b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"x" * 40,
            "metadata of 2147483647 bytes",
        ),
        ("a.arrow", b"\xff\xff\xff\xff\x10\0\0\0" + b"\xff" * 40, "damaged metadata"),
        ("a.arrow", b"", "no schema"),
    ],
)
def test_what_is_no_such_file_is_corrupt(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptDataError, match=said):
        lock(str(tmp_path), LocalStore())


def test_feather_of_version_1_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.feather").write_bytes(b"FEA1" + bytes(40) + b"FEA1")
    with pytest.raises(DataError, match="found Feather version 1, needed version 2"):
        lock(str(tmp_path), LocalStore())


def test_without_pyarrow_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS["snappy.parquet"](tmp_path / "a.parquet", table(0, 2))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"run `pip install keepstep\[parquet\]`"):
        lock(str(tmp_path), LocalStore())
