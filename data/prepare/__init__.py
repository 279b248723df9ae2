"""Raw text -> token shards: cleaned, deduplicated, split, tokenised, written once, published whole.

files -> parts -> documents -> fates -> tokens -> shards, one folder that says what it was made of
"""

from .config import Deduplicate, Normalise, OnBad, PrepareConfig
from .prepare import PreparedInfo, open_prepared, prepare
from .tokenizer import Tokenizer

# fmt: off
__all__ = [
    "Deduplicate", "Normalise", "OnBad", "PrepareConfig", "PreparedInfo", "Tokenizer",
    "open_prepared", "prepare",
]
# fmt: on
