"""What every source of samples offers. Owns no order and no batching."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor


class Source(Protocol):
    """A fixed number of samples, each read by its id, in any order."""

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str:
        """A digest of the content, equal on every rank and wherever the bytes lie."""
        ...

    def read(self, ids: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        """The samples `ids`, gathered into new tensors of `len(ids)` rows; `ids` may be empty.

        Called from the loader's thread. Blocks while bytes come in.
        """
        ...
