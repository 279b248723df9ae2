"""The dtypes a checkpoint can hold: torch's own names, and the codes of safetensors headers."""

import math
from collections.abc import Sequence

import torch

_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "complex64": "C64",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
BY_CODE = {code: name for name, code in _CODES.items()}
BY_NAME: dict[str, torch.dtype] = {name: getattr(torch, name) for name in _CODES}


def dtype_name(dtype: torch.dtype) -> str:
    """The dtype's name as manifests have it, such as `bfloat16`; ValueError if it has no place."""
    name = str(dtype).removeprefix("torch.")
    if name not in _CODES:
        raise ValueError(
            f"A tensor of the state has dtype {name}, but checkpoints hold {', '.join(_CODES)}: "
            "convert it, or leave it out of the state."
        )
    return name


def safetensors_code(name: str) -> str:
    """The code of a dtype in a safetensors header, such as `BF16`."""
    return _CODES[name]


def num_bytes(name: str, shape: Sequence[int]) -> int:
    """Bytes of a dense box of this dtype and shape; a 0-d box holds one element."""
    return BY_NAME[name].itemsize * math.prod(shape)
