"""Every pair of layouts: what the one saved out of its slots, the other loads, bit for bit."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import xxhash
from support.layouts import like
from support.training import Corpus, life_of
from support.world import run_world
from torch import Tensor
from torch.distributed.tensor import DTensor

from keepstep.checkpoint import Cargo, Checkpoints, LocalStore, commit, committed
from keepstep.checkpoint.slots import SlotFile, Snapshots, newest
from keepstep.parallel import Exchange, leave
from keepstep.trainer import RunConfig, Trainer
from keepstep.trainer.build import build
from keepstep.trainer.language_model import language_model
from keepstep.trainer.saving import image_of
from keepstep.trainer.state import State, digest

# The ranks it takes, the degrees, and the samples of a micro-batch.
LAYOUTS: dict[str, tuple[int, dict[str, int], int]] = {
    "one": (1, {}, 8),
    "shard2": (2, {"shard": 2}, 8),
    "tensor2": (2, {"tensor": 2}, 8),
    "pipeline2": (2, {"pipeline": 2}, 2),
    "shard4": (4, {"shard": 4}, 4),
    "replicate2-shard2": (4, {"replicate": 2, "shard": 2}, 4),
    "tensor2-shard2": (4, {"tensor": 2, "shard": 2}, 8),
    "pipeline2-shard2": (4, {"pipeline": 2, "shard": 2}, 2),
}
# Tied, and with an odd number of rows, which no degree divides.
MODEL = (
    "model.num_layers=2",
    "model.num_kv_heads=2",
    "model.tie_embeddings=true",
    "model.vocabulary_size=301",
)


def fill(state: State, make: Callable[[str, Tensor], Tensor]) -> None:
    """Gives every tensor values of its own, the same on every layout."""
    with torch.no_grad():
        for name, tensor in state.tensors.items():
            tensor.copy_(like(tensor, make(name, tensor)))
    state.copy_to_twins()


def by_name(name: str, tensor: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(xxhash.xxh32_intdigest(name.encode()))
    return torch.randn(tensor.shape, generator=generator)


def local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def save(trainer: Trainer, state: State, folder: Path, exchange: Exchange) -> None:
    """As worker and guardian do it: into a slot, and from there to the disk."""
    slots = [SlotFile.unnamed()]
    image = image_of(trainer.job, state, trainer.life)
    snapshots = Snapshots(slots, [], image, volatile=state.buffers, say=print)
    snapshots.open()
    topology = trainer.job.topology.describe()
    cargo = Cargo(step=1, topology=topology, progress={"samples": 4}, lineage={})
    assert snapshots.begin(state.tensors, cargo) == 0
    snapshots.settle()
    (held,) = newest(slots)
    commit(LocalStore(folder), exchange, held, cargo)


def each(
    plain: RunConfig, folder: Path, phase: str, rank: int, size: int
) -> Iterator[tuple[str, Trainer, State, Exchange]]:
    """Every layout of so many ranks in turn, built in this process."""
    for name, (ranks, degrees, samples) in LAYOUTS.items():
        if ranks == size:
            config = replace(
                plain,
                parallel=replace(plain.parallel, **degrees),
                train=replace(plain.train, microbatch_samples=samples),
            )
            life = life_of(rank, size, str(folder / f"meeting-{phase}-{name}"))
            trainer = Trainer(build(config, language_model, life), life)
            yield name, trainer, trainer._state(), Exchange(trainer.job.topology.control)
            trainer.job.loader.close()
            leave()


def misread(trainer: Trainer, state: State, exchange: Exchange, folder: Path) -> list[str]:
    """Collective: the layouts whose saves do not come back as they were."""
    fill(state, by_name)
    wanted = {name: local(tensor).clone() for name, tensor in state.tensors.items()}
    wrong, holders = [], trainer.job.topology.holders
    for writer in LAYOUTS:
        for tensor in state.tensors.values():
            local(tensor).zero_()
        place = Checkpoints(LocalStore(folder / writer), exchange, keep=1, holders=holders)
        restored = place.restore(state.tensors)
        is_same = all(torch.equal(local(state.tensors[n]), one) for n, one in wanted.items())
        if restored is None or restored.damaged or not is_same:
            wrong.append(writer)
    return wrong


@pytest.mark.slow
def test_every_layout_loads_what_any_other_saved(corpus: Corpus, tmp_path: Path) -> None:
    """Worlds of one, two and four ranks side by side: each saves on all its layouts, waits for the
    others, and loads what all have saved."""
    plain = corpus.config(tmp_path / "run", *MODEL)
    places = [(0, 1), *((rank, 2) for rank in range(2)), *((rank, 4) for rank in range(4))]

    def body(number: int) -> tuple[dict[str, str], dict[str, list[str]]]:
        rank, size = places[number]
        digests, wrong = {}, {}
        for name, trainer, state, exchange in each(plain, tmp_path, "save", rank, size):
            fill(state, by_name)
            save(trainer, state, tmp_path / name, exchange)
            digests[name] = digest(state.saved, exchange)
        while not all(committed(LocalStore(tmp_path / name)) for name in LAYOUTS):
            time.sleep(0.02)
        for name, trainer, state, exchange in each(plain, tmp_path, "load", rank, size):
            wrong[name] = misread(trainer, state, exchange, tmp_path)
        return digests, wrong

    found = run_world(len(places), body, join=False, timeout_seconds=120.0)
    digests = {name: one for mine, _ in found for name, one in mine.items()}
    assert sorted(digests) == sorted(LAYOUTS)
    assert len(set(digests.values())) == 1
    readers = [(name, wrong) for _, read in found for name, wrong in read.items()]
    assert len(readers) == sum(ranks for ranks, _, _ in LAYOUTS.values())
    assert [pair for pair in readers if pair[1]] == []
