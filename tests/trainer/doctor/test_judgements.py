"""Facts -> findings, as plain values: what is judged by what, without a GPU or a cluster."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from keepstep.trainer.doctor.compare import judge_ranks
from keepstep.trainer.doctor.disk import Speed, judge_speed
from keepstep.trainer.doctor.driver import parse_answer
from keepstep.trainer.doctor.finding import GIB, Finding, Level
from keepstep.trainer.doctor.gpu import Gpu, judge_gpus
from keepstep.trainer.doctor.host import Host, Need, judge_host
from keepstep.trainer.doctor.ranks import Collective, Measured, bus_bandwidth, rounds
from keepstep.trainer.doctor.software import Software, judge_software
from keepstep.trainer.doctor.ways import Ways, judge_ways

H100 = Gpu(
    index=0,
    name="NVIDIA H100",
    memory_total=80 * GIB,
    memory_used=0,
    ecc=True,
    errors=0,
    awaits_repair=False,
    clock=1980,
    clock_most=1980,
    slowed=0x1,  # idle
    temperature=40,
    pcie_width=16,
    pcie_width_most=16,
    links=18,
    links_most=18,
)
HOST = Host(
    shm_free=4 * GIB,
    memory_total=64 * GIB,
    memory_free=60 * GIB,
    files=1024,
    files_most=4096,
    cores=8.0,
    threads=2,
)
NEED = Need(ranks=4, world_size=4, slots=2 * GIB, cache=GIB, training=4 * GIB, files=300)
SOFTWARE = Software(
    python="3.12.1",
    torch="2.13.0",
    cuda="13.0",
    nccl="2.28.3",
    driver="580.1",
    requirements=("torch<2.14,>=2.11", "typer>=0.15"),
    installed={"torch": "2.13.0", "typer": "0.29"},
)


def bad(findings: list[Finding]) -> dict[str, Level]:
    """Subjects that are not fine; each of them says what is needed and what to do."""
    found = [one for one in findings if one.level is not Level.ok]
    assert all(one.found and one.needed and one.remedy for one in found)
    assert all(not one.remedy for one in findings if one.level is Level.ok)
    return {one.subject: one.level for one in found}


def gpus(**changes: object) -> dict[str, Level]:
    second = replace(H100, index=1, **changes)  # type: ignore[arg-type]
    return bad(judge_gpus([H100, second], ranks=2, asks_cuda=True, bytes_a_rank=40 * GIB))


@pytest.mark.parametrize(
    ("changes", "subject", "level"),
    [
        ({"errors": 3}, "ECC", Level.problem),
        ({"ecc": False}, "ECC", Level.warning),
        ({"awaits_repair": True}, "memory rows", Level.problem),
        ({"slowed": 0x40}, "clocks", Level.problem),
        ({"slowed": 0x4}, "power", Level.warning),
        ({"pcie_width": 8}, "PCIe", Level.warning),
        ({"links": 17}, "NVLink", Level.problem),
        ({"memory_used": 10 * GIB}, "others", Level.warning),
        ({"name": "NVIDIA A100"}, "kinds", Level.warning),
    ],
)
def test_what_is_wrong_with_one_gpu_of_two_is_named(
    changes: dict[str, object], subject: str, level: Level
) -> None:
    assert gpus() == {}
    assert gpus(**changes) == {subject: level}
    second = replace(H100, index=1, **changes)  # type: ignore[arg-type]
    findings = judge_gpus([H100, second], ranks=2, asks_cuda=True, bytes_a_rank=0)
    (found,) = [one.found for one in findings if one.level is not Level.ok]
    assert "GPU 1" in found or subject == "kinds"
    assert "GPU 0" not in found


def test_too_few_gpus_or_too_little_memory_of_them_is_a_problem() -> None:
    findings = judge_gpus([H100], ranks=2, asks_cuda=False, bytes_a_rank=90 * GIB)
    assert bad(findings) == {"GPUs": Level.problem, "memory": Level.problem}


def test_a_node_without_gpus_is_fine_unless_they_are_asked_for() -> None:
    (cpu,) = judge_gpus([], ranks=2, asks_cuda=False, bytes_a_rank=0)
    assert cpu.found.startswith("no GPU")
    assert bad([cpu]) == {}
    assert bad(judge_gpus([], ranks=2, asks_cuda=True, bytes_a_rank=0)) == {"GPUs": Level.problem}


def test_nvidia_smi_is_read_with_what_it_does_not_know() -> None:
    rows = (
        "0, NVIDIA L4, 23034, 512, Enabled, 2, 2040, 2040, 0x0000000000000020, 83, 8, 16, 580.1",
        "1, NVIDIA L4, 23034, 0, [N/A], [N/A], 210, 2040, 0x0000000000000001, 35, 16, 16, 580.1",
    )
    (first, second), driver = parse_answer("\n".join(rows))
    assert driver == "580.1"
    assert (first.memory_used, first.errors, first.slowed) == (512 * 2**20, 2, 0x20)
    assert (second.ecc, second.errors, second.links) == (None, None, None)
    found = bad(judge_gpus([first, second], ranks=2, asks_cuda=True, bytes_a_rank=0))
    assert found == {"ECC": Level.problem, "clocks": Level.problem, "PCIe": Level.warning}


def test_nvml_knows_every_name_that_it_is_asked_by() -> None:
    import pynvml

    from keepstep.trainer.doctor import driver

    names = re.findall(r"nvml\.(\w+)", Path(driver.__file__).read_text())
    assert len(names) > 15
    assert [name for name in names if not hasattr(pynvml, name)] == []


@pytest.mark.parametrize(
    ("host", "subject", "level"),
    [
        ({"shm_free": 2 * GIB}, "/dev/shm", Level.warning),
        ({"shm_free": None}, "/dev/shm", Level.warning),
        ({"memory_free": 5 * GIB}, "memory", Level.problem),
        ({"files": 512}, "open files", Level.warning),
        ({"files": 512, "files_most": 512}, "open files", Level.problem),
        ({"threads": 8}, "cores", Level.warning),
    ],
)
def test_a_node_is_held_against_what_its_ranks_need(
    host: dict[str, int], subject: str, level: Level
) -> None:
    assert bad(judge_host(HOST, NEED)) == {}
    assert bad(judge_host(replace(HOST, **host), NEED)) == {subject: level}  # type: ignore[arg-type]


def test_the_remedy_for_too_many_threads_is_the_number_that_fits() -> None:
    cores = judge_host(replace(HOST, threads=8), NEED)[-1]
    assert cores.remedy == "OMP_NUM_THREADS=2"
    many = judge_host(replace(HOST, threads=1), replace(NEED, ranks=16))[-1]
    assert many.remedy == "fewer ranks on this node"


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"python": "3.10.9"}, "Python"),
        ({"installed": {"torch": "2.14.0", "typer": "0.29"}}, "packages"),
        ({"installed": {"torch": "2.13.0"}}, "packages"),
        ({"cuda": None, "nccl": None}, "torch"),
    ],
)
def test_a_wrong_version_or_build_is_a_problem(changes: dict[str, object], subject: str) -> None:
    assert bad(judge_software(SOFTWARE)) == {}
    found = bad(judge_software(replace(SOFTWARE, **changes)))  # type: ignore[arg-type]
    assert found == {subject: Level.problem}


def test_a_slow_or_full_place_is_said() -> None:
    quick = Speed(written=1e9, read=1e9, latency=0.001, free=100 * GIB)
    assert bad(judge_speed("disk", "runs", quick, state=10 * GIB, kept=3)) == {}
    assert bad(judge_speed("disk", "runs", quick, state=30 * GIB, kept=3)) == {
        "room": Level.problem
    }
    slow = replace(quick, written=1e7)
    assert bad(judge_speed("disk", "runs", slow, state=GIB, kept=3)) == {"speed": Level.warning}


def test_ways_of_recovery_that_do_not_work_are_said() -> None:
    well = Ways(threads=1, worker_seconds=0.03, can_be_freed=True)
    assert bad(judge_ways(well)) == {}
    assert bad(judge_ways(replace(well, can_be_freed=False))) == {"in place": Level.warning}
    for ill in (replace(well, threads=3), replace(well, worker_seconds=None)):
        assert bad(judge_ways(ill)) == {"warm server": Level.problem}


def test_the_slow_rank_the_wrong_clock_and_the_slow_link_are_named() -> None:
    pairs = {(a, b): 10e9 for a in range(4) for b in range(a + 1, 4)}
    found = Measured(
        skew_seconds=(0.0, 0.002, -8.0, 0.0),
        flops=(1e12, 1e12, 1e12, 0.5e12),
        collectives=(Collective(name="all_reduce", size=2**20, seconds=1e-3, bus_bandwidth=1e9),),
        pairs=pairs | {(1, 3): 2e9},
    )
    findings = judge_ranks(found)
    assert bad(findings) == {
        "clocks": Level.problem,
        "matrix products": Level.warning,
        "links": Level.warning,
    }
    said = {one.subject: one.found for one in findings}
    assert "rank 2 is -8,000.0 ms" in said["clocks"]
    assert said["matrix products"].endswith("slow: rank 3: 500.0 GFLOP/s")
    assert said["links"].endswith("slow: 1-3: 2.00 GB/s")
    assert said["bus bandwidth"] == "all_reduce of 1 MiB: 1.00 GB/s"


def test_bus_bandwidth_is_nccl_tests() -> None:
    assert bus_bandwidth("all_reduce", 8 * 10**9, 1.0, 8) == pytest.approx(14e9)
    assert bus_bandwidth("all_gather", 8 * 10**9, 1.0, 8) == pytest.approx(7e9)


@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 8])
def test_rounds_hold_each_pair_once_and_each_rank_once_a_round(ranks: int) -> None:
    found = rounds(ranks)
    pairs = [pair for one in found for pair in one]
    assert sorted(pairs) == [(a, b) for a in range(ranks) for b in range(a + 1, ranks)]
    for one in found:
        assert len({rank for pair in one for rank in pair}) == 2 * len(one)
