"""Documents of any length -> sequences of one length: cut end to end, or fitted side by side.

Which documents make a sequence is a function of the documents alone, compiled once; packed
sequences are then samples like any others, and the data's whole state stays one integer.
"""

from .chunks import Chunks
from .compile import compile_packing
from .fitted import Fitted

__all__ = ["Chunks", "Fitted", "compile_packing"]
