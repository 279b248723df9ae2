"""What a model is built of so that it can be cut: attention, the output projection, experts and
their router. Each computes on one rank until the layout replaces the part that crosses ranks."""

from .attend import Attend
from .experts import Experts, permute
from .head import Head
from .router import Router

__all__ = ["Attend", "Experts", "Head", "Router", "permute"]
