"""One integer is the whole state, and it is refused for any other order."""

import dataclasses
import json

import pytest

from keepstep.data import Cursor, DataError, OrderRecipe

RECIPE = OrderRecipe(num_samples=100, block=2, lanes=4, window=2, seed=7, source="abc")


def test_a_position_survives_json() -> None:
    state = json.loads(json.dumps(Cursor(RECIPE, 10**12).state_dict()))
    cursor = Cursor(RECIPE)
    cursor.load_state_dict(state)
    assert cursor.position == 10**12


@pytest.mark.parametrize(
    ("field", "value", "said"), [("seed", 8, "seed was 7, is 8"), ("source", "d", "was abc, is d")]
)
def test_another_recipe_is_refused_with_both_digests_and_the_difference(
    field: str, value: object, said: str
) -> None:
    other = dataclasses.replace(RECIPE, **{field: value})
    cursor = Cursor(other, 5)
    with pytest.raises(DataError, match=said) as caught:
        cursor.load_state_dict(Cursor(RECIPE, 40).state_dict())
    assert RECIPE.digest() in str(caught.value)
    assert other.digest() in str(caught.value)
    assert cursor.position == 5


def test_another_algorithm_version_is_refused() -> None:
    state = {**Cursor(RECIPE).state_dict(), "algorithm_version": 2}
    with pytest.raises(DataError, match=r"algorithm_version: found 2 in the saved state, needed 1"):
        Cursor(RECIPE).load_state_dict(state)
