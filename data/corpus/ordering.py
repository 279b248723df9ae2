"""The order of a source or a mixture, from the settings."""

from ..config import DataConfig
from ..order import Mixture, Order, OrderRecipe, fit_recipe, mix
from ..sources import Source, Stored
from ..table import raw_bytes
from .mixed import Mixed


def order_of(source: Source, config: DataConfig) -> Order | Mixture:
    """Every source in blocks, lanes and windows that suit it; a mixture interleaves its parts'.

    Raises:
        ValueError: weights that are no usable shares.
    """
    if not isinstance(source, Mixed):
        return Order(_recipe(source, config))
    recipes = {name: _recipe(part, config) for name, part in source.parts.items()}
    return Mixture(mix(recipes, source.weights, seed=config.seed))


def _recipe(source: Source, config: DataConfig) -> OrderRecipe:
    return fit_recipe(
        source,
        seed=config.seed,
        block=config.block,
        lanes=config.lanes,
        window=config.window,
        sample_bytes=source.sample_bytes if isinstance(source, Stored) else 0,
        stored_bytes=_stored_bytes(source) if isinstance(source, Stored) else 0,
    )


def _stored_bytes(source: Stored) -> int:
    """Of all its objects, also of those that hold other parts of the dataset than this one: it is
    by these that extents are cut."""
    return sum(int(raw_bytes(access.objects).sum()) for access in source.accesses)
