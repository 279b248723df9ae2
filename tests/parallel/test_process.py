"""The launcher's variables, the store by which ranks meet, devices, joining and leaving."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.ports import free_port
from support.world import run_world

from keepstep.parallel import (
    DeviceKind,
    World,
    client_store,
    join,
    leave,
    open_store,
    pick_device,
    read_world,
    set_variable,
)

LAUNCHED = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "node-a", "MASTER_PORT": "29500"}
SHORT = timedelta(seconds=5)


@pytest.fixture(autouse=True)
def no_local_world_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


def launch(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    for name, value in (LAUNCHED | changes).items():
        monkeypatch.setenv(name, value)


def test_without_variables_this_is_rank_0_of_1() -> None:
    world = read_world()
    assert world == World(0, 1, 0, 1, None, None, has_agent_store=False)
    assert not world.launched


def test_torchrun_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, LOCAL_RANK="1", LOCAL_WORLD_SIZE="2", TORCHELASTIC_USE_AGENT_STORE="True")
    world = read_world()
    assert world == World(3, 4, 1, 2, "node-a", 29500, has_agent_store=True)
    assert world.launched


def test_without_local_variables_all_ranks_are_on_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch)
    world = read_world()
    assert (world.local_rank, world.local_world_size) == (3, 4)
    assert not world.has_agent_store


@pytest.mark.parametrize("missing", sorted(LAUNCHED))
def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    launch(monkeypatch)
    monkeypatch.delenv(missing)
    with pytest.raises(ValueError, match=rf"found .* without {missing}, needed all of them"):
        read_world()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("RANK", "one", "RANK: found 'one', needed a whole number of at least 0"),
        ("RANK", "-1", "RANK: found '-1', needed a whole number"),
        ("RANK", "4", "RANK: found 4, needed less than WORLD_SIZE=4"),
        ("WORLD_SIZE", "0", "WORLD_SIZE: found '0', needed a whole number of at least 1"),
        ("MASTER_PORT", "http", "MASTER_PORT: found 'http', needed a whole number"),
        ("LOCAL_RANK", "5", "LOCAL_RANK: found 5, needed less than LOCAL_WORLD_SIZE=4"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    launch(monkeypatch, **{name: value})
    with pytest.raises(ValueError, match=sentence):
        read_world()


def test_a_variable_is_set_for_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTEP_TEST", "before")
    set_variable("KEEPSTEP_TEST", "after")
    assert os.environ["KEEPSTEP_TEST"] == "after"


def test_a_store_of_one_process_serves_at_a_free_port() -> None:
    store = open_store(read_world(), timeout=SHORT)
    client_store(store.host, store.port, SHORT).set("step", "7")
    assert store.get("step") == b"7"


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="lists sockets on Linux only")
def test_a_store_of_one_process_listens_on_the_loopback_only() -> None:
    store = open_store(read_world(), timeout=SHORT)
    tables = "".join(Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6"))
    rows = [line.split() for line in tables.splitlines()]
    listening = [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{store.port:04X}")]
    assert listening == [f"0100007F:{store.port:04X}"]


def test_rank_0_hosts_and_the_others_are_its_clients() -> None:
    port = free_port()
    host = World(0, 2, 0, 2, "127.0.0.1", port, has_agent_store=False)
    client = World(1, 2, 1, 2, "127.0.0.1", port, has_agent_store=False)
    store = open_store(host, timeout=SHORT)
    open_store(client, timeout=SHORT).set("from", "rank 1")
    assert store.get("from") == b"rank 1"


def test_with_a_store_of_the_agent_rank_0_is_a_client_too() -> None:
    agent = open_store(read_world(), timeout=SHORT)
    agent.set("from", "the agent")
    world = World(0, 2, 0, 2, agent.host, agent.port, has_agent_store=True)
    assert open_store(world, timeout=SHORT).get("from") == b"the agent"


def test_a_store_that_nobody_hosts_is_given_up_at_the_deadline() -> None:
    with pytest.raises(dist.DistError):
        client_store("127.0.0.1", free_port(), timedelta(seconds=0.2))


def test_the_cpu_is_picked_without_waking_cuda() -> None:
    assert pick_device(DeviceKind.cpu, 5) == torch.device("cpu")
    assert not torch.cuda.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without CUDA")
def test_without_cuda_auto_is_the_cpu_and_cuda_is_refused() -> None:
    assert pick_device(DeviceKind.auto, 1, local_world_size=2) == torch.device("cpu")
    with pytest.raises(ValueError, match=r"parallel\.device=cuda: found no CUDA device.*needed 2"):
        pick_device(DeviceKind.cuda, 1)


def test_a_world_can_be_left_and_joined_again_under_another_prefix() -> None:
    port = free_port()

    def body(rank: int) -> float:
        leave()
        leave()
        store = open_store(World(rank, 2, rank, 2, "127.0.0.1", port, False), timeout=SHORT)
        for generation in range(3):
            leave()
            prefixed = dist.PrefixStore(f"generation-{generation}", store)
            join(prefixed, rank, 2, device=torch.device("cpu"), timeout=SHORT)
        total = torch.tensor(float(rank + 1))
        dist.all_reduce(total)
        dist.barrier()
        return total.item()

    assert run_world(2, body) == [3.0, 3.0]


def test_a_rank_whose_join_failed_meets_one_that_comes_for_the_first_time() -> None:
    port, cpu = free_port(), torch.device("cpu")

    def body(rank: int) -> float:
        leave()
        store = open_store(World(rank, 2, rank, 2, "127.0.0.1", port, False), timeout=SHORT)
        if rank == 0:
            alone = dist.PrefixStore("a peer that died", store)
            with pytest.raises(RuntimeError):
                join(alone, rank, 2, device=cpu, timeout=timedelta(seconds=0.3))
            leave()
        join(dist.PrefixStore("next", store), rank, 2, device=cpu, timeout=SHORT)
        total = torch.tensor(float(rank + 1))
        dist.all_reduce(total)
        dist.barrier()
        return total.item()

    assert run_world(2, body) == [3.0, 3.0]
