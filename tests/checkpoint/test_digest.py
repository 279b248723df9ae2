"""Digests see every byte, name, dtype and shape, and nothing else."""

import pytest
import torch

from keepstep.checkpoint import state_digest
from keepstep.checkpoint.digest import digest_bytes, tensor_bytes

DTYPES = [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]


def test_the_digest_is_the_published_xxh3_128():
    assert digest_bytes(b"") == "99aa06d3014798d86001c324468d497f"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (4, 3)])
def test_a_tensors_digest_is_that_of_its_bytes(dtype, shape):
    tensor = torch.ones(shape, dtype=dtype)
    raw = bytes(tensor.reshape(-1).view(torch.uint8).tolist())
    assert digest_bytes(tensor_bytes(tensor)) == digest_bytes(raw)


def test_strides_do_not_matter_but_order_of_elements_does():
    tensor = torch.arange(12.0).reshape(3, 4)
    whole = digest_bytes(tensor_bytes(tensor))
    assert digest_bytes(tensor_bytes(tensor.t().contiguous().t())) == whole
    assert digest_bytes(tensor_bytes(tensor.t())) != whole


def test_a_bit_of_any_element_is_seen():
    tensor = torch.zeros(9)
    whole = digest_bytes(tensor_bytes(tensor))
    for index in range(9):
        flipped = tensor.clone()
        flipped[index] = -0.0
        assert digest_bytes(tensor_bytes(flipped)) != whole


@pytest.mark.parametrize(
    "other",
    [
        [("b", torch.zeros(4))],
        [("a", torch.zeros(2, 2))],
        [("a", torch.zeros(4, dtype=torch.int32))],
        [("a", torch.zeros(2)), ("a", torch.zeros(2))],
        [],
    ],
)
def test_a_states_digest_sees_name_shape_dtype_and_number(other):
    assert state_digest(other) != state_digest([("a", torch.zeros(4))])


def test_a_states_digest_sees_the_order_and_takes_any_iterable():
    one, two = ("a", torch.zeros(1)), ("b", torch.ones(1))
    assert state_digest(iter([one, two])) == state_digest([one, two])
    assert state_digest([two, one]) != state_digest([one, two])


def test_gradients_and_memory_are_left_alone():
    parameter = torch.nn.Parameter(torch.ones(3))
    assert digest_bytes(tensor_bytes(parameter)) == digest_bytes(tensor_bytes(torch.ones(3)))
