"""What crosses between processes arrives as it was sent."""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support.plain import plain

from keepstep.data import DataError
from keepstep.data.transform.codec import TooLargeError, decode, encode

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
ARRAYS = arrays.arrays(
    st.sampled_from(["u1", "<i2", ">i4", "i8", "f2", "f8", "?", "c8", "S3", "U2", "M8[ns]"]),
    arrays.array_shapes(min_dims=0, min_side=0),
)
VALUES = st.recursive(
    SCALARS | st.binary() | ARRAYS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=8,
)


def there_and_back(value: Any, size: int = 1 << 16, *, copy: bool = True) -> Any:
    slot = memoryview(bytearray(size))
    encode(value, slot, "it")
    found = decode(slot, copy=copy)
    if copy:
        slot[:] = bytes(size)
    return found


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_any_value_of_a_record_comes_back_equal_and_of_its_type(value: Any) -> None:
    assert repr(plain(there_and_back(value))) == repr(plain(value))


def test_strided_arrays_scalars_and_tensors_keep_type_and_shape() -> None:
    strided = np.arange(24).reshape(4, 6)[::2, ::-1]
    assert (there_and_back(strided) == strided).all()
    assert there_and_back(np.float32(1.5)).dtype == np.float32
    for tensor in (torch.ones(2, 3, dtype=torch.bfloat16), torch.empty(0, 3), torch.tensor(7)):
        found = there_and_back(tensor)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)


def test_a_tuple_becomes_a_list_and_bytes_like_values_bytes() -> None:
    assert there_and_back((1, bytearray(b"x"), memoryview(b"yz"))) == [1, b"x", b"yz"]


def test_without_copies_arrays_are_views_of_the_slot() -> None:
    slot = memoryview(bytearray(4096))
    encode({"x": np.arange(5)}, slot, "it")
    view = decode(slot, copy=False)["x"]
    encode({"x": np.arange(5) + 1}, slot, "it")
    assert view.tolist() == [1, 2, 3, 4, 5]


def test_what_does_not_fit_says_how_much_it_takes() -> None:
    with pytest.raises(TooLargeError) as caught:
        there_and_back(np.zeros(1000, np.uint8), 1000)
    there_and_back(np.zeros(1000, np.uint8), caught.value.needed)


@pytest.mark.parametrize("value", [Decimal("1.5"), {1}, np.array([{}]), lambda: 0])
def test_other_types_are_refused_with_where_they_are(value: Any) -> None:
    with pytest.raises(DataError, match=r"it\['a'\]\[1\]: found .*, needed numbers, str"):
        there_and_back({"a": [0, value]})
