"""Fixtures by mosaicml-streaming: every encoding, packing and flavour of shards."""

import io
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
from samples import encoded, expect, fresh, image_array, picture, reencoded, saved
from stubs import stub


def mds_sample(number: int) -> dict[str, Any]:
    scalars = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
    floats = ("float16", "float32", "float64")
    return {
        "a_bytes": bytes(range(number)),
        "a_str": f"text {number} \u00e4\u4e16",
        "a_int": number - 2**40,
        **{f"s_{name}": np.dtype(name).type(number + 1) for name in scalars},
        **{f"s_{name}": np.dtype(name).type(number / 4) for name in floats},
        "n_any": np.arange(number + 1, dtype=("int16", "float64", "uint64")[number % 3]),
        "n_deep": np.full((2, 300, 1), number, dtype=np.uint8)[:, : 1 + number * 40],
        "n_typed": np.arange(6, dtype=np.float32).reshape(2, 3)[: 1 + number % 2] * number,
        "n_fixed": np.arange(6, dtype=np.int32).reshape(2, 3) + number,
        "t_int": 10**30 + number,
        "t_float": number / 3,
        "t_decimal": Decimal(number) / Decimal(7),
        "p_pil": picture(("L", "RGB", "RGBA", "1", "I", "F", "I;16", "CMYK")[number % 8], number),
        "p_jpeg": encoded("JPEG", number),
        "p_png": encoded("PNG", number),
        "p_array": [encoded("JPEG", i) for i in range(1 + number % 3)],
        "p_pils": [picture("L", i) for i in range(number % 3)],
        "p_jpegs": [encoded("JPEG", i) for i in range(number % 2)],
        "p_pngs": [encoded("PNG", i) for i in range(2)],
        "json": {"of": [number, None, True, {"x": 0.5}]},
        # A column of any type takes bytes as they are.
        "z_through": b'"' + str(number).encode() + b'"',
    }


MDS_COLUMNS = {
    "a_bytes": "bytes",
    "a_str": "str",
    "a_int": "int",
    "n_any": "ndarray",
    **{f"s_{n}": n for n in ("uint8", "uint16", "uint32", "uint64")},
    **{f"s_{n}": n for n in ("int8", "int16", "int32", "int64", "float16", "float32", "float64")},
    "n_deep": "ndarray",
    "n_typed": "ndarray:float32",
    "n_fixed": "ndarray:int32:2,3",
    "t_int": "str_int",
    "t_float": "str_float",
    "t_decimal": "str_decimal",
    "p_pil": "pil",
    "p_jpeg": "jpeg",
    "p_png": "png",
    "p_array": "jpeg_array",
    "p_pils": "list[pil]",
    "p_jpegs": "list[jpeg]",
    "p_pngs": "list[png]",
    "json": "json",
    "z_through": "json",
}


def mds_expected(sample: dict[str, Any]) -> dict[str, Any]:
    out = {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in sample.items()
    }
    if "p_pil" in out:
        out["p_pil"] = image_array(out["p_pil"])
        out["p_pils"] = [image_array(one) for one in out["p_pils"]]
        out["z_through"] = json.loads(out["z_through"])
    return out


def write() -> None:
    stub()
    from PIL import Image
    from streaming import CSVWriter, JSONWriter, MDSWriter, TSVWriter, XSVWriter
    from streaming.base.util import merge_index

    folder = fresh("mds")
    samples = [mds_sample(number) for number in range(9)]
    with MDSWriter(
        out=str(folder / "all"), columns=MDS_COLUMNS, size_limit=12000, hashes=["sha1", "xxh64"]
    ) as out:
        for sample in samples:
            pictures = {
                "p_jpeg": Image.open(io.BytesIO(sample["p_jpeg"])),
                "p_jpegs": [Image.open(io.BytesIO(one)) for one in sample["p_jpegs"]],
            }
            # Pictures are encoded anew by the writer, so what it makes is what is expected.
            made = {key: reencoded(value) for key, value in pictures.items()}
            out.write(
                {
                    **sample,
                    **pictures,
                    "p_png": sample["p_png"],
                    "p_pngs": [Image.open(io.BytesIO(one)) for one in sample["p_pngs"]],
                }
            )
            sample.update(
                made, p_pngs=[saved("PNG", Image.open(io.BytesIO(one))) for one in sample["p_pngs"]]
            )
    expect(folder / "all", map(mds_expected, samples))

    small = [
        {"id": n, "text": "word " * (n % 7), "vector": np.arange(n % 5 + 1, dtype=np.float32)}
        for n in range(40)
    ]
    columns = {"id": "int", "text": "str", "vector": "ndarray:float32"}

    def shards(name: str, part: list[dict[str, Any]], **options: Any) -> None:
        with MDSWriter(out=str(folder / name), columns=columns, size_limit=700, **options) as out:
            for sample in part:
                out.write(sample)

    for compression in ("zstd", "gz:4", "bz2", "br", "snappy"):
        name = compression.partition(":")[0]
        shards(name, small, compression=compression, hashes=["md5"])
        expect(folder / name, small)
    shards("merged/first", small[:15])
    shards("merged/second", small[15:], compression="zstd")
    merge_index(str(folder / "merged"), keep_local=True)
    expect(folder / "merged", small)
    shards("splits/train", small[:30])
    shards("splits/val", small[30:])
    expect(folder / "splits", small[30:])
    with MDSWriter(out=str(folder / "pickled"), columns={"x": "pkl"}) as out:
        out.write({"x": {1, 2}})
    text = [{"id": n, "name": f"n{n} \u00e9", "score": n / 8} for n in range(20)]
    kinds = {"id": "int", "name": "str", "score": "float"}
    writers: dict[str, Callable[..., Any]] = {
        "json": JSONWriter,
        "csv": CSVWriter,
        "tsv": TSVWriter,
        "xsv": lambda **options: XSVWriter(separator="|-|", newline="\n;", **options),
    }
    for name, make in writers.items():
        packed = {"compression": "zstd"} if name == "csv" else {}
        with make(out=str(folder / name), columns=kinds, size_limit=300, **packed) as out:
            for sample in text:
                out.write(sample)
        expect(folder / name, text)
