"""The loop that plain torchrun and nvidia-resiliency-ext restart: FSDP2, and torch's own
distributed checkpoint every 10 steps, the newest whole one loaded at the start."""

import shutil
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from llama import Llama, adamw, loss_of
from steps import Steps
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

SAVE_EVERY, KEPT = 10, 2


def train(folder: Path, *, generation: int) -> None:
    """Collective: steps without end, in the process group that is there."""
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = Llama()
    mesh = init_device_mesh("cpu", (world,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = adamw(model)
    generator = torch.Generator().manual_seed(rank)
    step, steps = load(folder, model, optimizer), Steps(folder)
    try:
        while True:
            loss = loss_of(model, generator)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            total = loss.detach()
            dist.all_reduce(total)
            step += 1
            if rank == 0:
                steps.write(step=step, generation=generation, world=world)
            if step % SAVE_EVERY == 0:
                save(folder, step, model, optimizer)
    finally:
        steps.close()


def saved(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first: the metadata are written when all else is."""
    return sorted(path.parent for path in folder.glob("step-*/.metadata"))


def load(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    found = saved(folder)
    if not found:
        return 0
    weights, moments = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=found[-1])
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
    return int(found[-1].name.removeprefix("step-"))


def save(folder: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": moments}
    dcp.save(state, checkpoint_id=folder / f"step-{step:08d}")
    if dist.get_rank() == 0:
        for old in saved(folder)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
