"""When checkpoints are written, where, and how many are kept: the values, not the writing."""

import math
from dataclasses import dataclass, field
from enum import StrEnum

from .retention import BestMode, Keep

AUTO = "auto"
# S3 takes no part below 5 MiB but the last, and none above 5 GiB.
LEAST_PART_BYTES, MOST_PART_BYTES = 5 * 2**20, 5 * 2**30


class Transport(StrEnum):
    """The library that moves the bytes."""

    auto = "auto"
    fsspec = "fsspec"
    obstore = "obstore"


@dataclass(kw_only=True, slots=True)
class PlaceConfig:
    """How the place of the checkpoints is reached where `checkpoint.path` is a URL.

    Credentials are none of it: they come from the environment, files or instance that the store's
    SDK looks at.
    """

    transport: Transport = Transport.auto
    """auto: obstore where it is installed, knows the URL's scheme and may be used in this process;
    else fsspec, which for s3:// is the client that s3fs brings, and for other schemes fsspec's
    file systems. Both behave alike."""

    endpoint_url: str | None = None
    """The S3 server, http:// or https://. None: what the SDK finds, else AWS."""

    region: str | None = None
    """The S3 region. None: what the SDK finds, else us-east-1."""

    anonymous: bool = False
    """Whether to sign nothing, for public buckets that are only read."""

    connections: int = 4
    """Parts of one shard file on their way at once, from each rank. As many times `part_bytes` is
    what a save takes of a rank's memory."""

    part_bytes: int = 16 * 2**20
    """Bytes of one part of an upload, and of one range that is read: 5 MiB to 5 GiB. S3 takes
    10,000 parts, so this times 10,000 is the largest shard file."""

    write_bytes_per_second: float = 0.0
    """The most that each rank writes in a second, on average, on local disks too; 0: no bound."""

    connect_seconds: float = 5.0
    """The longest a connection may take to be made."""

    stall_seconds: float = 30.0
    """The longest that a request may be silent before it is asked again."""

    retry_seconds: float = 120.0
    """How long one request is asked again, with growing pauses, before the save or the restore
    fails; 0: never again."""

    def __post_init__(self) -> None:
        self._require("connections", self.connections, 1, 64)
        self._require("part_bytes", self.part_bytes, LEAST_PART_BYTES, MOST_PART_BYTES)
        for name in ("write_bytes_per_second", "retry_seconds"):
            self._require(name, getattr(self, name), 0)
        for name in ("connect_seconds", "stall_seconds"):
            self._require(name, getattr(self, name), 0.001)
        if self.endpoint_url is not None and not self.endpoint_url.startswith(
            ("http://", "https://")
        ):
            raise ValueError(
                f"checkpoint.store.endpoint_url: found {self.endpoint_url!r}, needed a URL that "
                "begins with http:// or https://; set that, or leave it out for AWS"
            )

    def _require(self, name: str, found: float, least: float, most: float = math.inf) -> None:
        if not (math.isfinite(found) and least <= found <= most):
            bound = f"{least} or more" if most == math.inf else f"{least} to {most}"
            raise ValueError(
                f"checkpoint.store.{name}: found {found}, needed {bound}; set that, or leave it out"
            )


@dataclass(kw_only=True, slots=True)
class TierConfig:
    """A further place, to which committed checkpoints are copied now and then."""

    path: str
    """Folder or URL; what `checkpoint.store` says of servers holds for it too."""

    every_seconds: float = 600.0
    """Seconds between copies; 0 means each checkpoint. The last one of a run is always copied."""

    keep: int = 3
    """How many of the newest stay there. At least 1."""

    def __post_init__(self) -> None:
        found = self.every_seconds
        if not (math.isfinite(found) and found >= 0):
            raise ValueError(
                f"checkpoint.tiers of {self.path}: found every_seconds={found}, needed 0 or more "
                "seconds; set 0 to copy each checkpoint"
            )
        if not self.path.strip() or self.keep < 1:
            raise ValueError(
                f"checkpoint.tiers: found path={self.path!r} and keep={self.keep}, needed a folder "
                "or URL and 1 or more; correct them"
            )


@dataclass(kw_only=True, slots=True)
class SealConfig:
    """Files of keys, all by their names: what is in them is never written anywhere.

    Each holds PEM without a password, 32 raw bytes, or their base64.
    """

    sign_key: str | None = None
    """An Ed25519 private key that signs what is saved; null: it is not signed."""

    encrypt_key: str | None = None
    """A key of 32 bytes for AES-256-GCM, which encrypts what is saved and opens what was
    encrypted with it; null: neither."""

    require_signed: str | None = None
    """An Ed25519 public key: a checkpoint that its owner did not sign is refused; null: whoever
    wrote a checkpoint, it is loaded."""


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    path: str | None = None
    """Folder or URL that holds this run's checkpoints; null means `checkpoints` in `run.dir`."""

    every_steps: int = 50
    """A checkpoint after each multiple of this many optimizer steps; 0 means never."""

    every_seconds: int | float | str = 0
    """A checkpoint once this many seconds have passed since the last; 0 means never; auto takes
    the interval that loses the least, from what saves cost and how often the job fails."""

    at_steps: list[int] = field(default_factory=list)
    """Steps after which a checkpoint is written whatever the cadence, such as [1, 10, 100]."""

    keep: int = 3
    """How many of the newest whole checkpoints stay; older ones are removed. At least 1."""

    keep_every_steps: int = 0
    """Checkpoints of multiples of this many steps stay for good; 0 means none."""

    best_metric: str | None = None
    """Metric whose best checkpoints stay: eval_loss (a better evaluation is saved at once) or loss
    (of the step that was saved); null means none."""

    best_mode: BestMode = BestMode.min
    """Whether a small or a large value of it is good."""

    keep_best: int = 1
    """How many of the best stay where best_metric is set. At least 1."""

    at_end: bool = True
    """Whether the last step is saved too, whatever the cadence."""

    tiers: list[TierConfig] = field(default_factory=list)
    """Further places, each with a cadence and a retention of its own, such as a bucket beside a
    local disk: [{path: s3://bucket/run, every_seconds: 600, keep: 2}]. A run resumes from the
    newest whole step of any of them."""

    max_failures: int = 10
    """Saves in a row that may fail before the run stops; each is tried several times. 0 means any
    number."""

    store: PlaceConfig = field(default_factory=PlaceConfig)
    """How the place is reached where `path` is a URL."""

    seal: SealConfig = field(default_factory=SealConfig)
    """Who signs and who encrypts."""

    def __post_init__(self) -> None:
        if self.path is not None and not self.path.strip():
            raise ValueError(
                f"checkpoint.path: found {self.path!r}, needed the name of a folder or a URL; "
                "set one, or null for `checkpoints` in run.dir"
            )
        for name in ("every_steps", "keep_every_steps", "max_failures"):
            if (found := getattr(self, name)) < 0:
                raise ValueError(
                    f"checkpoint.{name}: found {found}, needed 0 or more; set 0 for none"
                )
        self._check_seconds()
        wrong = [step for step in self.at_steps if step < 1]
        if wrong:
            raise ValueError(
                f"checkpoint.at_steps: found {wrong}, needed steps of 1 or more; leave them out"
            )
        for name in ("keep", "keep_best"):
            if (found := getattr(self, name)) < 1:
                raise ValueError(
                    f"checkpoint.{name}: found {found}, needed 1 or more; set how many are to stay"
                )

    @property
    def retention(self) -> Keep:
        """What of what was saved stays."""
        return Keep(
            last=self.keep,
            every_steps=self.keep_every_steps,
            best=self.keep_best if self.best_metric else 0,
            mode=self.best_mode,
            metric=self.best_metric,
        )

    def _check_seconds(self) -> None:
        found = self.every_seconds
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        if found != AUTO and not (is_number and math.isfinite(float(found)) and float(found) >= 0):
            raise ValueError(
                f"checkpoint.every_seconds: found {found}, needed 0 or more seconds, or {AUTO}; "
                "set 0 to leave the clock out of it"
            )
