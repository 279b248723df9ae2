"""One replica group of the torchft side, a process of its own; who starts it starts it again.

Set up as torchft's train_ddp example is, with two differences: each group keeps its store itself,
so that no torchrun stands between (its workers' imports would be all that is added), and gradients
are averaged by Manager.allreduce one by one and awaited. That is torchft's
PureDistributedDataParallel, which awaits none; its DistributedDataParallel loses all survivors of
most kills with three replicas and more, by an assertion in ddp.py. Every replica holds the whole
model: over replica groups torchft replicates. The environment:

    python3.11 -m venv ENV
    ENV/bin/pip install "torch==2.13.0" numpy opentelemetry-api opentelemetry-sdk \
        opentelemetry-exporter-otlp-proto-http
    ENV/bin/pip install --no-deps torchft==0.2.0

    ENV/bin/torchft_lighthouse --min_replicas 1 --join_timeout_ms 10000 --bind 127.0.0.1:PORT
    ENV/bin/python ft.py FOLDER RANK http://127.0.0.1:PORT
"""

# ruff: noqa: E402
from steps import Steps, may_be_killed

may_be_killed()

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from llama import Llama, adamw, loss_of
from torch.distributed import TCPStore
from torchft import Manager, ProcessGroupGloo
from torchft.optim import OptimizerWrapper

PATIENCE = timedelta(seconds=10)  # the example's


def main(folder: Path, rank: int, lighthouse: str) -> None:
    torch.manual_seed(0)
    model = Llama()
    inner = adamw(model)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def load_state_dict(state: dict[str, Any]) -> None:
        model.load_state_dict(state["model"])
        inner.load_state_dict(state["optimizer"])

    manager = Manager(
        pg=ProcessGroupGloo(timeout=PATIENCE),
        min_replica_size=1,
        load_state_dict=load_state_dict,
        state_dict=lambda: {"model": model.state_dict(), "optimizer": inner.state_dict()},
        replica_id=f"bench_{rank}",
        store_addr="127.0.0.1",
        store_port=store.port,
        rank=0,
        world_size=1,
        lighthouse_addr=lighthouse,
        hostname="127.0.0.1",
        timeout=PATIENCE,
    )
    optimizer = OptimizerWrapper(manager, inner)
    works: list[Any] = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda parameter: works.append(manager.allreduce(parameter.grad))
        )
    generator, steps = torch.Generator().manual_seed(rank), Steps(folder)
    while True:
        works.clear()
        optimizer.zero_grad()
        loss_of(model, generator).backward()
        for work in works:
            work.wait()
            if manager.errored():  # the step is lost; the rest would be waited for in vain
                break
        before = manager.current_step()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if manager.current_step() > before:
            world, generation = manager.num_participants(), manager._quorum_id
            steps.write(step=manager.current_step(), generation=generation, world=world)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
