"""Raw text -> token shards: listed, cut into documents, tokenised, written once, published whole.

files -> documents -> tokenizer -> shards -> one folder under the cache, named by its content
"""

from .prepare import PreparedInfo, open_prepared, prepare
from .tokenizer import Tokenizer

__all__ = ["PreparedInfo", "Tokenizer", "open_prepared", "prepare"]
