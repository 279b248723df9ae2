"""Records in any store -> batches, in a known order, resumable at any world size.

objects --Access--> bytes --Source--> rows --Order(position)--> Loader --> micro-batches
"""

from .config import DataConfig, DataFormat  # noqa: I001 - one line a file
from .corpus import Corpus, Mixed, open_corpus, order_of
from .errors import ChangedError, CorruptDataError, DataError
from .loader import Loader, Window, evaluation_batches, share_microbatches
from .order import (
    ALGORITHM_VERSION, Cursor, Mixture, MixtureRecipe, Order, OrderRecipe, fit_recipe, mix,
)  # fmt: skip
from .prepare import PreparedInfo, Tokenizer, open_prepared, prepare
from .sources import Source, Subset, TensorSource
from .verify import inspect, verify

__all__ = [
    "ALGORITHM_VERSION", "ChangedError", "Corpus", "CorruptDataError", "Cursor", "DataConfig",
    "DataError", "DataFormat", "Loader", "Mixed", "Mixture", "MixtureRecipe", "Order",
    "OrderRecipe", "PreparedInfo", "Source", "Subset", "TensorSource", "Tokenizer", "Window",
    "evaluation_batches", "fit_recipe", "inspect", "mix", "open_corpus", "open_prepared",
    "order_of", "prepare", "share_microbatches", "verify",
]  # fmt: skip
