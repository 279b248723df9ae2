"""Any parallel layout's checkpoint loads on every other, each made by torch's own wrappers."""

import contextlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch._dynamo  # FSDP2 imports it with the first module: most of a second in each forked rank
from support.world import run_world
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard

from keepstep.checkpoint import CheckpointError, Checkpoints, LocalStore, MismatchError
from keepstep.checkpoint.layout import local_chunks
from keepstep.checkpoint.manifest import decode
from keepstep.checkpoint.tiling import check_tiling

TIED = "embed.weight"
FIRST_STAGE = ("embed", "up", "norm")


@dataclass(frozen=True, kw_only=True)
class Layout:
    stage: int = 1
    replicate: int = 1
    shard: int = 1
    tensor: int = 1
    expert: int = 1

    @property
    def size(self):
        return self.stage * self.replicate * self.shard * self.tensor * self.expert


LAYOUTS = {
    "solo": Layout(),
    "shard2": Layout(shard=2),
    "tensor2": Layout(tensor=2),
    "shard4": Layout(shard=4),
    "tensor4": Layout(tensor=4),
    "shard2 tensor2": Layout(shard=2, tensor=2),
    "replicate2 tensor2": Layout(replicate=2, tensor=2),
    "stage2 shard2": Layout(stage=2, shard=2),
    "stage2 tensor2": Layout(stage=2, tensor=2),
    "shard2 expert2": Layout(shard=2, expert=2),
}


class Model(nn.Module):
    """Sizes that neither two nor four ranks divide, where FSDP2 takes them."""

    def __init__(self, seed):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.up = nn.Linear(6, 9)
        self.norm = nn.LayerNorm(9)
        self.down = nn.Linear(9, 6)
        self.experts = nn.ParameterDict({"weight": torch.empty(5, 3, 2)})
        self.head = nn.Linear(6, 7, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def spread(layout, seed):
    """The model's state on this world's ranks, and the ranks of this rank's stage."""
    model = Model(seed)
    inner = layout.tensor * layout.expert
    axes = {"stage": layout.stage, "replicate": layout.replicate, "shard": layout.shard}
    mesh = init_device_mesh(
        "cpu", (*axes.values(), inner), mesh_dim_names=(*axes, "tensor or expert")
    )
    fsdp = mesh["replicate", "shard"] if layout.replicate > 1 else mesh["shard"]
    if layout.tensor > 1:
        plan = {
            "embed": RowwiseParallel(input_layouts=Replicate()),
            "up": ColwiseParallel(),
            "down": RowwiseParallel(),
            "head": ColwiseParallel(),
        }
        parallelize_module(model, mesh["tensor or expert"], plan)
        place(model, mesh["tensor or expert"], Replicate())
        fully_shard(model, mesh=fsdp)
    elif layout.expert > 1:
        place(model.experts, mesh["tensor or expert"], Shard(0))
        fully_shard(model.experts, mesh=fsdp)
        fully_shard(model, mesh=init_device_mesh("cpu", (layout.size,)))
    else:
        fully_shard(model, mesh=fsdp)
    ranks = mesh["replicate", "shard", "tensor or expert"].mesh.flatten().tolist()
    return named(model), sorted(ranks), mesh.get_local_rank("stage")


def place(module, mesh, placement):
    """Puts each parameter that no plan has placed on the mesh of the tensor or expert axis."""
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if not isinstance(parameter, DTensor):
                spread = distribute_tensor(parameter.detach(), mesh, [placement])
                owner.register_parameter(name, nn.Parameter(spread))


def named(model):
    state = {}
    for name, parameter in model.named_parameters():
        state[f"model.{name}"] = parameter.detach()
        state[f"optim.{name}.exp_avg"] = parameter.detach() * 0.5
        state[f"optim.{name}.step"] = torch.tensor(float(len(name)))
    return state


def of_stage(state, layout, stage, *, reads=False):
    """What one stage writes; it also reads the tied weight if it is the last."""
    if layout.stage == 1:
        return state
    own = {n: t for n, t in state.items() if (n.split(".")[1] in FIRST_STAGE) == (stage == 0)}
    tied = {n: t for n, t in state.items() if reads and stage == 1 and n == f"model.{TIED}"}
    return own | tied


def local(tensor):
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def write(kit, root, layout, seed=1):
    state, ranks, stage = spread(layout, seed)
    checkpoints = Checkpoints(LocalStore(root), kit.GlooExchange(), keep=1, holders=ranks)
    saved = kit.save(checkpoints, of_stage(state, layout, stage), 7)
    needed = checkpoints.needed_bytes(of_stage(state, layout, stage))
    return checkpoints, saved, needed


def of_size(size):
    return [name for name, layout in LAYOUTS.items() if layout.size == size]


@pytest.fixture(scope="module")
def written(kit, tmp_path_factory):
    """A folder with one checkpoint a layout, each in a place of its own, named for the layout."""
    root = tmp_path_factory.mktemp("parallel")

    def body(rank, names):
        return [write(kit, root / name, LAYOUTS[name])[1:] for name in names]

    for size in (1, 2, 4):
        for outcome in run_world(size, body, of_size(size)):
            for saved, needed in outcome:
                assert saved.bytes < needed < saved.bytes + 80_000
    return root


@pytest.mark.slow(but=["1", "2"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_checkpoint_of_any_parallel_layout_loads_on_every_other(kit, written, size):
    def body(rank):
        outcome = {}
        for name in of_size(size):
            layout = LAYOUTS[name]
            wanted, _, stage = spread(layout, 1)
            for saved in LAYOUTS:
                state = {n: torch.zeros_like(t) for n, t in wanted.items()}
                state = of_stage(state, layout, stage, reads=True)
                place = LocalStore(written / saved)
                assert Checkpoints(place, kit.GlooExchange(), keep=1).restore(state).step == 7
                outcome[name, saved] = [
                    n for n, t in state.items() if not torch.equal(local(t), local(wanted[n]))
                ]
        return outcome

    for outcome in run_world(size, body):
        assert len(outcome) == len(of_size(size)) * len(LAYOUTS)
        assert not any(outcome.values()), outcome


def test_these_layouts_have_strided_shards_uneven_parts_and_empty_ones(written):
    def body(rank):
        state, _, _ = spread(LAYOUTS["shard2 tensor2"], 1)
        is_strided = type(state["model.up.weight"].placements[0]) is _StridedShard
        return is_strided, tuple(local(state["model.up.weight"]).shape)

    assert run_world(4, body) == [(True, (3, 6)), (True, (2, 6)), (True, (2, 6)), (True, (2, 6))]
    (manifest,) = (written / "shard4").glob("*/manifest.json")
    chunks = decode(manifest.read_bytes(), path="here").chunks
    assert sum(chunk.name == "model.down.bias" for chunk in chunks) == 3


def test_boxes_are_the_parts_that_fsdp_made_where_torchs_own_arithmetic_names_others():
    """9 rows over 2 x 4 ranks: 5 and 4, the 5 as 2 2 1 0 and the 4 as 1 1 1 1."""
    full = torch.arange(18.0).view(9, 2)

    def body(rank):
        mesh = init_device_mesh("cpu", (4, 2), mesh_dim_names=("shard", "tensor"))
        linear = nn.Linear(2, 9, bias=False)
        linear.load_state_dict({"weight": full})
        parallelize_module(linear, mesh["tensor"], ColwiseParallel())
        fully_shard(linear, mesh=mesh["shard"])
        held = local_chunks({"weight": linear.weight})
        for chunk, part in held:
            rows = slice(chunk.offsets[0], chunk.offsets[0] + chunk.shape[0])
            assert torch.equal(part, full[rows])
        return [chunk for chunk, _ in held]

    chunks = [chunk for held in run_world(8, body) for chunk in held]
    assert len(chunks) == 7
    check_tiling(chunks)


def test_the_ranks_of_each_layout_share_the_writing_and_write_each_box_once(written):
    for name, layout in LAYOUTS.items():
        (manifest,) = (written / name).glob("*/manifest.json")
        found = decode(manifest.read_bytes(), path="here")
        assert len(found.files) == layout.size
        names = {chunk.name for chunk in found.chunks}
        assert names == named(Model(1)).keys()
        counted = sum(chunk.end - chunk.start for chunk in found.chunks)
        assert counted == sum(tensor.nbytes for tensor in named(Model(1)).values())


def test_a_rank_reads_only_chunks_that_meet_its_own_boxes(kit, written, monkeypatch):
    def body(rank):
        layout = LAYOUTS["stage2 shard2"]
        state, _, stage = spread(layout, 1)
        state, read = of_stage(state, layout, stage), []
        inner = LocalStore.opened

        @contextlib.contextmanager
        def opened(self, name):
            def noted(start, *buffers):
                ends = itertools.accumulate(map(len, buffers), initial=start)
                read.extend((name.split("/")[1], at) for at, _ in zip(ends, buffers, strict=False))
                return fill(start, *buffers)

            with inner(self, name) as fill:
                yield noted

        monkeypatch.setattr(LocalStore, "opened", opened)
        place = LocalStore(written / "stage2 shard2")
        Checkpoints(place, kit.GlooExchange(), keep=1).restore(state)
        return read

    (manifest,) = (written / "stage2 shard2").glob("*/manifest.json")
    chunks = decode(manifest.read_bytes(), path="here").chunks
    for rank, read in enumerate(run_world(4, body)):
        own = [start for file, start in read if file != "manifest.json" and start]
        # What it reads is what it wrote, and of plain tensors what its stage's other rank wrote.
        of_file = {(c.file, c.start): c for c in chunks}
        touched = [of_file[at] for at in read if at in of_file]
        assert len(touched) == len(own)
        stage = {0: {0, 1}, 1: {2, 3}}[rank // 2]
        for chunk in touched:
            writer = int(chunk.file[5:10])
            assert writer in stage
            assert writer == rank or not chunk.global_shape


def test_names_are_judged_over_all_ranks_and_every_rank_raises_the_same(kit, tmp_path):
    def body(rank):
        layout = LAYOUTS["stage2 shard2"]
        checkpoints, _, _ = write(kit, tmp_path, layout)
        state, _, stage = spread(layout, 2)
        state = of_stage(state, layout, stage)
        if rank == 0:
            state["extra.of_rank_0"] = torch.zeros(1)
        if rank == 2:
            del state["optim.head.weight.step"]  # still on rank 3
        if stage == 1:
            del state["model.head.weight"]
            state["optim.down.bias.step"] = torch.zeros(2)
        before = {name: local(tensor).clone() for name, tensor in state.items()}
        with pytest.raises(MismatchError) as caught:
            checkpoints.restore(state)
        assert all(torch.equal(local(state[name]), one) for name, one in before.items())
        return caught.value.missing, caught.value.unexpected, caught.value.differing

    differing = ["optim.down.bias.step: saved float32[], live float32[2]"]
    wanted = (["extra.of_rank_0"], ["model.head.weight"], differing)
    assert run_world(4, body) == [wanted] * 4


def test_a_plain_tensor_left_to_a_rank_without_it_fails_the_save(kit, tmp_path):
    def body(rank):
        checkpoints = Checkpoints(LocalStore(tmp_path), kit.GlooExchange(), keep=1)
        state = {f"stage{rank}.w{index}": torch.ones(3) for index in range(2)}
        with pytest.raises(CheckpointError, match=r"2 tensors were written by no rank \(stage0\.w"):
            kit.save(checkpoints, state, 1)
        return list(Path(tmp_path).iterdir())

    assert run_world(2, body) == [[], []]


def test_holders_without_this_rank_are_refused(kit, tmp_path):
    def body(rank):
        with pytest.raises(ValueError, match=r"holders: found the ranks \[1\] on rank 0, needed"):
            Checkpoints(LocalStore(tmp_path), kit.GlooExchange(), keep=1, holders=[1 - rank])

    run_world(1, body)
