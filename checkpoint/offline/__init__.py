"""Work on checkpoints that lie in places, without a model and without a run: tensor by tensor, so
that what does not fit into memory can be read, compared, averaged, copied and written."""

from .average import average
from .compare import Change, Comparison, compare
from .copying import copy, copy_together
from .items import Item, Progress, items_of, rename
from .writing import write

__all__ = [
    "Change",
    "Comparison",
    "Item",
    "Progress",
    "average",
    "compare",
    "copy",
    "copy_together",
    "items_of",
    "rename",
    "write",
]
