"""Samples in order -> micro-batches, ahead of use, by threads of the process that trains."""

from .evaluate import evaluation_batches
from .loader import Arrangement, Loader
from .share import share_microbatches
from .window import Window

__all__ = ["Arrangement", "Loader", "Window", "evaluation_batches", "share_microbatches"]
