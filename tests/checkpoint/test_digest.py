"""Digests see every byte, name, dtype and shape, and nothing else."""

import pytest
import torch

from keepstep.checkpoint import combine_digests, tensor_digest
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
    ("name", "other"),
    [
        ("b", torch.zeros(4)),
        ("a", torch.zeros(2, 2)),
        ("a", torch.zeros(4, dtype=torch.int32)),
        ("a", torch.zeros(3)),
        ("a", torch.tensor([0.0, 0.0, 0.0, -0.0])),
    ],
)
def test_a_tensors_digest_sees_name_shape_dtype_and_every_bit(name, other):
    assert tensor_digest(name, other) != tensor_digest("a", torch.zeros(4))


def test_a_states_digest_sees_names_and_digests_and_not_their_order():
    whole = combine_digests({"a": "1", "b": "2"})
    assert combine_digests({"b": "2", "a": "1"}) == whole
    others = [{"a": "2", "b": "1"}, {"a": "1"}, {"a": "1", "b": "2", "c": "3"}, {}]
    assert len({whole, *map(combine_digests, others)}) == 5


def test_gradients_and_memory_are_left_alone():
    parameter = torch.nn.Parameter(torch.ones(3))
    assert digest_bytes(tensor_bytes(parameter)) == digest_bytes(tensor_bytes(torch.ones(3)))
