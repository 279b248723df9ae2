"""The sentence of a wrong setting."""

import pytest

from keepstep.trainer.require import require


def test_require_says_nothing_of_what_holds() -> None:
    require(True, "a.b", 1, "1", "nothing")
    with pytest.raises(ValueError, match=r"^a\.b: found 'x', needed y; do z$"):
        require(False, "a.b", "x", "y", "do z")
