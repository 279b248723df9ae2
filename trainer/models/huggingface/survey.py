"""What the layout must know of a foreign model, learned by one call on meta that moves no number:
which modules compute in which order, and whether each takes just what the one before it gave.

The order of the trunk, which pipelines rely on:

    embedding -> first modules -> blocks -> last modules -> head
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ....parallel import Attend
from ...errors import ConfigError
from .architecture import Architecture


@dataclass(frozen=True, slots=True)
class Names:
    """Where the parts of the model are."""

    body: str
    """The model without its head."""
    head: str
    embedding: str
    blocks: str
    """The list of the repeated blocks."""
    table: str | None = None
    """An embedding of positions that is added to that of the tokens."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What was learned of one architecture."""

    names: Names
    is_tied: bool
    """Whether the head's weight is the embedding's."""
    heads: tuple[int, int]
    """Query heads and key-value heads, the fewest of any block."""
    attention_width: int
    """Query heads x head width, summed over the blocks."""
    first: tuple[str, ...] = ()
    """Modules between the embedding and the blocks, it included."""
    last: tuple[str, ...] = ()
    """Modules between the blocks and the head, it included."""
    uncut: str | None = None
    """Why the model cannot be cut into stages, to follow `which`; None: it can."""


@dataclass(slots=True)
class _Seen:
    """One call of a module."""

    name: str
    module: nn.Module
    first: Any
    others: tuple[Any, ...]
    output: Any


@dataclass(slots=True)
class _Attention:
    """The attentions that were called, in order."""

    shapes: list[tuple[torch.Size, torch.Size]] = field(default_factory=list)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, documents: Any, **_: Any) -> Tensor:
        if documents is None:
            raise ValueError("its blocks do not hand keywords on to their attention")
        self.shapes.append((q.shape, k.shape))
        return v.repeat_interleave(q.shape[1] // v.shape[1], 1)


def survey(architecture: Architecture, *, sequence_length: int) -> Survey:
    """Learns an architecture, by a model on meta and a call with that many tokens.

    Raises:
        ConfigError: the model computes something that keepstep would compute otherwise.
    """
    _check_rotary(architecture)
    attention = _Attention()
    with torch.device("meta"), _as_refusal(architecture):
        model = architecture.build().train()
        names = _names(architecture, model)
        for module in model.modules():
            if isinstance(module, Attend):
                module.core = attention
        tokens = torch.zeros(1, sequence_length, dtype=torch.int64)
        positions = torch.arange(sequence_length).unsqueeze(0)
        embedded = model.get_input_embeddings()(tokens)
        seen = _watched(model, names, embedded, positions)
    count = len(model.get_submodule(names.blocks))
    if len(attention.shapes) != count:
        raise ConfigError(
            f"model.architecture: found {len(attention.shapes)} attentions in the {count} blocks "
            f"of {architecture.name}, needed one in each that transformers lets others compute; "
            "take another architecture"
        )
    _check_head(architecture, model, names, seen)
    first, last, table, uncut = _trunk(names, embedded, positions, seen)
    return Survey(
        names=Names(names.body, names.head, names.embedding, names.blocks, table),
        is_tied=bool(architecture.config.tie_word_embeddings),
        heads=(min(q[1] for q, _ in attention.shapes), min(k[1] for _, k in attention.shapes)),
        attention_width=sum(q[1] * q[3] for q, _ in attention.shapes),
        first=(names.embedding, *first),
        last=(*last, names.head),
        uncut=uncut,
    )


@contextlib.contextmanager
def _as_refusal(architecture: Architecture) -> Iterator[None]:
    """Foreign code that cannot be built, or called on meta: whatever it raises, in one sentence."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"model.architecture: found {architecture.name}, which cannot be built and called as "
            f"plain decoders are ({type(error).__name__}: {reason}), needed one that can; correct "
            "model.config, or take another architecture"
        ) from error


def _names(architecture: Architecture, model: Any) -> Names:
    body, head = model.base_model_prefix, model.get_output_embeddings()
    path = {id(module): name for name, module in model.named_modules()}
    lists = [
        name for name, child in model.named_modules() if isinstance(child, nn.ModuleList) and child
    ]
    has_bias = getattr(head, "bias", None) is not None
    if type(head) is not nn.Linear or has_bias or not lists or not hasattr(model, body):
        raise ConfigError(
            f"model.architecture: found {architecture.name}, whose output layer is "
            f"{'one with a bias' if has_bias else type(head).__name__}, needed blocks in a list "
            "and a plain linear layer without bias after them; take another architecture"
        )
    return Names(body, path[id(head)], path[id(model.get_input_embeddings())], lists[0])


def _watched(model: Any, names: Names, embedded: Tensor, positions: Tensor) -> list[_Seen]:
    """Calls the model; what its trunk and its head were called with, in the order of their ends."""
    seen: list[_Seen] = []
    trunk = names.blocks.rpartition(".")[0]
    watched = [f"{trunk}.{name}" for name, _ in model.get_submodule(trunk).named_children()]
    watched += [f"{names.blocks}.{at}" for at in range(len(model.get_submodule(names.blocks)))]
    for name in (*watched, names.body, names.head):
        module = model.get_submodule(name)
        if not isinstance(module, nn.ModuleList) and name != names.embedding:
            module.register_forward_hook(_note(seen, name), with_kwargs=True)
    documents = torch.zeros_like(positions)
    logits = model(
        inputs_embeds=embedded, position_ids=positions, use_cache=False, documents_BT=documents
    ).logits
    seen.append(_Seen("", model, None, (), logits))
    return seen


def _note(seen: list[_Seen], name: str) -> Any:
    def note(module: nn.Module, args: Any, arguments: dict[str, Any], output: Any) -> None:
        first, *rest = args or (None,)
        seen.append(_Seen(name, module, first, (*rest, *arguments.values()), output))

    return note


def _check_rotary(architecture: Architecture) -> None:
    """Frequencies that follow from the longest position of a call differ from rank to rank where
    each has a part of a sequence, and from batch to batch."""
    rope = getattr(architecture.config, "rope_parameters", None) or {}
    for one in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if one.get("rope_type") in ("dynamic", "longrope"):
            raise ConfigError(
                f"model.config.rope_parameters: found rope_type {one['rope_type']}, whose "
                "frequencies follow from each call's length, needed fixed ones; take default, "
                "linear, llama3 or yarn"
            )


def _check_head(
    architecture: Architecture, model: nn.Module, names: Names, seen: list[_Seen]
) -> None:
    """The head is called in place of transformers' code around it, so that must add nothing."""
    by_name = {one.name: one for one in seen}
    body, head = by_name.get(names.body), by_name[names.head]
    is_plain = body is not None and _is_same(head.first, body.output.last_hidden_state)
    if not (is_plain and by_name[""].output is head.output):
        raise ConfigError(
            f"model.architecture: found {architecture.name}, which changes its logits or what "
            "they are made of beside its output layer (a cap or a scale of logits), needed the "
            "plain layer; set model.config.final_logit_softcapping=null where it has that, or "
            "take another architecture"
        )


def _is_same(tensor: Any, other: Any) -> bool:
    """Whether two tensors are one, or views of one in the same shape."""
    if not (isinstance(tensor, Tensor) and isinstance(other, Tensor)):
        return False
    bases = [one if one._base is None else one._base for one in (tensor, other)]
    return bases[0] is bases[1] and tensor.shape == other.shape


def _trunk(
    names: Names, embedded: Tensor, positions: Tensor, seen: list[_Seen]
) -> tuple[tuple[str, ...], tuple[str, ...], str | None, str | None]:
    """First modules, last modules, the table of positions, and why there can be no stages."""
    blocks = [at for at, one in enumerate(seen) if one.name.startswith(f"{names.blocks}.")]
    passed, table, first, last = embedded, None, [], []
    for at, one in enumerate(seen):
        if one.name in (names.body, names.head, ""):
            continue
        if not (_has_work(one.module) or at in blocks):
            continue  # computed anew on every stage, such as rotary tables
        if at < blocks[0] and isinstance(one.module, nn.Embedding) and one.first is positions:
            table, is_next = one, True
        else:
            is_next = one.first is passed or (table is not None and _is_sum(one, passed, table))
            passed = one.output
        if not is_next or not isinstance(passed, Tensor) or _leaks(one):
            return (), (), None, f"gives {one.name} more than what the module before it gives"
        first += [one.name] if at < blocks[0] else []
        last += [one.name] if at > blocks[-1] else []
    whole = next(one.output.last_hidden_state for one in seen if one.name == names.body)
    if not _is_same(whole, passed):
        return (), (), None, "changes what its last module gives"
    return tuple(first), tuple(last), None if table is None else table.name, None


def _has_work(module: nn.Module) -> bool:
    is_random = any(isinstance(child, nn.Dropout) for child in module.modules())
    return is_random or any(True for _ in module.parameters())


def _is_sum(one: _Seen, embedded: Tensor, table: _Seen) -> bool:
    """Whether a module was given the embedding of tokens plus that of positions and no more."""
    node = getattr(one.first, "grad_fn", None)
    parts = {id(parent) for parent, _ in node.next_functions} if node is not None else set()
    wanted = {id(embedded.grad_fn), id(table.output.grad_fn)}
    return node is not None and node.name() == "AddBackward0" and parts == wanted


def _leaks(one: _Seen) -> bool:
    """Whether a gradient flows into a module by another way than its first argument."""
    return any(tensor.requires_grad for tensor in _tensors(one.others))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
