"""The loop that an engineer would write by hand in torch: FSDP2, accumulation, clipping, a cosine.

The other side of scripts/bench_step: same model, same samples a step, none of the runtime.
Prints one JSON list of seconds, one a step, on rank 0.
"""

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from keepstep.trainer.compose import compose
from keepstep.trainer.config import LlamaConfig
from keepstep.trainer.models.llama import Llama


def batches(folder: Path, length: int, share: int, rank: int):
    """Random samples of the token shards, `share` for this rank a step."""
    shards = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("train-*.npy"))]
    tokens = np.concatenate(shards)
    generator = np.random.default_rng(rank)
    while True:
        starts = generator.integers(0, len(tokens) - length - 1, share)
        rows = tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64)
        yield torch.from_numpy(rows)


def main(folder: Path, vocabulary_size: int, overrides: list[str]) -> None:
    config = compose(overrides)
    assert isinstance(config.model, LlamaConfig)
    train, optim, length = config.train, config.optim, config.data.sequence_length
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = Llama(config.model, vocabulary_size=vocabulary_size, max_length=length)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02) if parameter.ndim > 1 else None
        torch.nn.init.ones_(parameter) if parameter.ndim == 1 else None
    mesh = init_device_mesh("cpu", (size,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=optim.lr, betas=(optim.beta1, optim.beta2),
        weight_decay=optim.weight_decay, fused=True,
    )  # fmt: skip
    share = train.batch_tokens // length // size
    micro = train.microbatch_samples
    stream = batches(folder, length, share, rank)
    seconds, last = [], time.perf_counter()
    for step in range(train.steps):
        part = min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / train.steps))
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * part
        rows = next(stream)
        total = torch.zeros(())
        for first in range(0, share, micro):
            model.set_requires_gradient_sync(first + micro >= share)
            tokens = rows[first : first + micro]
            logits = model(tokens[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()) * micro / share
            loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        dist.all_reduce(total)
        line = f"{step} {total.item() / size:.4f} {norm.full_tensor().item():.3f}"
        if rank == 0:
            sys.stderr.write(f"{line}\n")
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
    if rank == 0:
        print(json.dumps(seconds))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
