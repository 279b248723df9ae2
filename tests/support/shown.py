"""A run that sinks are shown, and what was seen of it while it lived."""

import json
import re
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from support.job import Job, Ran, overrides

ALL = "[tensorboard,mlflow,wandb,prometheus,opentelemetry,openlineage]"
STEPS = 90


@dataclass
class Shown:
    """The run, and what Prometheus scraped of it while it lived."""

    ran: Ran
    scrapes: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.ran.folder

    @property
    def mlflow(self) -> str:
        return f"sqlite:///{self.folder.parent}/mlflow.db"

    def scrape(self) -> bool:
        """Whether /metrics answered, and had steps to tell of."""
        try:
            place = json.loads((self.folder / "sinks" / "prometheus.json").read_text())
            with urllib.request.urlopen(place["memory"]["url"], timeout=5) as answer:
                self.scrapes.append(answer.read().decode())
        except (OSError, KeyError):
            return False
        found = re.search(r"^keepstep_steps_total (\d+)", self.scrapes[-1], re.MULTILINE)
        return found is not None and int(found[1]) > 0


def words(shown: Shown, *more: str) -> list[str]:
    return overrides(
        shown.folder,
        *(f"telemetry.sinks={ALL}", "telemetry.prometheus.port=0", "telemetry.wandb.mode=offline"),
        *(f"telemetry.mlflow.tracking_uri={shown.mlflow}", "telemetry.feed.every_seconds=0.1"),
        *("telemetry.mlflow.registered_model=tiny", "telemetry.feed.grace_seconds=60"),
        *("telemetry.opentelemetry.steps_per_span=5", "telemetry.mlflow.experiment=tests"),
        *more,
        steps=STEPS,
    )


def has_steps(job: Job, shown: Shown, count: int) -> None:
    job.until(lambda: len(shown.ran.losses) >= count, 60.0, f"step {count}")
