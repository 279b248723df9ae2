"""Samples in order -> micro-batches, ahead of use, by threads of the process that trains."""

from .evaluate import evaluation_batches
from .handoff import Handoff, hand_off
from .loader import Arrangement, Loader
from .share import share_microbatches
from .window import Window

__all__ = [
    "Arrangement",
    "Handoff",
    "Loader",
    "Window",
    "evaluation_batches",
    "hand_off",
    "share_microbatches",
]
