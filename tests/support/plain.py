"""Values of records -> JSON that says their types, for comparing readers with writers."""

import base64
from decimal import Decimal
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """`value` with bytes, arrays and decimals replaced by tagged JSON; tuples become lists."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, np.ndarray):
        name = value.dtype.newbyteorder("=").name
        body = value.astype(value.dtype.newbyteorder("<")).tobytes()
        return {"array": [name, list(value.shape), base64.b64encode(body).decode()]}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, dict):
        return {"dict": {str(key): plain(item) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
