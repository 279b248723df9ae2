"""What a run's recovery is told: the guardian's settings, and faults on purpose."""

from dataclasses import dataclass, field
from enum import StrEnum

from ..require import require


@dataclass(kw_only=True, slots=True)
class RecoveryConfig:
    """The guardian: how a worker that died or hangs is replaced."""

    enabled: bool = True
    """Whether a guardian process watches the training process; false trains in place."""
    max_recoveries: int = 20
    """Recoveries within one hour after which the run stops; once several in a minute have not
    finished a step, each one waits longer than the last."""
    hang_seconds: float = 600.0
    """Seconds without a heartbeat after which a worker counts as hung; 0 means never."""
    hang_factor: float = 20.0
    """How many times the longest of its last steps a step may take before that, half a minute at
    least; 0 leaves it at hang_seconds."""
    grace_seconds: float = 25.0
    """Seconds that a preempted worker has to save; torchrun kills after 30."""
    preempt_file: str | None = None
    """A file whose appearance asks the run to save and end, as SIGTERM does: for what watches the
    notices of a provider that takes machines back; null: none."""
    snapshot_every: int | str = "auto"
    """Steps between snapshots of the state into memory, from which a run goes on after a failure;
    auto: 1, or more where copying would cost a step more than 3 % of its time; 0 means never."""
    slots: int = 2
    """Snapshots a rank holds in memory; with 3 the cadence stays while one is being saved."""
    in_place: bool = True
    """Whether the training processes that a failure has left alive go on in the next generation;
    false replaces all of them."""
    in_place_seconds: float = 10.0
    """Seconds that such a process has to leave what it is at; after that it is replaced."""
    spare: bool = True
    """Whether the next training process of each rank is forked ahead and waits."""
    peers: int = 0
    """Other nodes that keep copies of each rank's snapshots, 0 or 1, so that a lost node takes no
    state with it where no rank elsewhere holds the same (parallel.replicate). Takes the memory of
    four more snapshots a rank, and listens on the address by which the other nodes are reached."""
    peer_every: int = 16
    """Steps between those copies; powers of two meet every cadence of snapshots."""
    peer_address: str | None = None
    """Address of this node that others connect to; null: the one by which it reaches rank 0's."""
    straggler_seconds: float = 60.0
    """Seconds between looks at how long each rank is busy itself in a step, whoever waits for whom
    (on CPU ranks, without a pipeline); 0: never."""
    straggler_ratio: float = 1.5
    """How many times the median of ranks with the same work one takes, in three looks in a row,
    before it is named."""
    straggler_bound: float = 0.0
    """The same, before another process takes its place, once an hour at most; 0: never."""
    silence_seconds: float = 1.5
    """Seconds without an answer from a peer's machine after which its connections are broken; 0
    leaves that to the deadline of a collective, parallel.timeout_seconds."""

    def __post_init__(self) -> None:
        for name in (
            "max_recoveries",
            "hang_seconds",
            "hang_factor",
            "in_place_seconds",
            "silence_seconds",
            "straggler_seconds",
            "straggler_bound",
        ):
            value = getattr(self, name)
            require(value >= 0, f"recovery.{name}", value, "0 or more", "set 0 for none")
        require(self.peers in (0, 1), "recovery.peers", self.peers, "0 or 1", "set 1")
        require(self.peer_every > 0, "recovery.peer_every", self.peer_every, "1 or more", "set 16")
        every = self.snapshot_every
        is_count = isinstance(every, int) and not isinstance(every, bool) and every >= 0
        require(
            is_count or every == "auto",
            "recovery.snapshot_every",
            every,
            "auto, or 0 or more steps",
            "set auto",
        )
        found = self.straggler_ratio
        require(found > 1, "recovery.straggler_ratio", found, "more than 1", "set 1.5")
        found = self.straggler_bound
        holds = found == 0 or found >= self.straggler_ratio
        needed = f"0, or recovery.straggler_ratio={self.straggler_ratio:g} or more"
        require(holds, "recovery.straggler_bound", found, needed, "set 0 for never")
        require(2 <= self.slots <= 8, "recovery.slots", self.slots, "2 to 8", "set 2")
        found = self.grace_seconds
        require(found > 0, "recovery.grace_seconds", found, "more than 0", "set for example 25")


class FaultKind(StrEnum):
    """What a planned fault does to its rank."""

    fail = "fail"
    hang = "hang"
    kill = "kill"
    corrupt = "corrupt"
    poison = "poison"
    spike = "spike"
    flip = "flip"
    stop = "stop"
    slow = "slow"
    cut = "cut"
    fill = "fill"


class FaultPhase(StrEnum):
    """Where in a step a planned fault strikes."""

    data = "data"
    """At its begin."""
    step = "step"
    """Its gradient is there and not applied."""
    save = "save"
    """Before the save that follows it, if one does."""
    evaluate = "evaluate"
    """Before the evaluation that follows it, if one does."""


ANY_RANK = -1


@dataclass(kw_only=True, slots=True)
class Fault:
    """One planned fault: once in the life of a run folder at `step`, or now and then at `rate`."""

    do: FaultKind
    """fail raises, hang sleeps for ever, kill is SIGKILL, corrupt flips a byte of the newest
    checkpoint, stop is SIGSTOP, slow sleeps in each of some steps, cut breaks the process's
    connections to the other ranks, fill takes room on the disk of the run's folder; poison makes
    the rank's part of the loss a NaN, spike its gradient 10,000 times as large; flip inverts a bit
    of its parameters right after the step."""
    rank: int = ANY_RANK
    """Global rank that it strikes; -1: any, drawn from chaos.seed."""
    step: int | None = None
    """Step (counted from 0) that it strikes; null where it has a rate."""
    rate: float = 0.0
    """Mean number of strikes in 1000 steps, over all ranks that it may strike, drawn from
    chaos.seed, so that a rerun is struck alike; no rank twice at a step. 0 means at `step`."""
    phase: FaultPhase = FaultPhase.data
    """Where in the step it strikes."""
    seconds: float = 1.0
    """slow: seconds of sleep in each step; fill: seconds until the room is given back."""
    steps: int = 1
    """slow: steps in a row that are slow."""
    bytes: int = 2**30
    """fill: bytes to take; all but 64 MiB of what is free at most."""

    def __post_init__(self) -> None:
        require(
            self.rank >= ANY_RANK, "chaos.plan.rank", self.rank, "-1 or a rank", "set -1 for any"
        )
        require(
            (self.step is None) != (self.rate == 0),
            "chaos.plan",
            f"step={self.step} and rate={self.rate:g} of do={self.do}",
            "either a step or a rate",
            "set for example step: 12",
        )
        require(
            self.step is None or self.step >= 0, "chaos.plan.step", self.step, "0 or more", "set 0"
        )
        require(
            0 <= self.rate <= 1000, "chaos.plan.rate", self.rate, "0 to 1000", "set for example 5"
        )
        require(self.seconds > 0, "chaos.plan.seconds", self.seconds, "more than 0", "set 1")
        fits = self.steps == 1 or (self.steps > 1 and self.do == FaultKind.slow)
        needed = "1, or more for do=slow"
        require(fits, "chaos.plan.steps", self.steps, needed, "set 1")
        require(self.bytes > 0, "chaos.plan.bytes", self.bytes, "more than 0", "set 1073741824")


@dataclass(kw_only=True, slots=True)
class ChaosConfig:
    """Faults on purpose, to see what they cost."""

    plan: list[Fault] = field(default_factory=list)
    """For example chaos.plan=[{do:kill,rank:1,step:12},{do:stop,rate:2}]."""
    seed: int = 0
    """What is drawn (ranks of -1, and rates) is a function of this, the step and the rank."""
