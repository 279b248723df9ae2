"""Arrow's IPC: files, Feather version 2 and streams (as Hugging Face datasets keeps them).

A survey hops from message to message; a record batch is what is read and decoded at once.
"""

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ...access import Access, Ranges
from ...dataset import Dataset
from ...errors import CorruptDataError, DataError
from ...store import Store, StoredObject
from ..codecs.arrow import BATCH, DICTIONARY, END, SCHEMA, Message, messages
from ..codecs.columns import TableRows, check_names, import_arrow
from ..listing import RESTORE, Listing
from ..pieces import Window, in_parallel
from ..source import Records
from .grouped import GroupRecords, Rows, group_arrays

SUFFIXES = (".arrow", ".feather", ".ipc", ".arrows")
MAGIC = b"ARROW1"
HOP_BYTES = 64 << 10


def survey(store: Store, url: str) -> Dataset:
    """Reads the messages' metadata of every .arrow, .feather and .ipc object below `url`.

    Raises:
        DataError: there is none, one is Feather version 1, or their columns differ.
        CorruptDataError: one is damaged.
    """
    listing = Listing.of(store, url)
    objects = listing.ending(*SUFFIXES)
    if not objects:
        raise DataError(
            f"{url}: found no .arrow, .feather or .ipc objects, needed at least one; correct the "
            "URL"
        )
    streams = in_parallel(lambda obj: read_stream(Window.of(store, obj, HOP_BYTES), _span), objects)
    return dataset_of("arrow", listing.url, objects, [stream for stream in streams if stream])


class Stream(NamedTuple):
    """The columns and messages of one object."""

    columns: list[str]
    messages: list[Message]


def read_stream(window: Window, span: Callable[[Window], tuple[int, int] | None]) -> Stream | None:
    """The messages in the span of bytes that `span` finds; None where it finds none.

    Raises:
        CorruptDataError: the stream is damaged, or has no schema.
        DataError: there is no pyarrow.
    """
    where = span(window)
    if where is None:
        return None
    found = list(messages(window, *where))
    if not found or found[0].kind != SCHEMA:
        raise CorruptDataError(window.url, "no schema", "one before its batches", RESTORE)
    schema = window.at(found[0].start, found[0].stop - found[0].start)
    return Stream(_columns(schema, window.url), found)


def dataset_of(
    format: str, url: str, objects: list[StoredObject], streams: Sequence[Stream]
) -> Dataset:
    """A dataset of the streams of messages of its objects.

    Raises:
        DataError: columns differ.
    """
    groups: list[tuple[int, int, int, int]] = []
    heads: list[tuple[int, int, int, int]] = []
    for place, (columns, found) in enumerate(streams):
        check_names(columns, streams[0].columns, objects[place].url)
        heads += [(place, 0, m.start, m.stop) for m in found if m.kind in (SCHEMA, DICTIONARY)]
        groups += [(place, m.rows, m.start, m.stop) for m in found if m.kind == BATCH]
    table = group_arrays(groups)
    head_table = group_arrays(heads)
    rows = np.bincount(table["group_places"], table["group_rows"], minlength=len(objects))
    return Dataset(
        format=format,
        url=url,
        objects=objects,
        counts=rows.astype(np.int64),
        facts={"columns": streams[0].columns if streams else []},
        arrays={
            **table,
            **{
                name.replace("group", "head"): array
                for name, array in head_table.items()
                if name != "group_rows"
            },
        },
    )


def open_arrow(dataset: Dataset, access: Access) -> Records:
    """Its records, by column (see `TableRows` for the values).

    Raises:
        DataError: pyarrow is not installed.
    """
    arrow = import_arrow(dataset.url)
    arrays = dataset.arrays
    firsts = np.searchsorted(arrays["head_places"], np.arange(len(dataset.counts) + 1))

    def decode(group: int) -> Rows:
        place, start, stop = (
            int(arrays[name][group]) for name in ("group_places", "group_starts", "group_stops")
        )
        mine = slice(int(firsts[place]), int(firsts[place + 1]))
        spans = zip(
            arrays["head_starts"][mine].tolist(), arrays["head_stops"][mine].tolist(), strict=True
        )
        # The schema and the dictionaries that came before the batch make it a stream of its own.
        before = [(place, a, b) for a, b in spans if b <= start]
        parts = access.read(Ranges.of([*before, (place, start, stop)]))
        try:
            stream = arrow.ipc.open_stream(arrow.py_buffer(b"".join([*parts, END])))
            batch = stream.read_next_batch()
            # Offsets that point anywhere would be followed without this.
            batch.validate(full=True)
        except (arrow.ArrowException, OSError, ValueError, StopIteration, MemoryError) as error:
            raise CorruptDataError(
                dataset.objects[place].url,
                f"a record batch at byte {start} that does not decode ({error})",
                "Arrow data",
                RESTORE,
            ) from error
        return TableRows(batch)

    return GroupRecords(dataset, access, decode)


def file_stream(window: Window, start: int, stop: int) -> tuple[int, int]:
    """Where the messages of the Arrow file in [start, stop) lie.

    Raises:
        CorruptDataError: it has no footer.
    """
    least = 2 * len(MAGIC) + 6
    if stop - start >= least and window.at(stop - 6, 6) == MAGIC:
        length = struct.unpack("<i", window.at(stop - 10, 4))[0]
        if 0 < length <= stop - start - least:
            return start + 8, stop - 10 - length
    raise CorruptDataError(window.url, "no footer at its end", "a whole Arrow file", RESTORE)


def _span(window: Window) -> tuple[int, int]:
    head = window.at(0, min(window.size, 6))
    if head == MAGIC:
        return file_stream(window, 0, window.size)
    if head.startswith(b"FEA1"):
        raise DataError(
            f"{window.url}: found Feather version 1, needed version 2; write it again with a newer "
            "pyarrow"
        )
    return 0, window.size


def _columns(message: bytes, url: str) -> list[str]:
    arrow = import_arrow(url)
    try:
        return list(arrow.ipc.read_schema(arrow.py_buffer(message)).names)
    except (arrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise CorruptDataError(url, f"no schema ({error})", "Arrow data", RESTORE) from error
