"""What a job writes down of where its state came from: a record in `lineage.json`, and what each
checkpoint's manifest says of code, settings, data and the jobs before. Rank 0 writes.
"""

import contextlib
import sys
from dataclasses import asdict
from typing import Any, final

import torch

from ..checkpoint import CheckpointError, Manifest, read_manifest
from ..checkpoint.stores import open_place
from ..data import MixtureRecipe, OrderRecipe
from .build import Job
from .config import RunConfig
from .identity import config_digest, run_folder
from .recovery.life import Life
from .state import Progress
from .telemetry.audit import append, head
from .telemetry.lineage import add_job, folded, read_lineage, segments, surroundings, unfolded
from .telemetry.scrub import scrub, scrub_word


@final
class Provenance:
    """Of one rank in one generation; on ranks but 0 it reads and writes nothing."""

    def __init__(self, job: Job, life: Life) -> None:
        self._job = job
        self._life = life
        self._folder = run_folder(job.config)
        self._digest = config_digest(job.config)
        self._parent: str | None = None

    def begin(self, progress: Progress, parent: str | None, *, is_new: bool) -> None:
        """Rank 0 writes this job's record, once a job; without a guardian that runs git.

        Args:
            parent: path of the checkpoint that it goes on from, or takes its weights from.
            is_new: whether the state begins here, at step 0.
        """
        self._parent = parent
        if self._life.world.rank != 0:
            return
        known = read_lineage(self._folder)
        if any(one["time"] == self._life.started for one in known.get("jobs", [])):
            return
        config = self._job.config
        record = {
            "time": self._life.started,
            "run": config.run.name or self._folder.name,
            "from_step": progress.step,
            "from_sample": progress.samples,
            "parent": scrub(parent),
            "is_new": is_new,
            "program": [scrub_word(word) for word in sys.orig_argv[1:] if word not in sys.argv],
            "command": [scrub_word(word) for word in sys.argv],
            "config_digest": self._digest,
            "seed": config.train.seed,
            "data_seed": config.data.seed,
            "data_digest": self._job.order.source,
            "data_order": self._job.order.digest(),
            "datasets": datasets(config, self._job.order),
            "batch_samples": self._job.batch_samples,
            "world_size": self._life.world.world_size,
            "layout": self._job.topology.describe(),
            "hardware": hardware(self._job.device),
            **(known.get("surroundings") or surroundings()),
        }
        before = self._ancestry_of(parent) if not known.get("jobs") and parent else []
        add_job(self._folder, record, before)
        append(self._folder, "job", **record)

    def facts(self) -> dict[str, Any]:
        """For the manifest of a checkpoint. Whoever saves it puts the checkpoint before it in the
        place of the parent, once there is one."""
        own = {
            "config_digest": self._digest,
            "data_digest": self._job.order.source,
            "seed": self._job.config.train.seed,
            "parent": self._parent,
        }
        if self._life.world.rank != 0:
            return own
        known = read_lineage(self._folder)
        found = segments(known, self._life.started)
        if not found:
            return own
        end = head(self._folder)
        return {
            **own,
            "run_id": known["run_id"],
            "git_commit": found[-1].get("code", {}).get("commit"),
            "versions": found[-1].get("versions", {}),
            "segments": folded(found),
            "audit": asdict(end) if end else None,
        }

    def _ancestry_of(self, path: str) -> list[dict[str, Any]]:
        """The segments that another run's checkpoint was made by, up to its step; what cannot be
        read is left out: the run has its weights already."""
        place, _, name = path.rpartition("/")
        with contextlib.suppress(OSError, CheckpointError, ValueError, IndexError):
            store = open_place(place, self._job.config.checkpoint.store)
            found = ancestry(read_manifest(store, name))
            found[-1]["checkpoint"] = scrub(path)
            return found
        return []


def ancestry(manifest: Manifest) -> list[dict[str, Any]]:
    """The segments that a checkpoint's manifest tells of, oldest first; the last ends with it."""
    found = unfolded(manifest.lineage.get("segments") or [])
    if found:
        found[-1] |= {"to_step": manifest.step, "to_sample": manifest.progress.get("samples")}
    return found


def datasets(config: RunConfig, order: OrderRecipe | MixtureRecipe) -> list[dict[str, Any]]:
    """The sources of the data: name, digest of the content, samples, and where they are read."""
    data = config.data
    if isinstance(order, OrderRecipe):
        parts = {data.name: (order, data.path)}
    else:
        paths = {one.name: one.path for one in data.mixture}
        pairs = zip(order.names, order.sources, strict=True)
        parts = {name: (one, paths.get(name)) for name, one in pairs}
    return [
        {"name": name, "digest": one.source, "num_samples": one.num_samples, "uri": scrub(path)}
        for name, (one, path) in parts.items()
    ]


def hardware(device: torch.device) -> dict[str, Any]:
    """The device of rank 0, by name, and how many of its kind there are on the node."""
    if device.type != "cuda":
        return {"device": device.type, "threads": torch.get_num_threads()}
    return {
        "device": torch.cuda.get_device_name(device),
        "count": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
    }
