"""Every look at one node, each in a fork that has a deadline, so that none can hang the doctor."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

from ...parallel import DeviceKind, World
from ..config import RunConfig
from ..identity import checkpoint_folder, run_folder
from ..recovery.preload import preload
from ..recovery.warm import native_threads
from .child import LateError, in_child
from .disk import Speed, judge_dead, judge_speed, measure_disk
from .driver import read_gpus
from .finding import Finding, Level, judged
from .gpu import Gpu, judge_gpus
from .host import judge_host, read_host
from .model import Takes, need_of, weigh
from .place import AREA, clear, judge_exclusive, measure_place, new_folder, open_quickly
from .software import judge_software, read_software
from .ways import Ways, judge_ways, try_ways

Say = Callable[[str], None]
_LEAST_SECONDS = 1.0
_MOST_SECONDS = 20.0


@final
class Node:
    """The looks at this node, in order; their findings gather in `findings`."""

    def __init__(self, config: RunConfig, world: World, *, deadline: float, say: Say) -> None:
        self.findings: list[Finding] = []
        self._config, self._world = config, world
        self._deadline, self._say = deadline, say

    def look(self, place: str | None) -> None:
        """All of them. `place`: a folder or URL to try in place of the run's own."""
        preload()
        gpus, driver = self._gpus()
        takes = self._takes()
        config, world = self._config, self._world
        on_gpu = bool(gpus) and config.parallel.device is not DeviceKind.cpu
        self.findings += judge_software(read_software(driver=driver))
        self.findings += judge_host(
            read_host(), need_of(config, world, takes, on_gpu=on_gpu)
        ) + judge_gpus(
            gpus,
            ranks=world.local_world_size,
            asks_cuda=config.parallel.device is DeviceKind.cuda,
            bytes_a_rank=takes.training,
        )
        self._ways()
        for one in [place] if place else places(config):
            self._place(one, takes.checkpoint(world, config))

    def _gpus(self) -> tuple[list[Gpu], str | None]:
        def body() -> Any:
            gpus, driver = read_gpus()
            return [[asdict(gpu) for gpu in gpus], driver]

        found = self._in_child("GPUs", body)
        return ([Gpu(**gpu) for gpu in found[0]], found[1]) if found else ([], None)

    def _takes(self) -> Takes:
        def body() -> Any:
            try:
                return asdict(weigh(self._config, self._world.world_size))
            except ValueError as error:
                return str(error)

        found = self._in_child("model", body)
        if isinstance(found, dict):
            return Takes(**found)
        if found:
            self.findings.append(
                judged(
                    *("node", "model", str(found)),
                    worst=Level.warning,
                    needed="a model whose size is known, to hold memory and disks against",
                    remedy="name the run's own model= and parallel.* as keepstep train has them",
                )
            )
        return Takes()

    def _ways(self) -> None:
        threads = native_threads()
        found = self._in_child("recovery", lambda: asdict(try_ways(threads)))
        if found:
            self.findings += judge_ways(Ways(**found))

    def _place(self, url: str, state: int) -> None:
        """A store is tried in two looks: one that hangs or fails does not hide the other."""
        kept = self._config.checkpoint.keep
        if "://" not in url or url.startswith("file://"):
            folder = Path(url.removeprefix("file://"))
            self._try("disk", url, lambda: _judged(measure_disk(folder), "disk", url, state, kept))
            return
        place = open_quickly(url, self._config.checkpoint.store)
        self._try(AREA, url, lambda: [judge_exclusive(place)])
        hidden = new_folder()
        is_done = self._try(
            AREA, url, lambda: _judged(measure_place(place, hidden), AREA, url, state, kept)
        )
        if not is_done:
            self._in_child(f"{AREA} (cleared)", lambda: clear(place, hidden))

    def _try(self, area: str, url: str, look: Callable[[], list[Finding]]) -> bool:
        """Whether it ended by itself, well or not."""

        def body() -> Any:
            try:
                return [asdict(one) for one in look()]
            except OSError as error:
                return [asdict(judge_dead(area, url, error.strerror or str(error)))]

        found = self._in_child(area, body)
        self.findings += [Finding(**{**one, "level": Level(one["level"])}) for one in found or ()]
        return found is not None

    def _in_child(self, area: str, body: Callable[[], Any]) -> Any:
        """What `body` answers as JSON; None, and a finding, where it does not in time."""
        self._say(area)
        left = max(_LEAST_SECONDS, min(_MOST_SECONDS, self._deadline - time.monotonic()))
        try:
            return json.loads(in_child(lambda: json.dumps(body()), seconds=left))
        except LateError as error:
            self.findings.append(
                judged(
                    *(area, "answer", str(error)),
                    worst=Level.problem,
                    needed="an answer",
                    remedy="look at what hangs there, or give it longer with --seconds",
                )
            )
            return None


def _judged(speed: Speed, area: str, url: str, state: int, kept: int) -> list[Finding]:
    return judge_speed(area, url, speed, state=state, kept=kept)


def places(config: RunConfig) -> list[str]:
    """Where the run writes: its folder, and where else its checkpoints go."""
    others = [checkpoint_folder(config), *(tier.path for tier in config.checkpoint.tiers)]
    folder = run_folder(config)
    outside = [one for one in others if not Path(one).is_relative_to(folder)]
    return [str(folder), *dict.fromkeys(outside)]
