"""Records -> samples: a function of the user's, randomness that replays, processes to run it in.

records --Records--> dicts of values --transform(record, rng)--> dicts of numbers and arrays
        --Batch--> tensors
"""

from .function import Transform, pass_numbers
from .pool import TransformPool
from .samples import Samples

__all__ = ["Samples", "Transform", "TransformPool", "pass_numbers"]
