"""Files -> parts of about even size: what is worked on at once. Never depends on who works."""

from dataclasses import dataclass

from ...errors import DataError
from .files import SourceFile

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zstd")
TEXT_FORMATS = ("text", "jsonl", "parquet", "webdataset")


@dataclass(frozen=True, slots=True)
class Slice:
    """Piece `index` of `count` even ones of the file at place `file`."""

    file: int
    index: int = 0
    count: int = 1


Part = list[Slice]


def kind_of(name: str, format: str) -> str:
    """How a file is read: `format`, or what its suffix stands for where that is "auto".

    Raises:
        DataError: the format holds no documents of text.
    """
    if format != "auto":
        if format not in TEXT_FORMATS:
            raise DataError(
                f"data.format: found {format}, needed one that is prepared from "
                f"({', '.join(TEXT_FORMATS)}); use the data where it lies, or give text"
            )
        return format
    stem = name.lower()
    if stem.endswith(".tgz"):
        return "webdataset"
    for packed in PACKED:
        stem = stem.removesuffix(packed)
    if stem.endswith((".jsonl", ".ndjson")):
        return "jsonl"
    if stem.endswith(".tar"):
        return "webdataset"
    return "parquet" if stem.endswith(".parquet") else "text"


def cut_parts(files: list[SourceFile], format: str, part_bytes: int) -> list[Part]:
    """Small files together, large ones of plain JSON lines or Parquet in several even slices."""
    parts: list[Part] = []
    filled = 0
    for place, file in enumerate(files):
        count = _slices(file, format, part_bytes)
        for index in range(count):
            size = file.size // count
            if not parts or (filled and filled + size > part_bytes):
                parts.append([])
                filled = 0
            parts[-1].append(Slice(place, index, count))
            filled += size
    return parts


def slice_bytes(files: list[SourceFile], part: Part) -> int:
    """About how much of the input a part is."""
    return sum(files[piece.file].size // piece.count for piece in part)


def _slices(file: SourceFile, format: str, part_bytes: int) -> int:
    kind = kind_of(file.name, format)
    is_cut = kind == "parquet" or (kind == "jsonl" and not file.name.lower().endswith(PACKED))
    return max(1, -(-file.size // part_bytes)) if is_cut else 1
