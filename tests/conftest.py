"""Fixtures of every test: a clean environment and one thread, so that worlds can be forked."""

import gc
import os
from collections import defaultdict
from collections.abc import Iterator

import pytest
import torch

from keepstep.trainer.recovery.slots import slot_paths

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees a launcher's variables or HYDRA's, whatever shell the suite was started from."""
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith(("HYDRA_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # a quarter of the time of the imports, none of which is garbage
    config.addinivalue_line(
        "markers",
        "slow(but=()): takes long, or shows for one more case what a quicker test shows already; "
        "of a parametrized test all but these ids. -m 'not slow' leaves it out",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Takes the mark off those that it excepts, before pytest selects by it."""
    asked, found = dict[str, set[str]](), defaultdict[str, set[str]](set)
    for item in items:
        mark, case = item.get_closest_marker("slow"), getattr(item, "callspec", None)
        if mark is None or case is None or not mark.kwargs:
            continue
        test = item.nodeid.removesuffix(f"[{case.id}]")
        asked[test] = set(mark.kwargs["but"])
        found[test].add(case.id)
        if case.id in asked[test]:
            item.own_markers = [one for one in item.own_markers if one.name != "slow"]
    for test, names in asked.items():
        if len(found[test]) > 1 and (unknown := names - found[test]):
            raise pytest.UsageError(f"{test} has no case {sorted(unknown)} that slow() names")


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported is never garbage: half a second a collection
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def no_slots_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Jobs that tests kill leave their slots in memory, as they should; nobody wants these."""
    yield
    for found in tmp_path_factory.getbasetemp().rglob("config.yaml"):
        for path in slot_paths(str(found.parent.resolve())):
            path.unlink(missing_ok=True)
