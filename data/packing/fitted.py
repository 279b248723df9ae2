"""Samples of whole documents side by side, as `compile` laid them out. Decides nothing itself."""

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from safetensors.numpy import load_file
from torch import Tensor

from ..access import Access, NextUse, Ranges
from ..sources.source import Ids, Times, Tokens
from .compile import INDEX, window_name

IGNORED = -100
_WINDOWS_KEPT = 64
_PROBES = 16


@final
class Fitted:
    """Packed sequences of a folder that `compile_packing` made of the same tokens."""

    def __init__(self, tokens: Tokens, sequence_length: int, folder: Path) -> None:
        self._tokens = tokens
        self._length = sequence_length
        self._folder = folder
        index = json.loads((folder / INDEX).read_text())
        counts = index["sequences"]
        self._firsts = np.cumsum([0, *counts], dtype=np.int64)
        self._token_firsts = np.array(index["tokens"], dtype=np.int64)
        self._windows: dict[int, dict[str, Any]] = {}
        self._lock = Lock()
        self.digest = xxhash.xxh3_128_hexdigest(f"{tokens.digest} {folder.name}".encode())

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @property
    def sample_bytes(self) -> int:
        return max(1, len(self._tokens) * self._tokens.dtype.itemsize // len(self))

    @property
    def accesses(self) -> Sequence[Access]:
        return [self._tokens.access]

    def follow(self, next_use: NextUse) -> None:
        """A token is wanted when the first sequence of its packing window is, at the latest."""
        self._tokens.access.follow(lambda tokens: self._first_use(next_use, tokens))

    def _first_use(self, next_use: NextUse, tokens: Ids) -> Ids:
        windows = np.searchsorted(self._token_firsts, tokens, side="right") - 1
        places, back = np.unique(np.maximum(windows, 0), return_inverse=True)
        firsts, lasts = self._firsts[places], self._firsts[places + 1] - 1
        probes = np.linspace(firsts, lasts, _PROBES, axis=1).astype(np.int64)
        uses = next_use(np.minimum(probes.reshape(-1), len(self) - 1)).reshape(probes.shape)
        first: Ids = uses.min(axis=1)[back]
        return first

    def want(self, ids: Ids, due: Times) -> None:
        for sample, when in zip(ids.tolist(), due.tolist(), strict=True):
            starts, lengths = self._pieces(sample)
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                self._tokens.want(np.array([start]), length, np.array([when]))

    def where(self, sample: int) -> tuple[Access, Ranges]:
        starts, lengths = self._pieces(sample)
        pairs = zip(starts.tolist(), lengths.tolist(), strict=True)
        found = [self._tokens.where(start, length) for start, length in pairs]
        columns = zip(*found, strict=True)
        return self._tokens.access, Ranges(*(np.concatenate(column) for column in columns))

    def read(self, ids: Ids) -> dict[str, Tensor]:
        """ "tokens": (n, T + 1), of their own type, whole pieces and then zeros. "targets",
        "documents" and "positions": int64 (n, T); a target is -100 where the next token is another
        piece's."""
        shape = (len(ids), self._length)
        rows = np.zeros((len(ids), self._length + 1), dtype=self._tokens.dtype)
        documents, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        targets = np.full(shape, IGNORED)
        for place, sample in enumerate(ids.tolist()):
            first, number = 0, 0
            starts, lengths = self._pieces(sample)
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                stop = first + length
                rows[place, first:stop] = self._tokens.gather(np.array([start]), length)[0]
                targets[place, first : stop - 1] = rows[place, first + 1 : stop]
                documents[place, first:stop] = number
                positions[place, first:stop] = np.arange(min(length, self._length - first))
                first, number = stop, number + 1
            documents[place, first:] = number
            positions[place, first:] = np.arange(max(0, self._length - first))
        batch: dict[str, npt.NDArray[Any]] = {
            "tokens": rows,
            "targets": targets,
            "documents": documents,
            "positions": positions,
        }
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def _pieces(self, sample: int) -> tuple[Ids, Ids]:
        """Starts and lengths of the pieces of a sample."""
        number = int(np.searchsorted(self._firsts, sample, side="right")) - 1
        window = self._window(number)
        at = sample - int(self._firsts[number])
        some = slice(int(window["bounds"][at]), int(window["bounds"][at + 1]))
        return window["starts"][some], window["lengths"][some]

    def _window(self, number: int) -> dict[str, Any]:
        with self._lock:
            window = self._windows.pop(number, None)
            if window is None:
                window = load_file(self._folder / window_name(number))
            self._windows[number] = window
            while len(self._windows) > _WINDOWS_KEPT:
                del self._windows[next(iter(self._windows))]
            return window
