"""A slice of a file -> its documents in order, one at a time, bad ones with what is wrong.

Knows text, JSON lines, Parquet and WebDataset's tar archives; chooses nothing.
"""

import gzip
import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import IO, Any, NamedTuple

from ...errors import DataError
from .files import SourceFile, unreadable
from .parts import Slice, kind_of
from .unpack import open_unpacked

PIECE_CHARACTERS = 64 * 1024
_FEWEST_PIECES = 20
_SMALLEST_PIECE = 256
_SNIFFED_BYTES = 8192
_COUNTED_BYTES = 1 << 20
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class Document(NamedTuple):
    """One record; `text` is None where there is none."""

    name: str
    """The file, and the line, row or key in it. In later slices of a cut file of JSON lines: the
    slice's first byte and the line in the slice."""
    text: str | None
    problem: str = ""
    """What is wrong, one sentence for the user; empty where the record is no text at all."""


def documents(
    file: SourceFile, piece: Slice, *, format: str, text_field: str
) -> Iterator[Document]:
    """The documents of a slice, the same ones whenever it is asked.

    Raises:
        DataError: the file is not readable, does not unpack or is none of its format.
    """
    readers = {"jsonl": _jsonl, "parquet": _parquet, "webdataset": _webdataset}
    kind = kind_of(file.name, format)
    try:
        if kind == "text":
            yield _text(file)
        else:
            yield from readers[kind](file, piece, text_field)
    except PermissionError as error:
        raise unreadable(file.path, error) from error
    except FileNotFoundError as error:
        raise DataError(
            f"{file.path}: found it gone, needed files that stay while they are read; prepare "
            "again once nothing changes them"
        ) from error
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise DataError(
            f"{file.path}: found a packed file that does not unpack ({error}), needed a "
            "whole one; copy it again or remove it"
        ) from error


def piece_characters(text: str) -> int:
    """How long the pieces of a lone document are: 64 Ki, or less so that there are 20 of them."""
    return max(_SMALLEST_PIECE, min(PIECE_CHARACTERS, len(text) // (_FEWEST_PIECES + 1)))


def cut(text: str, characters: int) -> Iterator[str]:
    """Cuts at the line ends that follow every `characters`; a line far longer is cut inside."""
    start = 0
    while start < len(text):
        wanted = start + characters
        end = text.find("\n", wanted - 1, wanted + characters) + 1
        end = end or min(wanted, len(text))
        yield text[start:end]
        start = end


def _text(file: SourceFile) -> Document:
    with open_unpacked(file) as stream:
        content = stream.read()
    try:
        return Document(file.name, content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        # As git tells them apart: a zero byte near the start is no text of any usual encoding.
        if b"\0" in content[:_SNIFFED_BYTES] and not content.startswith(_UTF16):
            return Document(file.name, None)
        return Document(
            file.name,
            None,
            f"{file.path}: found bytes that are not UTF-8 (byte {error.start}), needed UTF-8 text; "
            "convert or remove the file, or set data.prepare.on_bad=skip",
        )


def _jsonl(file: SourceFile, piece: Slice, text_field: str) -> Iterator[Document]:
    start, stop = (file.size * edge // piece.count for edge in (piece.index, piece.index + 1))
    lines_before: int | None = None if start else 0
    with open_unpacked(file) as stream:
        place = 0
        if start:
            # A line belongs to the slice in which it begins.
            stream.seek(start - 1)
            place = start - 1 + len(stream.readline())
        stem = f"{file.name}@{start}" if start else file.name
        number = 0
        while piece.index == piece.count - 1 or place < stop:
            line = stream.readline()
            if not line:
                return
            place, number = place + len(line), number + 1
            if not line.strip():
                continue
            text, problem = _text_of(line, text_field)
            if problem:
                if lines_before is None:
                    lines_before = _count_lines(file, start)
                problem = f"{file.path}, line {lines_before + number}: {problem}"
            yield Document(f"{stem}:{number}", text, problem)


def _count_lines(file: SourceFile, start: int) -> int:
    """Lines that begin before byte `start`, of which the last may go beyond it."""
    count, left = 1, start - 1
    with open_unpacked(file) as stream:
        while left > 0 and (chunk := stream.read(min(left, _COUNTED_BYTES))):
            count, left = count + chunk.count(b"\n"), left - len(chunk)
    return count


def _text_of(line: bytes, text_field: str) -> tuple[str | None, str]:
    """The text of a JSON object, or what is wrong with it."""
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        excerpt = repr(line[:40].decode("utf-8", "replace"))
        return None, (
            f"found {excerpt} ({error}), needed one JSON object a line; repair or remove the line, "
            "or set data.prepare.on_bad=skip"
        )
    if isinstance(record, dict) and isinstance(record.get(text_field), str):
        return record[text_field], ""
    found = sorted(record) if isinstance(record, dict) else type(record).__name__
    return None, (
        f"found {found}, needed an object with a text in {text_field!r}; set data.text_field to "
        "the field that holds the text"
    )


def _parquet(file: SourceFile, piece: Slice, text_field: str) -> Iterator[Document]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(
            f"{file.path}: found a Parquet file but no pyarrow, needed pyarrow to read it; "
            "run `pip install keepstep[parquet]`"
        ) from error
    with file.filesystem.open(file.path, "rb") as stream:
        try:
            table = parquet.ParquetFile(stream)
        except arrow.ArrowInvalid as error:
            raise DataError(
                f"{file.path}: found no Parquet data ({error}), needed a Parquet file; "
                "set data.format or give another path"
            ) from error
        names = table.schema_arrow.names
        if text_field not in names or not _is_text(table.schema_arrow.field(text_field).type):
            raise DataError(
                f"{file.path}: found columns {', '.join(names)}, needed a column {text_field!r} "
                "of strings; set data.text_field to the column that holds the text"
            )
        total = table.num_row_groups
        first, last = (total * x // piece.count for x in (piece.index, piece.index + 1))
        rows = (table.metadata.row_group(group).num_rows for group in range(first))
        number = sum(rows)
        groups = list(range(first, last))
        try:
            for batch in table.iter_batches(
                batch_size=1024, row_groups=groups, columns=[text_field]
            ):
                for value in batch.column(0).to_pylist():
                    yield Document(f"{file.name}:{number}", value or "")
                    number += 1
        except arrow.ArrowException as error:
            raise DataError(
                f"{file.path}, row {number}: found damaged Parquet data ({error}), needed a whole "
                "file; copy it again or remove it"
            ) from error


def _is_text(kind: Any) -> bool:
    import pyarrow as arrow

    return bool(arrow.types.is_string(kind) or arrow.types.is_large_string(kind))


def _webdataset(file: SourceFile, piece: Slice, text_field: str) -> Iterator[Document]:
    """A document a sample: its member .txt, else the field of its member .json."""
    with open_unpacked(file) as stream:
        try:
            samples = _samples(stream)
            for key, members in samples:
                name = f"{file.name}:{key}"
                if "txt" in members:
                    text, problem = _decoded(members["txt"])
                else:
                    text, problem = _text_of(members["json"], text_field)
                yield Document(name, text, f"{file.path}, {key}: {problem}" if problem else "")
        except tarfile.TarError as error:
            raise DataError(
                f"{file.path}: found a damaged tar archive ({error}), needed a whole one; copy it "
                "again or remove it"
            ) from error


def _samples(stream: IO[bytes]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Consecutive members with one key, up to the first dot of the name, that hold text."""
    from ...sources.codecs.tar import key_of

    key: str | None = None
    members: dict[str, bytes] = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in chain(archive, [None]):
            found = key_of(member.name) if member is not None and member.isfile() else None
            if member is not None and found is None:
                continue
            if members and (found is None or found[0] != key):
                yield key or "", members
                members = {}
            if member is not None and found is not None:
                key, extension = found
                if extension in ("txt", "json"):
                    body = archive.extractfile(member)
                    members[extension] = b"" if body is None else body.read()


def _decoded(content: bytes) -> tuple[str | None, str]:
    try:
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        return None, (
            f"found bytes that are not UTF-8 (byte {error.start}), needed UTF-8 text; convert it, "
            "or set data.prepare.on_bad=skip"
        )
