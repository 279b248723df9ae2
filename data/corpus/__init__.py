"""What a run trains on, from its settings: where the data lies, its reader, its order.

The only part of the room that knows stores, caches, formats, packing and orders together.
"""

from .corpus import Corpus, open_corpus
from .mixed import Mixed
from .ordering import order_of
from .supply import Supply

__all__ = ["Corpus", "Mixed", "Supply", "open_corpus", "order_of"]
