"""Values that cannot be meant are refused with their key, value and remedy."""

import pytest

from keepstep.checkpoint import CheckpointConfig
from keepstep.checkpoint.config import PlaceConfig


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"every_steps": -1}, r"checkpoint\.every_steps: found -1, needed 0 or more; set"),
        ({"every_seconds": -1.0}, r"checkpoint\.every_seconds: found -1\.0, needed 0 or more"),
        ({"every_seconds": float("nan")}, r"checkpoint\.every_seconds: found nan"),
        ({"every_seconds": "often"}, r"checkpoint\.every_seconds: found often, needed 0 or more"),
        ({"every_seconds": True}, r"checkpoint\.every_seconds: found True, needed"),
        ({"at_steps": [3, 0]}, r"checkpoint\.at_steps: found \[0\], needed steps of 1 or more"),
        ({"keep_every_steps": -1}, r"checkpoint\.keep_every_steps: found -1, needed 0 or more"),
        ({"keep_best": 0}, r"checkpoint\.keep_best: found 0, needed 1 or more; set"),
        ({"keep": 0}, r"checkpoint\.keep: found 0, needed 1 or more; set"),
        ({"path": " "}, r"checkpoint\.path: found ' ', needed the name of a folder or a URL"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        CheckpointConfig(**values)


def test_zero_cadences_and_one_kept_are_allowed():
    config = CheckpointConfig(every_steps=0, every_seconds=0, keep=1, at_end=False)
    assert (config.every_steps, config.keep, config.path) == (0, 1, None)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"connections": 0}, r"checkpoint\.store\.connections: found 0, needed 1 to 64"),
        ({"part_bytes": 1024}, r"checkpoint\.store\.part_bytes: found 1024, needed 5242880 to"),
        ({"retry_seconds": -1.0}, r"checkpoint\.store\.retry_seconds: found -1\.0, needed 0 or"),
        ({"stall_seconds": float("inf")}, r"checkpoint\.store\.stall_seconds: found inf, needed"),
        ({"endpoint_url": "host:80"}, r"endpoint_url: found 'host:80', needed a URL that begins"),
    ],
)
def test_a_place_that_cannot_be_meant_is_refused(values, said):
    with pytest.raises(ValueError, match=said):
        PlaceConfig(**values)
