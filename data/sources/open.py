"""A dataset and its bytes -> the reader of its format."""

from collections.abc import Callable

from ..access import Access
from ..config import DataFormat
from ..dataset import Dataset
from ..errors import DataError
from .records.arrow import open_arrow
from .records.jsonl import open_jsonl
from .records.litdata import open_litdata
from .records.mds import open_mds
from .records.parquet import open_parquet
from .records.webdataset import open_webdataset
from .source import Records, Tokens
from .token_files.reader import TokenArrays

RECORD_FORMATS: dict[str, Callable[[Dataset, Access], Records]] = {
    DataFormat.mds: open_mds,
    DataFormat.litdata: open_litdata,
    DataFormat.webdataset: open_webdataset,
    DataFormat.parquet: open_parquet,
    DataFormat.arrow: open_arrow,
    DataFormat.jsonl: open_jsonl,
}
TOKEN_FORMATS = (
    DataFormat.tokens,
    DataFormat.npy,
    DataFormat.raw,
    DataFormat.megatron,
    DataFormat.litdata_tokens,
)


def open_records(dataset: Dataset, access: Access) -> Records:
    """The dataset's records; `access` is over the dataset's objects, in their order.

    Raises:
        DataError: it holds tokens, or its format's package is not installed.
        CorruptDataError: its arrays do not fit its objects.
    """
    if dataset.format not in RECORD_FORMATS:
        raise DataError(
            f"{dataset.url}: found a dataset of {dataset.format}, needed records "
            f"({', '.join(RECORD_FORMATS)}); open it as tokens, or give another dataset"
        )
    return RECORD_FORMATS[dataset.format](dataset, access)


def open_tokens(dataset: Dataset, access: Access) -> Tokens:
    """The dataset's tokens; `access` is over the dataset's objects, in their order.

    Raises:
        DataError: it holds records.
        CorruptDataError: its arrays do not fit its objects.
    """
    if dataset.format not in TOKEN_FORMATS:
        raise DataError(
            f"{dataset.url}: found a dataset of {dataset.format}, needed tokens "
            f"({', '.join(TOKEN_FORMATS)}); open it as records, or give another dataset"
        )
    return TokenArrays(dataset, access)
