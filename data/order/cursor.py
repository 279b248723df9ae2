"""The whole state of the data: one position in one order. Owns no reading and no prefetching."""

from typing import Any

from ..errors import DataError
from .recipe import Recipe


class Cursor:
    """The position, in samples, after the last sample of a committed optimizer step.

    The same on every rank and for any number of ranks. Its state has version
    `recipe.ALGORITHM_VERSION` and is JSON.
    """

    def __init__(self, recipe: Recipe, position: int = 0) -> None:
        self.recipe = recipe
        self.position = position

    def state_dict(self) -> dict[str, Any]:
        """Position, algorithm version, recipe digest, and the recipe for a person to read."""
        return {
            "algorithm_version": self.recipe.algorithm_version,
            "recipe_digest": self.recipe.digest(),
            "position": self.position,
            "recipe": self.recipe.facts(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the position over.

        Raises:
            DataError: the state belongs to another order: other data, seed, sizes or algorithm.
        """
        version = self.recipe.algorithm_version
        if state["algorithm_version"] != version:
            raise DataError(
                f"data cursor algorithm_version: found {state['algorithm_version']} in the saved "
                f"state, needed {version}; use the keepstep release that wrote it, or start anew"
            )
        found, needed = state["recipe_digest"], self.recipe.digest()
        if found != needed:
            raise DataError(
                f"data cursor recipe: found {found} in the saved state, needed {needed} "
                f"({self._differences(state.get('recipe', {}))}); set the data.* keys and data "
                "that the saved run had, or start a new run"
            )
        self.position = int(state["position"])

    def _differences(self, saved: dict[str, Any]) -> str:
        now = self.recipe.facts()
        parts = [
            f"{name} was {saved.get(name)}, is {now.get(name)}"
            for name in sorted({*saved, *now})
            if saved.get(name) != now.get(name)
        ]
        return ", ".join(parts) or "the saved recipe is not the one its digest was made of"
