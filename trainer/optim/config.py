"""What a person may set about optimizers: one class a choice of the group `optim`."""

import math
from dataclasses import dataclass, field
from enum import StrEnum

from ..require import require


class StateDtype(StrEnum):
    """What moments are kept in between steps; steps are computed in float32 all the same."""

    fp32 = "fp32"
    bf16 = "bf16"


class Implementation(StrEnum):
    """How many kernels a step takes: one for all (fused), one an operation (foreach), or one an
    operation and parameter (loop)."""

    auto = "auto"
    fused = "fused"
    foreach = "foreach"
    loop = "loop"


class MuonScale(StrEnum):
    """What an orthogonal matrix of `rows` x `columns` is multiplied by, beside the rate."""

    adamw = "adamw"
    """0.2 x sqrt(max(rows, columns)): steps as large as AdamW's, so that one rate serves both
    (arXiv 2502.16982)."""
    original = "original"
    """sqrt(max(1, rows / columns)), as in Keller Jordan's Muon."""


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """Base of every optimizer's config; the group `optim` chooses the subclass."""

    name: str = ""
    """Name of the choice; tells runs of two optimizers apart."""
    lr: float = 3e-3
    """Peak learning rate; the schedule scales it."""
    weight_decay: float = 0.1
    """Decay per unit of learning rate, on matrices only (not on norms and biases)."""
    clip_norm: float = 1.0
    """Largest L2 norm of the whole gradient; 0 means no clipping."""
    state_dtype: StateDtype = StateDtype.fp32
    """What moments are kept in; bf16 halves them and is written by stochastic rounding."""
    implementation: Implementation = Implementation.auto
    """Kernels of a step; auto takes fused where torch has it for the device, else foreach."""
    ema_decay: float = 0.0
    """Decay, per applied step, of an average of the weights that is kept and saved beside them, in
    fp32; 0 means none. Usual: 0.999 to 0.9999."""
    ema_eval: bool = False
    """Whether evaluations take the average in place of the weights."""

    def __post_init__(self) -> None:
        holds = 0 < self.lr < math.inf
        require(holds, "optim.lr", self.lr, "a finite number above 0", "set for example 3e-4")
        for name in ("weight_decay", "clip_norm"):
            _at_least_zero(name, getattr(self, name))
        _decay("ema_decay", self.ema_decay)
        holds = self.ema_decay > 0 or not self.ema_eval
        remedy = "set optim.ema_decay=0.999 or optim.ema_eval=false"
        require(holds, "optim.ema_eval", self.ema_eval, "false without an average", remedy)


@dataclass(kw_only=True, slots=True)
class AdamWConfig(OptimConfig):
    """AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""

    name: str = "adamw"
    """Name of the choice; tells runs of two optimizers apart."""
    beta1: float = 0.9
    """Decay of the first moment, per step."""
    beta2: float = 0.95
    """Decay of the second moment, per step."""
    eps: float = 1e-8
    """Added to the root of the second moment."""

    def __post_init__(self) -> None:
        OptimConfig.__post_init__(self)
        _named(self, "adamw")
        for name in ("beta1", "beta2"):
            _decay(name, getattr(self, name))
        _at_least_zero("eps", self.eps)


@dataclass(kw_only=True, slots=True)
class LionConfig(OptimConfig):
    """Lion: the sign of an average of gradients (Chen et al., arXiv 2302.06675). One moment; wants
    a rate 3 to 10 times smaller than AdamW's and a decay as much larger."""

    name: str = "lion"
    """Name of the choice; tells runs of two optimizers apart."""
    lr: float = 3e-4
    """Peak learning rate; the schedule scales it."""
    weight_decay: float = 1.0
    """Decay per unit of learning rate, on matrices only (not on norms and biases)."""
    beta1: float = 0.9
    """Weight of the moment in the step that is taken."""
    beta2: float = 0.99
    """Decay of the moment, per step."""

    def __post_init__(self) -> None:
        OptimConfig.__post_init__(self)
        _named(self, "lion")
        _not_fused(self)
        for name in ("beta1", "beta2"):
            _decay(name, getattr(self, name))


@dataclass(kw_only=True, slots=True)
class SGDConfig(OptimConfig):
    """Stochastic gradient descent with momentum; its weight decay is added to the gradient."""

    name: str = "sgd"
    """Name of the choice; tells runs of two optimizers apart."""
    lr: float = 0.1
    """Peak learning rate; the schedule scales it."""
    weight_decay: float = 1e-4
    """Added to the gradient per unit of weight, on matrices only (not on norms and biases)."""
    momentum: float = 0.9
    """Decay of the sum of gradients, per step; 0 means none."""
    nesterov: bool = False
    """Whether the step looks ahead along the momentum; needs momentum above 0."""

    def __post_init__(self) -> None:
        OptimConfig.__post_init__(self)
        _named(self, "sgd")
        _not_fused(self)
        _decay("momentum", self.momentum)
        holds = self.momentum > 0 or not self.nesterov
        remedy = "set optim.momentum=0.9 or optim.nesterov=false"
        require(holds, "optim.nesterov", self.nesterov, "false without momentum", remedy)


@dataclass(kw_only=True, slots=True)
class MuonConfig(OptimConfig):
    """Muon: orthogonalised momentum for hidden matrices (Keller Jordan,
    https://kellerjordan.github.io/posts/muon/), AdamW for all other parameters."""

    name: str = "muon"
    """Name of the choice; tells runs of two optimizers apart."""
    momentum: float = 0.95
    """Decay of the average of gradients, per step."""
    nesterov: bool = True
    """Whether the matrix that is orthogonalised looks ahead along the momentum."""
    iterations: int = 5
    """Newton-Schulz iterations a step."""
    iteration_dtype: StateDtype = StateDtype.fp32
    """What they are computed in; bf16 is several times faster on GPUs and tells layouts apart."""
    scale: MuonScale = MuonScale.adamw
    """How large a step is: adamw (as large as AdamW's) or original."""
    exclude: list[str] = field(default_factory=lambda: ["*embed*", "*lm_head*", "*head*"])
    """Globs of parameters that AdamW takes though they have two dimensions or more."""
    adamw_ratio: float = 1.0
    """AdamW's learning rate as a part of optim.lr."""
    beta1: float = 0.9
    """Decay of AdamW's first moment, per step."""
    beta2: float = 0.95
    """Decay of AdamW's second moment, per step."""
    eps: float = 1e-8
    """Added to the root of AdamW's second moment."""

    def __post_init__(self) -> None:
        OptimConfig.__post_init__(self)
        _named(self, "muon")
        _not_fused(self)
        for name in ("momentum", "beta1", "beta2"):
            _decay(name, getattr(self, name))
        _at_least_zero("eps", self.eps)
        found, ratio = self.iterations, self.adamw_ratio
        require(found >= 1, "optim.iterations", found, "1 or more", "set for example 5")
        holds = 0 < ratio < math.inf
        require(holds, "optim.adamw_ratio", ratio, "a finite number above 0", "set for example 1")


def _named(config: OptimConfig, name: str) -> None:
    found = config.name
    require(found == name, "optim.name", found, name, "choose an optimizer with optim=NAME")


def _decay(name: str, value: float) -> None:
    require(0 <= value < 1, f"optim.{name}", value, "0 <= value < 1", "set for example 0.9")


def _at_least_zero(name: str, value: float) -> None:
    require(value >= 0, f"optim.{name}", value, "0 or more", "set 0 to switch it off")


def _not_fused(config: OptimConfig) -> None:
    found = config.implementation
    holds = found is not Implementation.fused
    remedy = "set optim.implementation=auto"
    require(holds, "optim.implementation", str(found), "auto, foreach or loop", remedy)
