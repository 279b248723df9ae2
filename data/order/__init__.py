"""Which sample stands at which position: pure functions of a recipe and one integer.

Reads no data and keeps no state but a cursor's one position.
"""

from .cursor import Cursor
from .fit import fit_recipe
from .mixture import Mixture
from .order import Order
from .recipe import ALGORITHM_VERSION, MixtureRecipe, OrderRecipe, Recipe, mix

__all__ = [
    "ALGORITHM_VERSION",
    "Cursor",
    "Mixture",
    "MixtureRecipe",
    "Order",
    "OrderRecipe",
    "Recipe",
    "fit_recipe",
    "mix",
]
