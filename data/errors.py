"""What goes wrong with data: what the user set, and bytes that are not what was written.

ValueError    <- DataError           what the user set or gave; trying again cannot help
RuntimeError  <- CorruptDataError    prepared bytes that differ from their manifest
"""

from pathlib import Path


class DataError(ValueError):
    """Data or a data setting that cannot be used; the message is one sentence for the user."""


class CorruptDataError(RuntimeError):
    """A prepared file is not what its manifest says.

    Attributes:
        path: the file.
        found: what it holds.
        needed: what the manifest says.
    """

    def __init__(self, path: Path, found: str, needed: str) -> None:
        super().__init__(
            f"{path}: found {found}, needed {needed}; "
            "remove the folder and prepare the data again, or restore it from a copy"
        )
        self.path = path
        self.found = found
        self.needed = needed
