"""Checkpoints of torch.distributed.checkpoint (DCP): those of any number of ranks are read, without
unpickling and without torch's reader; one that plain torch loads is written, by torch's writer."""

import json
import math
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.state_dict_saver import save

from ..commit import Cargo
from ..dtypes import BY_CODE, BY_NAME
from ..errors import CheckpointError, CorruptError
from ..offline.items import Item, Progress, checked
from .archive import tensor_of
from .metadata import Piece, read_metadata
from .pickled import UnreadableError

METADATA = ".metadata"
CARGO = "keepstep.json"
_ZIP = b"PK\x03\x04"
_MOST_HEADER_BYTES = 100 * 10**6  # as the safetensors library has it


def import_dcp(folder: Path) -> tuple[list[Item], list[str], Cargo]:
    """The tensors of a checkpoint, names sorted, each read when it is asked for; the names of what
    is no tensor, which is left out; and what keepstep noted beside it, if it wrote it.

    Raises:
        ValueError: the folder holds no DCP checkpoint, or one that names what is not data.
        CorruptError: from `read` of an item, for a file that is missing, short or damaged.
    """
    path = folder / METADATA
    if not path.is_file():
        raise ValueError(
            f"{folder}: found no {METADATA}, needed the folder of a DCP checkpoint that was "
            "finished; name one"
        )
    try:
        found = read_metadata(path.read_bytes())
    except UnreadableError as error:
        raise ValueError(
            f"{path}: {error}; needed the metadata of a DCP checkpoint and nothing else; take "
            "another one"
        ) from error
    items = [
        Item(
            name=name,
            dtype=pieces[0].chunk.dtype,
            shape=pieces[0].chunk.global_shape,
            read=partial(_whole, folder, pieces),
        )
        for name, pieces in sorted(found.tensors.items())
    ]
    return items, sorted(found.others), _cargo(folder)


def export_dcp(
    items: Sequence[Item], out: Path, cargo: Cargo, *, progress: Progress | None = None
) -> None:
    """Writes the folder `out` whole or not at all, for `torch.distributed.checkpoint.load` with a
    flat state dict of these names. One file a tensor; holds one tensor at a time. No process group.

    Raises:
        FileExistsError: `out` is there and not empty.
        CheckpointError: torch could not write it.
        CorruptError: a byte of the source is wrong.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: found something there, needed a new or empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        _save(items, draft, progress)
        (draft / CARGO).write_text(json.dumps(asdict(cargo), indent=2))
        draft.rename(out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _save(items: Sequence[Item], folder: Path, progress: Progress | None) -> None:
    planner = _Planner(items, progress)
    # One file a tensor: torch's writer keeps all tensors of a file until that is written.
    writer = FileSystemWriter(folder, single_file_per_rank=False, thread_count=1)
    try:
        with warnings.catch_warnings():  # it warns of what no_dist asks for
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            save(planner.outline(), storage_writer=writer, planner=planner, no_dist=True)
    except CheckpointException as error:  # derives from BaseException
        for cause in error.failures.values():
            if isinstance(cause[0], CorruptError | OSError):
                raise cause[0] from error
        raise CheckpointError(
            f"{folder}: torch could not write it ({error}), but each tensor must be: mend that and "
            "export again.",
            path=str(folder),
        ) from error


class _Planner(DefaultSavePlanner):
    """torch's planner, which is shown tensors without bytes and given these when they are due."""

    def __init__(self, items: Sequence[Item], progress: Progress | None) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._items = {item.name: item for item in items}
        self._progress, self._done = progress, 0

    def outline(self) -> dict[str, Any]:
        """The state dict on the device meta."""
        return {
            item.name: torch.empty(item.shape, dtype=BY_NAME[item.dtype], device="meta")
            for item in self._items.values()
        }

    def lookup_object(self, index: MetadataIndex) -> Any:
        item = self._items[index.fqn]
        tensor = checked(item, item.read())
        self._done += item.num_bytes
        if self._progress is not None:
            self._progress(self._done, sum(one.num_bytes for one in self._items.values()))
        return tensor


def _cargo(folder: Path) -> Cargo:
    """What `export_dcp` noted; nothing of a checkpoint that others wrote."""
    path = folder / CARGO
    if not path.is_file():
        return Cargo(step=0, topology={}, progress={}, lineage={})
    try:
        cargo = Cargo(**json.loads(path.read_bytes()))
        parts = (cargo.topology, cargo.progress, cargo.lineage)
        if type(cargo.step) is not int or not all(isinstance(part, dict) for part in parts):
            raise ValueError("a value of another type")
    except (ValueError, TypeError) as error:
        raise CorruptError(
            f"is not what export wrote ({error})", path=str(folder), file=CARGO
        ) from error
    return cargo


def _whole(folder: Path, pieces: Sequence[Piece]) -> torch.Tensor:
    first = pieces[0].chunk
    if first.shape == first.global_shape:
        return _read(folder, pieces[0])
    whole = torch.empty(first.global_shape, dtype=BY_NAME[first.dtype])
    for piece in pieces:
        spans = zip(piece.chunk.offsets, piece.chunk.shape, strict=True)
        box = tuple(slice(start, start + size) for start, size in spans)
        whole[box] = _read(folder, piece)
    return whole


def _read(folder: Path, piece: Piece) -> torch.Tensor:
    """One box; CorruptError where it is not there as its description says."""
    chunk = piece.chunk
    try:
        with open(folder / piece.file, "rb") as file:
            file.seek(piece.start)
            data = bytearray(file.read(piece.length))
            is_archive = data[: len(_ZIP)] == _ZIP
            tensor = tensor_of(data) if is_archive else _of_safetensors(file, piece)
    except FileNotFoundError as error:
        raise CorruptError("is missing", path=str(folder), file=piece.file) from error
    except UnreadableError as error:
        reason = f"bytes {piece.start} to {piece.start + piece.length} ({chunk.name}): {error}"
        raise CorruptError(reason, path=str(folder), file=piece.file) from error
    if tensor.dtype != BY_NAME[chunk.dtype] or tensor.numel() != math.prod(chunk.shape):
        raise CorruptError(
            f"holds {chunk.name} as {tensor.dtype} {list(tensor.shape)} where {chunk.dtype} "
            f"{list(chunk.shape)} was written",
            path=str(folder),
            file=piece.file,
        )
    return tensor.reshape(chunk.shape)


def _of_safetensors(file: BinaryIO, piece: Piece) -> torch.Tensor:
    """As DCP's other serialisation has it: from the piece's start on the file is safetensors, whose
    own header says where a name lies."""
    try:
        file.seek(piece.start)
        length = int.from_bytes(file.read(8), "little")
        if length > _MOST_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        entry = json.loads(file.read(length))[piece.chunk.name]
        dtype = BY_NAME[BY_CODE[entry["dtype"]]]
        start, end = entry["data_offsets"]
        file.seek(8 + length + piece.start + start)
        data = bytearray(file.read(end - start))
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return flat.reshape(entry["shape"])
    except (ValueError, LookupError, TypeError, RuntimeError) as error:
        raise UnreadableError(f"is neither torch.save's nor safetensors ({error})") from error
