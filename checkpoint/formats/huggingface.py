"""Hugging Face's layout: safetensors of bounded size with an index, and the files beside them.

Knows no model: names and the configuration are given.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..digest import tensor_bytes
from ..dtypes import BY_CODE
from ..errors import CorruptError
from ..offline.items import Item, Progress, checked
from ..offline.writing import split
from ..shardfile import file_order, shard_header

INDEX = "model.safetensors.index.json"
_ONE = "model.safetensors"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def export_huggingface(
    items: Sequence[Item],
    out: Path,
    *,
    config: Mapping[str, Any],
    files: Mapping[str, bytes],
    shard_bytes: int,
    progress: Progress | None = None,
) -> list[str]:
    """Writes the folder `out` whole or not at all; the names of its files. Holds one tensor at a
    time.

    Args:
        items: under the names that transformers gives them.
        config: what goes into config.json.
        files: what lies beside it, such as tokenizer.json and README.md, by name.
        shard_bytes: a file takes no more, unless one tensor is larger.

    Raises:
        FileExistsError: `out` is there and not empty.
        ValueError: there is nothing to write.
    """
    if not items:
        raise ValueError(f"{out}: found no tensors to export, needed the weights of a model")
    draft = _draft_of(out)
    try:
        names = _write_weights(items, draft, shard_bytes, progress)
        beside = {"config.json": json.dumps(config, indent=2, sort_keys=True).encode(), **files}
        for name, content in beside.items():
            (draft / name).write_bytes(content)
        draft.rename(out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return sorted([*names, *beside])


def import_huggingface(folder: Path) -> list[Item]:
    """The tensors of a folder of safetensors, names sorted, each read when it is asked for.

    Raises:
        ValueError: there are no safetensors, or an index that names what is not beside it.
        CorruptError: a file is damaged.
    """
    return [_item(folder, name, key) for key, name in sorted(_weight_files(folder).items())]


def _draft_of(out: Path) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: found something there, needed a new or empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    draft.mkdir()
    return draft


def _write_weights(
    items: Sequence[Item], folder: Path, shard_bytes: int, progress: Progress | None
) -> list[str]:
    groups = list(split(items, shard_bytes))
    count, total = len(groups), sum(item.num_bytes for item in items)
    names = [_ONE]
    if count > 1:  # as transformers does, one file needs no index
        names = [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
        weight_map = {
            item.name: name for name, group in zip(names, groups, strict=True) for item in group
        }
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True))
    done = 0
    for name, group in zip(names, groups, strict=True):
        with open(folder / name, "wb") as file:
            for piece in _pieces(group):
                file.write(piece)
                done += len(piece)
                if progress is not None:
                    progress(min(done, total), total)
            file.flush()
            os.fsync(file.fileno())
    return names if count == 1 else [*names, INDEX]


def _pieces(group: Sequence[Item]) -> Iterator[bytes | memoryview]:
    ordered = sorted(group, key=lambda item: file_order(item.chunk))
    yield shard_header([item.chunk for item in ordered])
    for item in ordered:
        yield tensor_bytes(checked(item, item.read()))


def _weight_files(folder: Path) -> dict[str, str]:
    """The file of each tensor."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: found no such folder, needed one with safetensors")
    index = folder / INDEX
    if index.exists():
        return _indexed(index)
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for key in _keys(path):
            if key in found:
                raise ValueError(
                    f"{folder}: found {key} in {found[key]} and in {path.name}, needed it once; "
                    "leave one of the files out"
                )
            found[key] = path.name
    if not found:
        pickled = sorted(path.name for glob in _PICKLED for path in folder.glob(glob))
        what = f"{', '.join(pickled[:3])}, which can run code when read" if pickled else "none"
        raise ValueError(
            f"{folder}: found {what}, needed weights in safetensors; convert them with "
            "transformers' save_pretrained"
        )
    return found


def _indexed(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        pairs = {str(key): str(name) for key, name in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError("is no index", path=str(index.parent), file=index.name) from error
    for key, name in pairs.items():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(
                f"{index}: found {key} in {name!r}, needed the name of a .safetensors file beside "
                "the index; correct the index"
            )
        if not (index.parent / name).is_file():
            raise CorruptError("is missing", path=str(index.parent), file=name)
    return pairs


def _keys(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except Exception as error:  # the binding has a class of its own for what it cannot read
        raise _damaged(path, error) from error


def _item(folder: Path, name: str, key: str) -> Item:
    path = folder / name
    try:
        with safe_open(path, framework="pt") as file:
            cut = file.get_slice(key)
            code, shape = cut.get_dtype(), tuple(cut.get_shape())
    except Exception as error:  # as above
        raise _damaged(path, error) from error
    if code not in BY_CODE:
        raise ValueError(
            f"{path}: found {key} of dtype {code}, needed one of {', '.join(BY_CODE)}; convert it"
        )
    return Item(name=key, dtype=BY_CODE[code], shape=shape, read=partial(_read, path, key))


def _read(path: Path, key: str) -> torch.Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(key)
            return tensor
    except Exception as error:  # as above
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CorruptError:
    return CorruptError(f"cannot be read ({error})", path=str(path.parent), file=path.name)
