"""`keepstep checkpoint export`: a checkpoint in the format of others."""

import json
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from ....checkpoint import Cargo
from ....checkpoint.formats import export_dcp, export_huggingface
from ....checkpoint.offline import Item, rename
from ....data import Tokenizer
from ...compose import read_config
from ...errors import ConfigError
from ...identity import CONFIG_FILE, TOKENIZER_FILE
from ...models.counterpart import Counterpart, counterpart
from ..datasets.progress import ByteProgress
from .card import card, tokenizer_config
from .places import Chosen, One, Rename, choose, rules, say

_MODEL, _EMA = "model.", "ema."


class Format(StrEnum):
    """Formats of others."""

    dcp = "dcp"
    huggingface = "huggingface"


class Dtype(StrEnum):
    """What floating-point weights are written in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def export_command(
    to: Annotated[Format, typer.Argument(help="dcp (torch) or huggingface (transformers).")],
    one: One,
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    renamed: Rename = None,
    ema: Annotated[
        bool, typer.Option("--ema", help="The averaged weights as the model's.")
    ] = False,
    dtype: Annotated[Dtype | None, typer.Option(help="Of weights; default: as saved.")] = None,
    shard_gigabytes: Annotated[float, typer.Option(help="Most of one file, 10^9 bytes.")] = 5.0,
    run: Annotated[Path | None, typer.Option(help="Folder with config.yaml.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer.json to go with it.")] = None,
) -> None:
    """Writes a checkpoint for other programs.

    Tensor by tensor. dcp: the whole state, names unchanged, for torch.distributed.checkpoint.load.
    huggingface: the model's weights, config.json, the tokenizer and a model card, for
    from_pretrained.

    Example: keepstep checkpoint export huggingface runs/a /tmp/a --dtype bfloat16
    """
    chosen = choose(one)
    items = _averaged(chosen, chosen.items()) if ema else chosen.items()
    items = items if dtype is None else [_cast(item, dtype) for item in items]
    progress = ByteProgress("written")
    if to is Format.dcp:
        export_dcp(rename(items, rules(renamed)), out, _cargo(chosen), progress=progress)
    else:
        folder = _run_folder(chosen, run)
        found, files = _beside(chosen, items, folder, tokenizer or folder / TOKENIZER_FILE)
        weights = rename(rename(items, found.rules), rules(renamed))
        export_huggingface(
            weights,
            out,
            config={**found.config, "dtype": _main_dtype(weights)},
            files=files,
            shard_bytes=int(shard_gigabytes * 1e9),
            progress=progress,
        )
    progress.close()
    typer.echo(str(out))


def _averaged(chosen: Chosen, items: list[Item]) -> list[Item]:
    """The items with the averaged weights in place of the model's, and without the average."""
    averaged = {item.name.removeprefix(_EMA): item for item in items if item.name.startswith(_EMA)}
    if not averaged:
        raise ConfigError(
            f"--ema: found no averaged weights in {chosen.address}, needed a run with "
            "optim.ema_decay above 0; leave --ema out"
        )
    found = []
    for item in items:
        twin = averaged.get(item.name.removeprefix(_MODEL))
        if item.name.startswith(_MODEL) and twin is not None:
            found.append(replace(twin, name=item.name))
        elif not item.name.startswith(_EMA):
            found.append(item)
    return found


def _cast(item: Item, dtype: Dtype) -> Item:
    is_weight = item.name.startswith(_MODEL) and "float" in item.dtype
    return (
        replace(item, dtype=dtype.value, read=partial(_read_as, item, dtype)) if is_weight else item
    )


def _read_as(item: Item, dtype: Dtype) -> torch.Tensor:
    kind: torch.dtype = getattr(torch, dtype.value)
    return item.read().to(kind)


def _cargo(chosen: Chosen) -> Cargo:
    found = chosen.manifest
    return Cargo(
        step=found.step, topology=found.topology, progress=found.progress, lineage=found.lineage
    )


def _run_folder(chosen: Chosen, run: Path | None) -> Path:
    folder = run or chosen.where.run
    if folder is None or not (folder / CONFIG_FILE).is_file():
        raise ConfigError(
            f"{chosen.address}: found no {CONFIG_FILE} {'in ' + str(run) if run else 'beside it'}, "
            "needed that of its run, which says what the model is; name its folder with --run"
        )
    return folder


def _beside(
    chosen: Chosen, items: list[Item], run: Path, tokenizer: Path
) -> tuple[Counterpart, dict[str, bytes]]:
    """The model's counterpart, and the files that go with its weights."""
    config, files = read_config(run / CONFIG_FILE), dict[str, bytes]()
    end_token = None
    if tokenizer.is_file():
        files[TOKENIZER_FILE] = tokenizer.read_bytes()
        end_token = Tokenizer.parse(files[TOKENIZER_FILE], tokenizer).end_token
        about = tokenizer_config(
            files[TOKENIZER_FILE], end_token=end_token, length=config.data.sequence_length
        )
        files["tokenizer_config.json"] = json.dumps(about, indent=2).encode()
    elif tokenizer.name != TOKENIZER_FILE or tokenizer.parent != run:
        raise ConfigError(f"--tokenizer: found no file {tokenizer}, needed a tokenizer.json")
    else:
        say(f"{run} has no {TOKENIZER_FILE}: the export has none either (--tokenizer names one)")
    shapes = {item.name: item.shape for item in items}
    found = counterpart(config, shapes, end_token=end_token)
    files["README.md"] = card(chosen.manifest, config, address=chosen.address).encode()
    return found, files


def _main_dtype(items: list[Item]) -> str:
    """The dtype of most bytes."""
    sizes: dict[str, int] = {}
    for item in items:
        sizes[item.dtype] = sizes.get(item.dtype, 0) + item.num_bytes
    return max(sizes, key=lambda name: sizes[name], default="float32")
