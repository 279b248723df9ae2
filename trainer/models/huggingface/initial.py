"""Initial values of a foreign model by name: those that its own code would draw, learned on meta,
or those of a folder of safetensors. Neither has the model whole anywhere."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, final

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ....parallel import Initial, Normal, Ones, Zeros
from ...errors import ConfigError
from .architecture import Architecture

Named = tuple[tuple[str, Initial], ...]


@final
@dataclass(frozen=True, slots=True)
class ZeroRow:
    """Another initial value with one row of zeros: the embedding of a token that is padding."""

    values: Initial
    row: int

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        drawn = self.values.draw(shape, generator)
        drawn[self.row] = 0
        return drawn


@final
@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a safetensors file, whatever the seed."""

    path: Path
    key: str

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        with safe_open(self.path, framework="pt") as file:
            found: Tensor = file.get_tensor(self.key)
        if found.shape != tuple(shape):
            raise ConfigError(
                f"model.path: found {self.key} of shape {tuple(found.shape)} in {self.path}, "
                f"needed {tuple(shape)} by the configuration; correct model.config"
            )
        return found.to(torch.float32, copy=True)


def own_initial(architecture: Architecture) -> Named:
    """The initial values that the model's own code gives, by name; () where it draws something
    that has no name here, or leaves a buffer to its constructor: then the constructor decides.

    The numbers themselves are keepstep's: one stream for each name.
    """
    with torch.device("meta"):
        model = architecture.build()
        notes = _Notes()
        with torch.no_grad(), notes:
            _apply(model, model)
            # transformers ties the head to the embedding only after it has set both.
            model._init_weights(model.get_input_embeddings())
    found = {}
    for name, parameter in model.named_parameters():
        initial = notes.values.get(id(parameter))
        if initial is None:
            return ()
        found[escape(name)] = initial
    if any(id(buffer) not in notes.copied for buffer in model.buffers()):
        return ()
    return tuple(found.items())


def _apply(module: nn.Module, owner: Any) -> None:
    """Has each module's values set by the model it belongs to, children first, as transformers'
    initialize_weights does; that one would pass over what the constructor has done already."""
    for child in module.children():
        _apply(child, child if hasattr(child, "_init_weights") else owner)
    owner._init_weights(module)


class _Notes(TorchDispatchMode):
    """What is written into tensors, by their identity; on meta nothing else happens."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[int, Initial | None] = {}
        self.copied: set[int] = set()
        self._rows: dict[int, tuple[int, int]] = {}
        self._kept: list[Any] = []  # an id stands for an object only while that lives

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.name().partition("::")[2].partition(".")[0]
        if name == "select" and args[1] == 0:
            self._rows[id(output)] = (id(args[0]), args[2])
        elif name.endswith("_") and isinstance(args[0], Tensor):
            self._note(name, args)
        self._kept.append((args, output))
        return output

    def _note(self, name: str, args: tuple[Any, ...]) -> None:
        target = id(args[0])
        self.copied.add(target)
        if target in self._rows:
            whole, row = self._rows[target]
            values = self.values.get(whole)
            is_known = name == "zero_" and values is not None
            self.values[whole] = ZeroRow(values, row) if is_known and values else None
        else:
            known = _KNOWN.get(name)
            self.values[target] = None if known is None else known(*args[1:])


def _filled(value: float) -> Initial | None:
    known: dict[float, Initial] = {0.0: Zeros(), 1.0: Ones()}
    return known.get(float(value))


_KNOWN: dict[str, Callable[..., Initial | None]] = {
    "normal_": lambda mean=0.0, std=1.0, **_: Normal(std=std, mean=mean),
    "zero_": Zeros,
    "fill_": _filled,
}


def stored_initial(architecture: Architecture) -> Named:
    """The values in the architecture's folder, by name; () where it holds no safetensors.

    Raises:
        ConfigError: a parameter is in none of the files.
    """
    folder = architecture.folder
    files = {} if folder is None or not folder.is_dir() else dict(_keys(folder))
    if not files:
        return ()
    with torch.device("meta"):
        model = architecture.build()
    found = []
    for name, _ in model.named_parameters():
        # Files of a model without its head lack the name of the body.
        key = next((k for k in (name, name.partition(".")[2]) if k in files), None)
        if key is None:
            raise ConfigError(
                f"model.path={folder}: found no weight {name} in its safetensors, needed one for "
                f"every parameter of {architecture.name}; take the folder of that architecture"
            )
        found.append((escape(name), Stored(files[key], key)))
    return tuple(found)


def _keys(folder: Path) -> Iterator[tuple[str, Path]]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = json.loads(index.read_text())["weight_map"]
        # A name and no path: what an index names lies beside it.
        yield from ((key, folder / Path(name).name) for key, name in files.items())
        return
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            yield from ((key, path) for key in file.keys())  # noqa: SIM118 - no mapping
