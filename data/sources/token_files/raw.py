"""Arrays of token ids without a header, as OLMo keeps them (often under the name .npy)."""

import numpy as np

from ...dataset import Dataset
from ...errors import CorruptDataError, DataError
from ...store import Store
from ..listing import RESTORE, Listing
from .documents import with_documents

SUFFIXES = (".npy", ".bin", ".raw", ".u16", ".u32", ".tokens")
DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")


def survey(store: Store, url: str, *, dtype: str | None, end_token: int | None = None) -> Dataset:
    """Lists the arrays below `url`, of `dtype` tokens, little-endian.

    With `end_token` every byte is read, to find the documents.

    Raises:
        DataError: no dtype was given, or nothing is there.
        CorruptDataError: an object holds no whole number of tokens.
    """
    if dtype not in DTYPES:
        raise DataError(
            f"{url}: found arrays without a header and the dtype {dtype!r}, needed one of "
            f"{', '.join(DTYPES)}; give the dtype they were written in"
        )
    listing = Listing.of(store, url)
    named = listing.ending(*SUFFIXES)
    objects = named or [o for name, o in listing.objects.items() if not name.endswith(".lock")]
    width = np.dtype(dtype).itemsize
    for obj in objects:
        if obj.size % width:
            raise CorruptDataError(obj.url, f"{obj.size} bytes", f"whole {dtype} tokens", RESTORE)
    dataset = Dataset(
        format="raw",
        url=listing.url,
        objects=objects,
        counts=np.array([obj.size // width for obj in objects], dtype=np.int64),
        facts={"dtype": np.dtype(dtype).newbyteorder("<").str},
        arrays={"heads": np.zeros(len(objects), dtype=np.int64)},
    )
    return with_documents(store, dataset, end_token)
