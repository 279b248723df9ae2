"""Where in the data a step's samples stand, for events and sentences."""

from ...data import MixtureRecipe, OrderRecipe


def positions(order: OrderRecipe | MixtureRecipe, first: int, end: int) -> dict[str, object]:
    """The samples from `first` up to `end`, as fields of an event; a mixture's sources are each in
    an epoch of their own."""
    is_one = isinstance(order, OrderRecipe)
    epoch = first // order.num_samples if isinstance(order, OrderRecipe) else None
    return {"first_sample": first, "end_sample": end, **({"epoch": epoch} if is_one else {})}


def described(order: OrderRecipe | MixtureRecipe, first: int, end: int) -> str:
    """The same for a person."""
    found = positions(order, first, end)
    epoch = f", epoch {found['epoch']}" if "epoch" in found else ""
    return f"samples {first} to {end - 1} in the run's order{epoch}"
