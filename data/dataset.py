"""What is known of a dataset once it was surveyed: its objects, what each holds, how to read them.

Knows no format and no store; `sources` make one of these of a URL, and readers of one of these.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from .store import StoredObject


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """The objects of one dataset in order, and everything its reader needs beside their bytes."""

    format: str
    """The name of the reader, a value of DataFormat."""
    url: str
    """What was surveyed; every object's URL begins with its folder."""
    objects: list[StoredObject]
    counts: npt.NDArray[np.int64]
    """Samples in each object; tokens where the objects are arrays of tokens."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the reader must know, as JSON: columns, encodings, dtypes."""
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Indexes too large for JSON, e.g. where each sample of a tar begins."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digests of whole objects as their writer recorded them: "<algorithm>:<hexadecimal>" by URL
    relative to `url`. Empty where it recorded none."""

    @property
    def digest(self) -> str:
        """xxh3-128 over everything but where the objects lie and their tags: copies are equal."""
        rows = [
            (self.name(obj), obj.size, obj.packing, obj.raw_bytes, count)
            for obj, count in zip(self.objects, self.counts.tolist(), strict=True)
        ]
        text = json.dumps([self.format, rows, self.facts, self.digests], sort_keys=True)
        state = xxhash.xxh3_128(text.encode())
        for name, array in sorted(self.arrays.items()):
            state.update(f"{name} {array.dtype.str} {array.shape};".encode())
            state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return state.hexdigest()

    def name(self, obj: StoredObject) -> str:
        """The object's URL relative to the dataset's."""
        return obj.url.removeprefix(self.url).lstrip("/") or obj.url.rpartition("/")[2]
