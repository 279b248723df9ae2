"""Records in any store -> batches, in a known order, resumable at any world size.

text --prepare--> token shards --Source--> rows --Order(position)--> Loader --> micro-batches
"""

from .config import DataConfig, DataFormat
from .cursor import Cursor
from .errors import CorruptDataError, DataError
from .loader import Loader, Window, evaluation_batches, share_microbatches
from .order import ALGORITHM_VERSION, Order, OrderRecipe, fit_recipe
from .prepare import PreparedInfo, Tokenizer, open_prepared, prepare
from .sources import Source, Subset, TensorSource, TokenShards
from .verify import inspect, verify

__all__ = [
    "ALGORITHM_VERSION",
    "CorruptDataError",
    "Cursor",
    "DataConfig",
    "DataError",
    "DataFormat",
    "Loader",
    "Order",
    "OrderRecipe",
    "PreparedInfo",
    "Source",
    "Subset",
    "TensorSource",
    "TokenShards",
    "Tokenizer",
    "Window",
    "evaluation_batches",
    "fit_recipe",
    "inspect",
    "open_prepared",
    "prepare",
    "share_microbatches",
    "verify",
]
