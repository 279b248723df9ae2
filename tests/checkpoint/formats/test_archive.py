"""What torch.save writes of a tensor is read bit for bit without torch.load; damage is seen."""

import io
import pickle
import zipfile
from typing import Any

import pytest
import torch

from keepstep.checkpoint.dtypes import BY_NAME
from keepstep.checkpoint.formats.archive import tensor_of
from keepstep.checkpoint.formats.pickled import UnreadableError


def saved(value: Any) -> bytearray:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return bytearray(buffer.getvalue())


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


@pytest.mark.parametrize("dtype", BY_NAME)
def test_each_dtype_and_every_stride_comes_back_bit_for_bit(dtype: str) -> None:
    whole = torch.arange(24).float().reshape(2, 3, 4).to(BY_NAME[dtype])
    for tensor in (whole, whole[:, 1:, ::2], whole[0, 0, 3], whole[:0], whole.transpose(0, 2)):
        found = tensor_of(saved(tensor))
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert bits(found) == bits(tensor)


def test_every_flipped_byte_of_the_numbers_is_seen() -> None:
    good = saved(torch.arange(16, dtype=torch.float32))
    start = good.index(torch.arange(16, dtype=torch.float32).numpy().tobytes())
    for at in range(start, start + 64):
        bad = bytearray(good)
        bad[at] ^= 4
        with pytest.raises(UnreadableError, match="does not match its CRC-32"):
            tensor_of(bad)


def test_any_flipped_byte_is_refused_or_changes_nothing() -> None:
    tensor = torch.arange(16, dtype=torch.float32)
    good = saved(tensor)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 0x55
        try:
            found = tensor_of(bad)
        except UnreadableError:
            continue
        assert bits(found) == bits(tensor)


def test_an_archive_without_checksums_is_read() -> None:
    from torch.utils.serialization import config

    before, config.save.compute_crc32 = config.save.compute_crc32, False
    try:
        data = saved(torch.ones(3))
    finally:
        config.save.compute_crc32 = before
    assert tensor_of(data).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "value", [{"a": torch.ones(2)}, [1, 2], torch.ones(2).to_sparse(), torch.nn.Linear(1, 1)]
)
def test_anything_but_one_plain_tensor_is_refused(value: Any) -> None:
    with pytest.raises(UnreadableError):
        tensor_of(saved(value))


class Call:
    def __reduce__(self) -> Any:
        return print, ("it ran",)


def test_an_archive_that_would_call_something_is_refused_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Call()))
    with pytest.raises(UnreadableError, match=r"names builtins\.print"):
        tensor_of(bytearray(buffer.getvalue()))
    assert capsys.readouterr().out == ""
