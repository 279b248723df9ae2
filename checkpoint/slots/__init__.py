"""State -> slots in shared memory, whole or not there, that outlive the process that fills them.
A slot holds the bytes of a rank's shard file, so that saving it is a copy."""

from .held import MEMORY, Held, newest
from .image import Image
from .slotfile import Sealed, SlotFile
from .snapshots import Snapshots
from .union import Box, Left, Union, Whole, boxes_of, deal, wholes

__all__ = [
    "MEMORY", "Box", "Held", "Image", "Left", "Sealed", "SlotFile", "Snapshots", "Union", "Whole",
    "boxes_of", "deal", "newest", "wholes",
]  # fmt: skip
