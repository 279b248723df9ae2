"""Text, JSONL and Parquet become the same documents; a bad record is named by file and line."""

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstep.data import DataError, DataFormat
from keepstep.data.prepare.documents import Documents, cut, piece_characters
from keepstep.data.prepare.files import list_files

TEXTS = ["one\n", "two \u00e9\n", "three"]


def documents(path: Path | str, **options: object) -> Documents:
    return Documents(list_files(str(path)), **options)  # type: ignore[arg-type]


def records(texts: list[str], field: str = "text") -> bytes:
    return b"".join(json.dumps({field: text}).encode() + b"\n" for text in texts)


def test_text_files_are_documents_named_by_their_place(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.md").write_text(TEXTS[1])
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf" + TEXTS[0].encode())
    assert list(documents(tmp_path)) == [("a", TEXTS[0]), ("deep/b.md", TEXTS[1])]


def test_jsonl_plain_and_packed_give_a_document_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(records(TEXTS) + b"\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(records(TEXTS)))
    found = list(documents(tmp_path))
    assert [text for _, text in found] == TEXTS * 2
    assert [name for name, _ in found][2:4] == ["a.jsonl:3", "b.jsonl.gz:1"]


def test_parquet_gives_a_document_a_row(tmp_path: Path) -> None:
    table = arrow.table({"body": TEXTS, "year": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    found = list(documents(tmp_path, text_field="body"))
    assert found == [(f"a.parquet:{row}", text) for row, text in enumerate(TEXTS)]


def test_a_memory_url_reads_like_a_file() -> None:
    fsspec.filesystem("memory").pipe("/letters/a.jsonl", records(TEXTS))
    assert [text for _, text in documents("memory://letters/a.jsonl")] == TEXTS


def test_a_format_set_by_hand_outranks_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(records(TEXTS))
    assert len(list(documents(tmp_path, format=DataFormat.jsonl))) == 3
    assert len(list(documents(tmp_path))) == 1


def test_binary_and_empty_files_are_skipped_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\xff\xfe")
    (tmp_path / "c.txt").write_text(" \n")
    found = documents(tmp_path)
    for _ in range(2):
        assert list(found) == [("a.txt", "a")]
        assert found.skipped == ["b.png", "c.txt"]


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
    with pytest.raises(DataError, match=f"a.jsonl, {said}"):
        list(documents(tmp_path))


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:20] + b"#" + b[21:]])
def test_a_packed_file_that_does_not_unpack_is_named(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(damage(gzip.compress(records(TEXTS * 9))))
    with pytest.raises(DataError, match=r"a.jsonl.gz: found a packed file that does not unpack"):
        list(documents(tmp_path))


def test_a_parquet_file_without_the_column_is_refused_with_those_it_has(tmp_path: Path) -> None:
    parquet.write_table(arrow.table({"body": TEXTS, "text": [1, 2, 3]}), tmp_path / "a.parquet")
    for field in ("text", "content"):
        with pytest.raises(DataError, match=f"found columns body, text, needed a column '{field}'"):
            list(documents(tmp_path, text_field=field))


def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(DataError, match=r"a.parquet: found no Parquet data"):
        list(documents(tmp_path))


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_text("any")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install keepstep\[parquet\]"):
        list(documents(tmp_path))


@given(text=st.text(alphabet="ab\n\u00e9"), characters=st.integers(1, 9))
def test_pieces_joined_are_the_text_and_none_is_empty_or_long(text: str, characters: int) -> None:
    pieces = list(cut(text, characters))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 2 * characters for piece in pieces)


@pytest.mark.parametrize("lines", [2_000, 60_000])
def test_a_cut_document_has_twenty_pieces_that_end_at_lines(tmp_path: Path, lines: int) -> None:
    (tmp_path / "book.txt").write_text("".join(f"line {n}\n" for n in range(lines)))
    found = list(documents(tmp_path / "book.txt", is_cut=True))
    assert 20 <= len(found) <= 24
    assert all(text.endswith("\n") for _, text in found)
    assert found[0][0] == "book.txt#0"


def test_pieces_of_a_large_document_are_64_kibi_characters() -> None:
    assert piece_characters("x" * 10_000_000) == 64 * 1024
    assert piece_characters("x" * 100) == 256
