"""Text, JSONL and Parquet become the same documents; a bad record is named by file and line."""

import gzip
import io
import json
import re
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.data import DataError, DataFormat
from keepstep.data.prepare.text.documents import Document, cut, documents, piece_characters
from keepstep.data.prepare.text.files import list_files
from keepstep.data.prepare.text.parts import Slice, cut_parts

TEXTS = ["one\n", "two \u00e9\n", "three"]


def read(
    path: Path | str, format: str = "auto", text_field: str = "text", part_bytes: int = 1 << 24
) -> list[Document]:
    """All records of the files there, part by part."""
    files = list_files(str(path))
    return [
        document
        for part in cut_parts(files, format, part_bytes)
        for piece in part
        for document in documents(files[piece.file], piece, format=format, text_field=text_field)
    ]


def pairs(path: Path | str, **options: str) -> list[tuple[str, str | None]]:
    return [(name, text) for name, text, _ in read(path, **options)]  # type: ignore[arg-type]


def records(texts: list[str], field: str = "text") -> bytes:
    return b"".join(json.dumps({field: text}).encode() + b"\n" for text in texts)


def test_text_files_are_documents_named_by_their_place(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.md").write_text(TEXTS[1])
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf" + TEXTS[0].encode())
    assert pairs(tmp_path) == [("a", TEXTS[0]), ("deep/b.md", TEXTS[1])]


def test_jsonl_plain_and_packed_give_a_document_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(records(TEXTS) + b"\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(records(TEXTS)))
    found = pairs(tmp_path)
    assert [text for _, text in found] == TEXTS * 2
    assert [name for name, _ in found][2:4] == ["a.jsonl:3", "b.jsonl.gz:1"]


def test_parquet_gives_a_document_a_row(tmp_path: Path) -> None:
    table = arrow.table({"body": TEXTS, "year": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    found = pairs(tmp_path, text_field="body")
    assert found == [(f"a.parquet:{row}", text) for row, text in enumerate(TEXTS)]


def test_a_memory_url_reads_like_a_file() -> None:
    fsspec.filesystem("memory").pipe("/letters/a.jsonl", records(TEXTS))
    assert [text for _, text in pairs("memory://letters/a.jsonl")] == TEXTS


def test_a_format_set_by_hand_outranks_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(records(TEXTS))
    assert len(read(tmp_path, format=DataFormat.jsonl)) == 3
    assert len(read(tmp_path)) == 1


def test_binary_files_are_no_text_and_other_encodings_are_bad_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\0\xff\xfe")
    (tmp_path / "c.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "d.txt").write_bytes("ab".encode("utf-16"))
    found = read(tmp_path)
    assert [(x.text, bool(x.problem)) for x in found] == [
        ("a", False),
        (None, False),
        (None, True),
        (None, True),
    ]
    assert "c.txt: found bytes that are not UTF-8 (byte 3), needed UTF-8 text" in found[2].problem


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"text": "b"', r"line 2: found '\{\"text\": \"b\"\\n' \(.*\), needed one JSON object"),
        (b'{"body": "b"}', r"line 2: found \['body'\], needed an object with a text in 'text'"),
        (b'{"text": 3}', r"line 2: found \['text'\], needed"),
        (b"[1]", "line 2: found list, needed"),
    ],
)
def test_a_bad_jsonl_line_is_named_by_file_and_number(
    tmp_path: Path, line: bytes, said: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(records(["a"]) + line + b"\n" + records(["c"]))
    found = read(tmp_path)
    assert [document.text for document in found] == ["a", None, "c"]
    assert re.search(f"a.jsonl, {said}", found[1].problem)


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:20] + b"#" + b[21:]])
def test_a_packed_file_that_does_not_unpack_is_named(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(damage(gzip.compress(records(TEXTS * 9))))
    with pytest.raises(DataError, match=r"a.jsonl.gz: found a packed file that does not unpack"):
        read(tmp_path)


def test_a_parquet_file_without_the_column_is_refused_with_those_it_has(tmp_path: Path) -> None:
    parquet.write_table(arrow.table({"body": TEXTS, "text": [1, 2, 3]}), tmp_path / "a.parquet")
    for field in ("text", "content"):
        with pytest.raises(DataError, match=f"found columns body, text, needed a column '{field}'"):
            read(tmp_path, text_field=field)


def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(DataError, match=r"a.parquet: found no Parquet data"):
        read(tmp_path)


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_text("any")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install keepstep\[parquet\]"):
        read(tmp_path)


@given(text=st.text(alphabet="ab\n\u00e9"), characters=st.integers(1, 9))
def test_pieces_joined_are_the_text_and_none_is_empty_or_long(text: str, characters: int) -> None:
    pieces = list(cut(text, characters))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 2 * characters for piece in pieces)


@pytest.mark.parametrize("lines", [2_000, 60_000])
def test_a_cut_document_has_twenty_pieces_that_end_at_lines(lines: int) -> None:
    text = "".join(f"line {n}\n" for n in range(lines))
    found = list(cut(text, piece_characters(text)))
    assert 20 <= len(found) <= 24
    assert all(piece.endswith("\n") for piece in found)


def test_pieces_of_a_large_document_are_64_kibi_characters() -> None:
    assert piece_characters("x" * 10_000_000) == 64 * 1024
    assert piece_characters("x" * 100) == 256


@settings(max_examples=40, deadline=None)
@given(
    lines=st.lists(st.text(alphabet="ab", max_size=40), min_size=1, max_size=30),
    slices=st.integers(1, 9),
    is_ended=st.booleans(),
)
def test_slices_of_json_lines_hold_each_line_once_in_order(
    lines: list[str], slices: int, is_ended: bool
) -> None:
    content = b"\n".join(json.dumps({"text": line}).encode() for line in lines)
    fsspec.filesystem("memory").pipe("/cut/a.jsonl", content + b"\n" * is_ended)
    (file,) = list_files("memory://cut/a.jsonl")
    found = [
        document
        for index in range(slices)
        for document in documents(file, Slice(0, index, slices), format="auto", text_field="text")
    ]
    assert [document.text for document in found] == lines
    assert len({document.name for document in found}) == len(lines)


def test_a_bad_line_in_a_later_slice_has_its_number_in_the_file(tmp_path: Path) -> None:
    lines = [*(json.dumps({"text": "x" * 100}) for _ in range(50)), "{", '{"text": "y"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = read(tmp_path, part_bytes=1024)
    (problem,) = [document.problem for document in found if document.problem]
    assert "a.jsonl, line 51: found '{" in problem


def test_slices_of_parquet_hold_each_row_once_by_its_number(tmp_path: Path) -> None:
    texts = [f"row {number}" for number in range(50)]
    parquet.write_table(arrow.table({"text": texts}), tmp_path / "a.parquet", row_group_size=3)
    found = read(tmp_path, part_bytes=1024)
    assert [(x.name, x.text) for x in found] == [
        (f"a.parquet:{row}", text) for row, text in enumerate(texts)
    ]


def archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("pack", [None, gzip.compress, zstandard.compress])
def test_webdataset_gives_a_document_a_sample_from_txt_or_json(
    tmp_path: Path, pack: Callable[[bytes], bytes] | None
) -> None:
    content = archive(
        {
            "a/1.txt": b"one",
            "a/1.json": b'{"text": "not this"}',
            "a/2.jpg": b"\xff\0",
            "a/2.json": b'{"text": "two"}',
            "a/3.jpg": b"\xff\0",
            "4.txt": b"\xff",
        }
    )
    suffix = {None: "", gzip.compress: ".gz", zstandard.compress: ".zst"}[pack]
    (tmp_path / f"x.tar{suffix}").write_bytes(pack(content) if pack else content)
    found = read(tmp_path)
    assert [(x.name.partition(":")[2], x.text) for x in found] == [
        ("a/1", "one"),
        ("a/2", "two"),
        ("4", None),
    ]
    assert "4: found bytes that are not UTF-8" in found[2].problem


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(archive({"a.txt": b"x" * 3000})[:1200])
    with pytest.raises(DataError, match=r"x.tar: found a damaged tar archive"):
        read(tmp_path)


def test_zstd_of_several_frames_is_read_to_its_end_and_a_cut_one_refused(tmp_path: Path) -> None:
    packed = b"".join(zstandard.compress(records([text])) for text in TEXTS)
    (tmp_path / "a.jsonl.zst").write_bytes(packed)
    assert [document.text for document in read(tmp_path)] == TEXTS
    (tmp_path / "a.jsonl.zst").write_bytes(packed[:-3])
    with pytest.raises(DataError, match=r"a.jsonl.zst: found a packed file that does not unpack"):
        read(tmp_path)


def test_a_format_of_tokens_or_samples_is_not_prepared(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match=r"data.format: found mds, needed one that is prepared"):
        read(tmp_path, format="mds")
