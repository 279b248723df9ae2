"""A plan for a model of transformers, derived from its own tensor-parallel plan and from what one
call on meta shows of it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import metadata
from typing import Any

import torch
from torch import nn

from ....parallel import Cut, ParallelConfig, Plan, Style
from ...errors import ConfigError
from .adapter import HuggingFace
from .architecture import Architecture
from .initial import own_initial, stored_initial
from .survey import Survey, survey

# transformers/distributed/tensor_parallel.py. What is not here means something that Style cannot
# say: packed matrices, experts, latent attention.
_STYLES = {
    "colwise": Style.column,
    "rowwise": Style.row,
    "replicated_with_grad_allreduce": Style.heads,
    "sequence_parallel": Style.sequence,
    "replicate": Style.replicate,
}
_NEEDED = {
    "tensor": "styles for all of its matrices to cut them",
    "pipeline": "blocks that hand on one tensor each to cut between them",
}


@dataclass(frozen=True, slots=True)
class Described:
    """An architecture with its plan."""

    architecture: Architecture
    survey: Survey
    plan: Plan
    untensored: str | None
    """Why tensor parallelism cannot cut it, to follow `which`; None: it can."""

    @property
    def uncut(self) -> str | None:
        """Why pipelines cannot cut it, to follow `which`; None: they can."""
        return self.survey.uncut

    def check(self, parallel: ParallelConfig) -> None:
        """Refuses degrees that the plan does not have, with the reason.

        Raises:
            ConfigError: tensor parallelism or pipelines are asked for, and cannot be had.
        """
        reasons = {"tensor": self.untensored, "pipeline": self.uncut}
        for axis, reason in reasons.items():
            degree = getattr(parallel, axis)
            if degree > 1 and reason is not None:
                raise ConfigError(
                    f"parallel.{axis}: found {degree} for {self.architecture.name}, which "
                    f"{reason}, needed {_NEEDED[axis]}; set parallel.{axis}=1 and let "
                    "parallel.shard have the ranks"
                )

    def build(self, *, chunk_tokens: int = 1024) -> HuggingFace:
        """A new module, on the device of the context."""
        return HuggingFace(self.architecture, self.survey, chunk_tokens=chunk_tokens)


def describe(architecture: Architecture, *, sequence_length: int) -> Described:
    """Derives the plan of an architecture for sequences of that length; builds on meta only.

    Weights in the architecture's folder are what training begins with, else its own distributions.

    Raises:
        ConfigError: the model computes something that keepstep would compute otherwise, or the
            folder's weights are not this model's.
    """
    seen = survey(architecture, sequence_length=sequence_length)
    with torch.device("meta"):
        model = architecture.build()
    styles, is_sequence, untensored = _styles(model, seen)
    names, block = seen.names, f"{seen.names.blocks}.*"
    plan = Plan(
        units=(block,),
        initial=stored_initial(architecture) or own_initial(architecture),
        tied=((f"{names.head}.weight", f"{names.embedding}.weight"),) if seen.is_tied else (),
        tensor=styles,
        has_sequence=is_sequence,
        heads=seen.heads,
        cut=None if seen.uncut else Cut(first=seen.first, blocks=block, last=seen.last),
        sequence_inputs=("tokens_BT", "targets_BT", "positions_BT", "documents_BT"),
        positions="positions_BT",
        flops_per_token=_flops_per_token(model, seen, sequence_length),
    )
    return Described(architecture, seen, plan, untensored)


Styles = tuple[tuple[str, Style], ...]


def _styles(model: Any, seen: Survey) -> tuple[Styles, bool, str | None]:
    """Styles, whether what lies between may work on parts of sequences, and what is missing."""
    ends = (seen.names.embedding, seen.names.head)
    own = {glob: word for glob, word in (model.tp_plan or {}).items() if glob not in ends}
    version = f"transformers {metadata.version('transformers')}"
    if not own:
        return (), False, f"has no tensor-parallel plan in {version}"
    for glob, word in own.items():
        if word not in _STYLES:
            return (), False, f"has the style {word} for {glob} in {version}"
    styles = {glob: _STYLES[word] for glob, word in own.items()}
    parents = {
        glob.rpartition(".")[0]: Style.gather
        for glob, style in styles.items()
        if style in (Style.column, Style.row)
    }
    inside = {glob: style for glob, style in parents.items() if glob != f"{seen.names.blocks}.*"}
    styles |= {**inside, **dict.fromkeys(ends, Style.vocabulary)}
    owners = {name: child for name, child in model.named_modules() if _owns(child)}
    rest = [name for name in owners if not any(fnmatchcase(name, glob) for glob in styles)]
    for name in rest:
        if any(fnmatchcase(name, f"{glob}.*") for glob in inside):
            return (), False, f"has no style for {name} in {version}"
    norms = [name for name in rest if "Norm" in type(owners[name]).__name__]
    is_sequence = len(inside) == len(parents) and len(norms) == len(rest)
    if is_sequence:
        number = re.compile(rf"^({re.escape(seen.names.blocks)})\.\d+\.")
        styles |= dict.fromkeys((number.sub(r"\1.*.", name) for name in norms), Style.sequence)
    every = [name for name, _ in model.named_modules()]
    return tuple(_found(styles, every)), is_sequence, None


def _owns(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _found(styles: dict[str, Style], names: list[str]) -> Iterator[tuple[str, Style]]:
    """The globs that match a module: plans speak of optional ones too."""
    for glob, style in styles.items():
        if any(fnmatchcase(name, glob) for name in names):
            yield glob, style


def _flops_per_token(model: nn.Module, seen: Survey, sequence_length: int) -> float:
    """6 a matrix weight and 12 x attention width x length, as `llama.flops_per_token` counts."""
    weights = sum(
        parameter.numel()
        for name, child in model.named_modules()
        if not isinstance(child, nn.Embedding) and name != seen.names.head
        for parameter in child.parameters(recurse=False)
        if parameter.dim() == 2
    )
    weights += model.get_parameter(f"{seen.names.head}.weight").numel()
    return float(6 * weights + 12 * seen.attention_width * sequence_length)
