"""Values that cannot be meant are refused with their key, value and remedy."""

import pytest

from keepstep.checkpoint import CheckpointConfig


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"every_steps": -1}, r"checkpoint\.every_steps: found -1, needed 0 or more steps; set"),
        ({"every_seconds": -1.0}, r"checkpoint\.every_seconds: found -1\.0, needed 0 or more"),
        ({"every_seconds": float("nan")}, r"checkpoint\.every_seconds: found nan"),
        ({"keep": 0}, r"checkpoint\.keep: found 0, needed 1 or more; set"),
        ({"path": " "}, r"checkpoint\.path: found ' ', needed the name of a folder; set"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        CheckpointConfig(**values)


def test_zero_cadences_and_one_kept_are_allowed():
    config = CheckpointConfig(every_steps=0, every_seconds=0, keep=1, at_end=False)
    assert (config.every_steps, config.keep, config.path) == (0, 1, None)
