"""What the ranks hold together: dtype, shape and number of boxes of every name on any of them.

Each rank asks all and comes to the same answer; what follows from it is for others to say.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .dtypes import dtype_name
from .exchange import Exchange, RanksFailedError, gather_distinct
from .layout import Local, State, local_chunks, num_boxes


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """A tensor in full form; `boxes` is how many its layout cuts it into."""

    dtype: str
    shape: tuple[int, ...]
    boxes: int

    @property
    def kind(self) -> str:
        """What must be equal wherever the name is: `float32[4, 3]`."""
        return spell(self.dtype, self.shape)


def spell(dtype: str, shape: Sequence[int]) -> str:
    """Dtype and shape as people read them, such as `float32[4, 3]`."""
    return f"{dtype}{list(shape)}"


def gather_specs(exchange: Exchange, state: State) -> dict[str, Spec]:
    """Collective: as `merge_specs`, of live states.

    Raises:
        ValueError: also for a dtype or placement that checkpoints do not hold, on any rank.
    """
    return gather_boxes(exchange, state)[0]


def gather_boxes(exchange: Exchange, state: State) -> tuple[dict[str, Spec], list[Local]]:
    """Collective: as `gather_specs`, and what of them this rank holds, as `local_chunks`."""
    held: list[Local] = []

    def own() -> dict[str, Spec]:
        held.extend(local_chunks(state))
        return describe(state)

    return merge_specs(exchange, own), held


def describe(state: State) -> dict[str, Spec]:
    """The names of this rank's state, without asking anyone.

    Raises:
        ValueError: for a dtype that a checkpoint cannot hold; placements are not looked at.
    """
    return {
        name: Spec(
            dtype=dtype_name(tensor.dtype), shape=tuple(tensor.shape), boxes=num_boxes(tensor)
        )
        for name, tensor in sorted(state.items())
    }


def merge_specs(exchange: Exchange, own: Callable[[], Mapping[str, Spec]]) -> dict[str, Spec]:
    """Collective: every name that any rank has, sorted; the same answer on every rank.

    A name of several layouts (a tied weight that two stages load) counts once, as the one with
    the most boxes.

    Raises:
        ValueError: on every rank, if `own` raised it on any, or for a name with which two ranks
            mean different tensors.
    """
    found: dict[str, Spec] = {}
    first: dict[str, int] = {}
    known: set[bytes] = set()
    for rank, answer in enumerate(_answers(exchange, own)):
        if answer in known:
            continue
        known.add(answer)
        for name, (dtype, shape, boxes) in json.loads(answer).items():
            spec, other = Spec(dtype=dtype, shape=tuple(shape), boxes=boxes), found.get(name)
            if other and other.kind != spec.kind:
                raise ValueError(
                    f"Tensor {name} of the state is {other.kind} on rank {first[name]} and "
                    f"{spec.kind} on rank {rank}, but must be the same wherever it is held: rename "
                    "one of them."
                )
            found[name] = max(spec, other or spec, key=lambda one: one.boxes)
            first.setdefault(name, rank)
    return dict(sorted(found.items()))


def _answers(exchange: Exchange, own: Callable[[], Mapping[str, Spec]]) -> list[bytes]:
    try:
        return gather_distinct(exchange, lambda: _encode(own()))
    except RanksFailedError as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise ValueError(
            f"The state was refused on other ranks: {error}, but every rank must hold what "
            "checkpoints hold: mend it there."
        ) from error


def _encode(own: Mapping[str, Spec]) -> bytes:
    record = {name: [own[name].dtype, own[name].shape, own[name].boxes] for name in sorted(own)}
    return json.dumps(record, separators=(",", ":")).encode()
