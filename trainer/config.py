"""What a run is made of: the trainer's own config objects, and RunConfig that holds every room's.

Each object checks its own fields; what several must agree on is checked in trainer/build.py.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..checkpoint import CheckpointConfig
from ..data import DataConfig
from ..parallel import MemoryConfig, ParallelConfig, PrecisionConfig
from .guard.config import GuardConfig
from .optim.config import OptimConfig
from .recovery.config import ChaosConfig, RecoveryConfig
from .require import require
from .telemetry.sinks.config import SinkSettings


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """Base of every model's config; the group `model` chooses the subclass."""

    name: str
    """Name of the preset, shown in the run's name and in manifests."""


@dataclass(kw_only=True, slots=True)
class LlamaConfig(ModelConfig):
    """A Llama-style decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

    hidden_size: int
    """Width of the residual stream, in features."""
    intermediate_size: int
    """Width of the feed-forward block, in features."""
    num_layers: int
    """Number of decoder blocks."""
    num_heads: int
    """Query heads; hidden_size must be a multiple of twice this."""
    num_kv_heads: int
    """Key and value heads; num_heads must be a multiple of this."""
    vocabulary_size: int = 0
    """Tokens in the embedding; 0 takes the data's tokenizer's size."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMSNorm."""
    initializer_range: float = 0.02
    """Standard deviation of the initial weights."""
    tie_embeddings: bool = False
    """Whether the output projection is the embedding itself."""

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads")
        for name in sizes:
            value = getattr(self, name)
            require(value >= 1, f"model.{name}", value, "1 or more", "set a positive number")
        require(
            self.hidden_size % (2 * self.num_heads) == 0,
            "model.hidden_size",
            self.hidden_size,
            f"a multiple of 2 x model.num_heads ({2 * self.num_heads})",
            "change one of the two",
        )
        require(
            self.num_heads % self.num_kv_heads == 0,
            "model.num_heads",
            self.num_heads,
            f"a multiple of model.num_kv_heads ({self.num_kv_heads})",
            "change one of the two",
        )


class LoadBalance(StrEnum):
    """What keeps the experts of a layer evenly loaded; `parallel.Router` says how."""

    bias = "bias"
    loss = "loss"
    none = "none"


@dataclass(kw_only=True, slots=True)
class MoEConfig(LlamaConfig):
    """A Llama whose feed-forwards are mixtures of experts, after a number of dense layers."""

    num_experts: int
    """Experts of one layer."""
    num_experts_per_token: int
    """Experts that each token goes to."""
    moe_intermediate_size: int
    """Width of one expert, in features; intermediate_size is that of the dense layers."""
    num_shared_experts: int = 0
    """Experts that every token goes to beside the chosen ones; computed as one SwiGLU."""
    num_dense_layers: int = 0
    """First layers whose feed-forward is dense; fewer than num_layers."""
    routed_scaling_factor: float = 1.0
    """Sum of a token's weights over its chosen experts."""
    load_balance: LoadBalance = LoadBalance.bias
    """bias: a bias that steers the choice alone; loss: an auxiliary loss; none."""
    balance_bias_rate: float = 0.001
    """What the bias moves by in one step, in units of the scores, which are 0 to 1."""
    balance_loss_weight: float = 0.01
    """Weight of the auxiliary loss beside the mean loss of a token."""

    def __post_init__(self) -> None:
        LlamaConfig.__post_init__(self)
        for name in ("num_experts", "moe_intermediate_size"):
            value = getattr(self, name)
            require(value >= 1, f"model.{name}", value, "1 or more", "set a positive number")
        for name, most in (
            ("num_experts_per_token", self.num_experts),
            ("num_dense_layers", self.num_layers - 1),
        ):
            least, value = int(name == "num_experts_per_token"), getattr(self, name)
            holds, needed = least <= value <= most, f"{least} to {most}"
            require(holds, f"model.{name}", value, needed, f"set model.{name}={least}")
        found = self.num_shared_experts
        require(found >= 0, "model.num_shared_experts", found, "0 or more", "set 0 for none")
        for name in ("routed_scaling_factor", "balance_bias_rate", "balance_loss_weight"):
            value = getattr(self, name)
            require(value > 0, f"model.{name}", value, "more than 0", "leave it out")


@dataclass(kw_only=True, slots=True)
class HuggingFaceConfig(ModelConfig):
    """A causal language model of the package transformers (extra `huggingface`)."""

    architecture: str | None = None
    """Name of its class, such as LlamaForCausalLM; null takes it from the config.json of `path`."""
    path: str | None = None
    """Local folder with config.json and, where training begins with them, weights in safetensors;
    or such a JSON file."""
    config: dict[str, Any] = field(default_factory=dict)
    """Keys of the architecture's configuration, such as hidden_size; they outrank config.json's.
    Without vocab_size it has the tokens of the data's tokenizer."""


@dataclass(kw_only=True, slots=True)
class ViTConfig(ModelConfig):
    """A Vision Transformer that classifies square images."""

    image_size: int
    """Height and width of an image, in pixels."""
    patch_size: int
    """Height and width of a patch, in pixels; image_size must be a multiple of it."""
    num_channels: int
    """Values of a pixel."""
    num_classes: int
    """Classes that an image may have."""
    hidden_size: int
    """Width of the residual stream, in features."""
    intermediate_size: int
    """Width of the feed-forward block, in features."""
    num_layers: int
    """Number of blocks."""
    num_heads: int
    """Attention heads; hidden_size must be a multiple of this."""
    norm_eps: float = 1e-6
    """Added to the variance in LayerNorm."""
    initializer_range: float = 0.02
    """Standard deviation of the initial weights."""

    def __post_init__(self) -> None:
        for name in ("image", "patch", "hidden", "intermediate"):
            _require_positive(self, f"{name}_size")
        for name in ("channels", "classes", "layers", "heads"):
            _require_positive(self, f"num_{name}")
        for whole, part in (("image_size", "patch_size"), ("hidden_size", "num_heads")):
            found, divisor = getattr(self, whole), getattr(self, part)
            needed = f"a multiple of model.{part} ({divisor})"
            require(found % divisor == 0, f"model.{whole}", found, needed, "change one of the two")


def _require_positive(config: ModelConfig, name: str) -> None:
    value = getattr(config, name)
    require(value >= 1, f"model.{name}", value, "1 or more", "set a positive number")


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    """Base of the learning-rate schedules: pure functions of the step."""

    name: str = ""
    """Name of the choice; tells runs of two schedules apart."""
    warmup_steps: int = 20
    """Steps of linear warm-up from 0; 0 means none."""
    min_ratio: float = 0.1
    """Learning rate at the last step, as a part of the peak."""

    def __post_init__(self) -> None:
        found = self.warmup_steps
        require(found >= 0, "schedule.warmup_steps", found, "0 or more", "set 0 for none")
        ratio = self.min_ratio
        require(0 <= ratio <= 1, "schedule.min_ratio", ratio, "0 to 1", "set for example 0.1")


def _check_schedule(config: ScheduleConfig, name: str) -> None:
    ScheduleConfig.__post_init__(config)
    found = config.name
    require(found == name, "schedule.name", found, name, "choose a schedule with schedule=NAME")


@dataclass(kw_only=True, slots=True)
class CosineConfig(ScheduleConfig):
    """Warm-up, then half a cosine down to `min_ratio` at `train.steps`."""

    name: str = "cosine"
    """Name of the choice; tells runs of two schedules apart."""

    def __post_init__(self) -> None:
        _check_schedule(self, "cosine")


@dataclass(kw_only=True, slots=True)
class LinearConfig(ScheduleConfig):
    """Warm-up, then a straight line down to `min_ratio` at `train.steps`."""

    name: str = "linear"
    """Name of the choice; tells runs of two schedules apart."""

    def __post_init__(self) -> None:
        _check_schedule(self, "linear")


@dataclass(kw_only=True, slots=True)
class InverseSqrtConfig(ScheduleConfig):
    """Warm-up, then the root of warmup_steps / step, whatever `train.steps` is (Vaswani et al.,
    arXiv 1706.03762)."""

    name: str = "inverse_sqrt"
    """Name of the choice; tells runs of two schedules apart."""
    min_ratio: float = 0.0
    """Part of the peak below which the learning rate does not fall."""

    def __post_init__(self) -> None:
        _check_schedule(self, "inverse_sqrt")


@dataclass(kw_only=True, slots=True)
class ConstantConfig(ScheduleConfig):
    """Warm-up, then the peak to the end."""

    name: str = "constant"
    """Name of the choice; tells runs of two schedules apart."""
    min_ratio: float = 1.0
    """Learning rate after the warm-up, as a part of the peak; 1 and nothing else."""

    def __post_init__(self) -> None:
        _check_schedule(self, "constant")
        ratio, remedy = self.min_ratio, "set a lower optim.lr, or schedule=linear for a fall"
        require(ratio == 1, "schedule.min_ratio", ratio, "1 for a constant schedule", remedy)


@dataclass(kw_only=True, slots=True)
class WSDConfig(ScheduleConfig):
    """Warm-up, stable, then linear decay over the last steps (arXiv 2404.06395)."""

    name: str = "wsd"
    """Name of the choice; tells runs of two schedules apart."""
    min_ratio: float = 0.0
    """Learning rate at the last step, as a part of the peak."""
    decay_fraction: float = 0.2
    """Part of `train.steps` that the decay takes, 0 to 1."""

    def __post_init__(self) -> None:
        _check_schedule(self, "wsd")
        found = self.decay_fraction
        require(0 <= found <= 1, "schedule.decay_fraction", found, "0 to 1", "set for example 0.2")


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """How much is trained, in which units, and what is measured on the way."""

    steps: int = 300
    """Optimizer steps of the whole run."""
    batch_tokens: int = 4096
    """Tokens of one optimizer step over the whole world; must be whole samples."""
    batch_samples: int | None = None
    """Samples of one optimizer step over the whole world; where set, batch_tokens is not used."""
    microbatch_samples: int = 8
    """Samples of one micro-batch: the fixed unit of arithmetic, whatever the number of ranks."""
    seed: int = 0
    """Seed of initial values and dropout."""
    eval_every: int = 100
    """Steps between evaluations; 0 means never (one at the end is made all the same)."""
    eval_samples: int = 512
    """Samples of the held-out split that an evaluation reads; 0 means all."""
    max_skips: int = 10
    """Steps in a row that may be skipped, for a loss or gradient that is not finite or stands out
    (guard); then stop."""
    sample_tokens: int = 64
    """Tokens of text generated at the end by a language model; 0 means none."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_tokens", "microbatch_samples", "batch_samples"):
            value = getattr(self, name)
            holds = value is None or value >= 1
            require(holds, f"train.{name}", value, "1 or more", "set a positive number")
        for name in ("eval_every", "eval_samples", "max_skips", "sample_tokens"):
            value = getattr(self, name)
            require(value >= 0, f"train.{name}", value, "0 or more", "set 0 to switch it off")


@dataclass(kw_only=True, slots=True)
class TelemetryConfig(SinkSettings):
    """What a person sees while the run goes on, and where else it is shown."""

    progress: bool = True
    """Whether rank 0 writes a progress line."""
    progress_seconds: float = 2.0
    """Seconds between progress lines where the output is not a terminal."""
    gradient_groups: bool = False
    """Whether metrics.jsonl holds the gradient norm of each block too, as `grad_norms`."""
    bits_every: int = 0
    """Steps between lines of bits.jsonl, a number for each tensor of the state by which `keepstep
    compare --bits` finds where two runs part; 0: none."""
    grid_grams_per_kwh: float | None = None
    """Grams of CO2 that the grid emits for a kWh, to give what was measured in; null: not known."""

    def __post_init__(self) -> None:
        found = self.progress_seconds
        require(found >= 0, "telemetry.progress_seconds", found, "0 or more", "set 0 for each step")
        every = self.bits_every
        require(every >= 0, "telemetry.bits_every", every, "0 or more", "set 0 for none")
        grams = self.grid_grams_per_kwh or 0.0
        require(
            grams >= 0, "telemetry.grid_grams_per_kwh", grams, "0 or more", "set null if unknown"
        )


class OnChange(StrEnum):
    """What happens when the run's folder holds a run of another configuration."""

    refuse = "refuse"
    accept = "accept"


@dataclass(kw_only=True, slots=True)
class RunSection:
    """Where the run lives and whether it goes on from what is there."""

    name: str | None = None
    """Name of the run; null names it after model, data and a digest of the configuration."""
    dir: str | None = None
    """Folder of the run; null means runs/<name>."""
    resume: str = "auto"
    """auto: from the newest whole checkpoint if there is one; must: refuse to start without one;
    never: refuse to start beside one; a step number: from that step."""
    on_change: OnChange = OnChange.refuse
    """What to do when the folder holds a run of another model, data, optimizer or batch."""
    init_from: str | None = None
    """A run's folder, a place of checkpoints or one of them, folder or URL, with whose newest whole
    weights a new run begins, as for fine-tuning; null: with new ones. What goes on goes on."""
    init_only: list[str] = field(default_factory=lambda: ["model.*"])
    """Globs of the tensors that are taken from there; all of them must be in both."""

    def __post_init__(self) -> None:
        weights = all(glob.startswith(("model.", "ema.")) for glob in self.init_only)
        needed = "one or more globs, each of names that begin with model. or ema."
        holds = bool(self.init_only) and weights
        require(holds, "run.init_only", self.init_only, needed, "set [model.*] for the weights")
        holds = self.resume in ("auto", "never", "must") or self.resume.isdigit()
        remedy = "set run.resume=auto to go on from the newest checkpoint"
        require(holds, "run.resume", self.resume, "auto, never, must or a step number", remedy)


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """The whole of a run, as Hydra composes it from the folder configs/."""

    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    chaos: ChaosConfig = field(default_factory=ChaosConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    run: RunSection = field(default_factory=RunSection)
