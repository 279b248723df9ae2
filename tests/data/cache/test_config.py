"""Settings of the cache say what is wrong with them."""

import pytest

from keepstep.data.cache import CacheConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"disk_bytes": -1}, r"data.cache.disk_bytes: found -1, needed 0 or more"),
        ({"ram_bytes": -5}, r"data.cache.ram_bytes: found -5, needed 0"),
        ({"open_maps": 0}, r"set data.cache.open_maps=1 or leave it out"),
        ({"idle_seconds": float("nan")}, r"data.cache.idle_seconds: found nan"),
        ({"rescan_seconds": 0.5}, r"data.cache.rescan_seconds: found 0.5, needed 1 or more"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_needed(
    changes: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CacheConfig(**changes)  # type: ignore[arg-type]
