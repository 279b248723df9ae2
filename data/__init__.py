"""Records in any store -> batches, in a known order, resumable at any world size.

objects --Access--> bytes --Source--> rows --Order(position)--> Loader --> micro-batches
"""

from .config import DataConfig, DataFormat
from .errors import ChangedError, CorruptDataError, DataError
from .loader import Loader, Window, evaluation_batches, share_microbatches
from .order import ALGORITHM_VERSION, Cursor, Mixture, Order, OrderRecipe, fit_recipe, mix
from .prepare import PreparedInfo, Tokenizer, open_prepared, prepare
from .sources import Source, Subset, TensorSource, TokenShards
from .verify import inspect, verify

# fmt: off
__all__ = [
    "ALGORITHM_VERSION", "ChangedError", "CorruptDataError", "Cursor", "DataConfig", "DataError",
    "DataFormat", "Loader", "Mixture", "Order", "OrderRecipe", "PreparedInfo", "Source", "Subset",
    "TensorSource", "TokenShards", "Tokenizer", "Window", "evaluation_batches", "fit_recipe",
    "inspect", "mix", "open_prepared", "prepare", "share_microbatches", "verify",
]
# fmt: on
