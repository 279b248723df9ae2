"""Records in any store -> batches, in a known order, resumable at any world size.

objects --Access--> bytes --Source--> rows --Order(position)--> Loader --> micro-batches
"""

from .config import DataConfig, DataFormat  # noqa: I001 - one line a file
from .corpus import Corpus, Mixed, Supply, open_corpus, order_of
from .errors import ChangedError, CorruptDataError, DataError
from .loader import Loader, Window, evaluation_batches, hand_off, share_microbatches
from .looks import (
    Measured, Piece, bench, check, describe, explain, histogram, is_local, is_prepared,
    write_lock_of,
)  # fmt: skip
from .quarantine import BadRecord, Skips
from .order import (
    ALGORITHM_VERSION, Cursor, Mixture, MixtureRecipe, Order, OrderRecipe, fit_recipe, mix,
)  # fmt: skip
from .prepare import PreparedInfo, Tokenizer, open_prepared, prepare
from .sources import Source, Subset, TensorSource
from .store import StoreConfig
from .verify import inspect, verify

__all__ = [
    "ALGORITHM_VERSION", "BadRecord", "ChangedError", "Corpus", "CorruptDataError", "Cursor",
    "DataConfig", "DataError", "DataFormat", "Loader", "Measured", "Mixed", "Mixture",
    "MixtureRecipe", "Order", "OrderRecipe", "Piece", "PreparedInfo", "Skips", "Source",
    "StoreConfig", "Subset", "Supply", "TensorSource", "Tokenizer", "Window", "bench", "check",
    "describe", "evaluation_batches", "explain", "fit_recipe", "hand_off", "histogram",
    "inspect", "is_local", "is_prepared", "mix", "open_corpus", "open_prepared", "order_of",
    "prepare", "share_microbatches", "verify", "write_lock_of",
]  # fmt: skip
