"""The `.metadata` of a torch DCP checkpoint, which is a pickle, as plain records.

Accepts exactly the classes that torch writes there; none of them is made.
"""

from dataclasses import dataclass, field
from typing import Any

from ..dtypes import BY_NAME
from ..layout import Chunk
from ..tiling import check_tiling
from .pickled import Made, Named, Pairs, UnreadableError, read_pickle

_ROOM = "torch.distributed.checkpoint"
_METADATA = Named(f"{_ROOM}.metadata", "Metadata")
_TENSOR = Named(f"{_ROOM}.metadata", "TensorStorageMetadata")
_BYTES = Named(f"{_ROOM}.metadata", "BytesStorageMetadata")
_CHUNK = Named(f"{_ROOM}.metadata", "ChunkStorageMetadata")
_PROPERTIES = Named(f"{_ROOM}.metadata", "TensorProperties")
_INDEX = Named(f"{_ROOM}.metadata", "MetadataIndex")
_INFO = Named(f"{_ROOM}.filesystem", "_StorageInfo")
_SIZE = Named("torch", "Size")
# What torch up to 2.2 called some of these.
_OLD = "torch.distributed._shard.sharded_tensor.metadata"
_ALLOWED = {
    *(_METADATA, _TENSOR, _BYTES, _CHUNK, _PROPERTIES, _INDEX, _INFO, _SIZE),
    *(Named(f"{_ROOM}.metadata", name) for name in ("_MEM_FORMAT_ENCODING", "StorageMeta")),
    *(Named(_OLD, name) for name in ("TensorProperties", "MEM_FORMAT_ENCODING")),
    *(Named("pathlib", name) for name in ("PosixPath", "PurePosixPath", "WindowsPath")),
    *(Named("torch", name) for name in BY_NAME),
    Named("torch.serialization", "_get_layout"),
    Named("collections", "OrderedDict"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A box of a tensor, and the bytes of `file` that hold it."""

    chunk: Chunk
    file: str
    start: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """The tensors by name, and the names of what is no tensor, which nothing here reads."""

    tensors: dict[str, list[Piece]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def read_metadata(data: bytes) -> Described:
    """What the bytes of a `.metadata` say.

    Raises:
        UnreadableError: they name another class, are of another shape, contradict themselves, or
            name a file outside of the checkpoint.
    """
    root = _fields(read_pickle(data, _ALLOWED), _METADATA)
    places: dict[tuple[str, tuple[int, ...] | None], dict[str, Any]] = {}
    for key, info in _pairs(root.get("storage_data")):
        index = _fields(key, _INDEX)
        offset = index.get("offset")
        where = None if offset is None else _size(offset)
        places[_word(index.get("fqn")), where] = _fields(info, _INFO)
    found = Described()
    for name, entry in _pairs(root.get("state_dict_metadata")):
        if isinstance(entry, Made) and entry.kind == _BYTES:
            found.others.append(_word(name))
        else:
            found.tensors[_word(name)] = _pieces(_word(name), _fields(entry, _TENSOR), places)
    return found


def _pieces(
    name: str, entry: dict[str, Any], places: dict[tuple[str, tuple[int, ...] | None], Any]
) -> list[Piece]:
    shape, dtype = _size(entry.get("size")), _dtype(name, entry.get("properties"))
    chunks = entry.get("chunks")
    _expect(isinstance(chunks, list) and bool(chunks), f"{name} has no chunks")
    found = []
    for made in chunks or ():
        box = _fields(made, _CHUNK)
        offsets, sizes = _size(box.get("offsets")), _size(box.get("sizes"))
        chunk = Chunk(name=name, dtype=dtype, global_shape=shape, offsets=offsets, shape=sizes)
        info = places.get((name, offsets), places.get((name, None)))
        _expect(info is not None, f"{name} has a chunk that lies nowhere")
        found.append(_piece(chunk, info or {}))
    try:
        check_tiling([piece.chunk for piece in found])
    except ValueError as error:
        raise UnreadableError(f"contradicts itself: {error}") from error
    return found


def _piece(chunk: Chunk, info: dict[str, Any]) -> Piece:
    file, start, length = info.get("relative_path"), info.get("offset"), info.get("length")
    is_plain = isinstance(file, str) and file not in ("", ".", "..") and not set("/\\\0") & {*file}
    _expect(is_plain, f"{chunk.name} lies in {file!r}, outside of the checkpoint")
    is_range = all(type(one) is int and one >= 0 for one in (start, length))
    _expect(is_range, f"{chunk.name} has no range of bytes")
    transforms = info.get("transform_descriptors") or []
    _expect(not transforms, f"{chunk.name} was transformed by {transforms}, which is not undone")
    return Piece(chunk=chunk, file=str(file), start=start or 0, length=length or 0)


def _dtype(name: str, properties: Any) -> str:
    """Of a TensorProperties, whose state is a tuple that begins with it."""
    is_made = isinstance(properties, Made) and properties.kind.name == "TensorProperties"
    state = properties.state if is_made else None
    if isinstance(state, Pairs):
        state = (state.named().get("dtype"),)
    dtype = state[0] if isinstance(state, tuple) and state else None
    _expect(isinstance(dtype, Named) and dtype.name in BY_NAME, f"{name} has no known dtype")
    return str(dtype.name) if isinstance(dtype, Named) else ""


def _size(value: Any) -> tuple[int, ...]:
    numbers = value.args[0] if isinstance(value, Made) and value.kind == _SIZE else value
    is_size = isinstance(numbers, tuple) and all(type(n) is int and n >= 0 for n in numbers)
    _expect(is_size, "a size is none")
    return tuple(numbers)


def _fields(value: Any, kind: Named) -> dict[str, Any]:
    """The attributes of an object of one kind."""
    is_kind = isinstance(value, Made) and value.kind == kind
    _expect(is_kind, f"has something else where a {kind.name} belongs")
    state = value.state
    if isinstance(state, tuple) and len(state) == 2:  # of a class with slots
        state = state[1]
    return state.named() if isinstance(state, Pairs) else {}


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    _expect(isinstance(value, Pairs), "has something else where a dict belongs")
    items: list[tuple[Any, Any]] = value.items
    return items


def _word(value: Any) -> str:
    _expect(isinstance(value, str), f"has {type(value).__name__} where a name belongs")
    return str(value)


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UnreadableError(otherwise)
