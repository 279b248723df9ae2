"""Hugging Face's causal language models, laid out over ranks by plans that are read off them."""

from .adapter import HuggingFace
from .architecture import read_architecture
from .plan import Described, describe

__all__ = ["Described", "HuggingFace", "describe", "read_architecture"]
