"""What a user sets about data. Checks its own fields only: no file is looked at here."""

import difflib
from dataclasses import dataclass, field, replace
from enum import StrEnum

from .cache import CacheConfig
from .fetch import FetchConfig
from .prepare.config import PrepareConfig
from .quarantine.policy import OnBad
from .store import StoreConfig

TOKEN_DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "int64")
CORPORA = ("shakespeare", "stdlib")


class DataFormat(StrEnum):
    """How the files of a dataset are read."""

    auto = "auto"
    text = "text"
    jsonl = "jsonl"
    parquet = "parquet"
    arrow = "arrow"
    """Arrow's IPC: files, Feather version 2, streams."""
    mds = "mds"
    """Mosaic Data Shards, version 2."""
    litdata = "litdata"
    """Chunks of items of litdata."""
    webdataset = "webdataset"
    """Tar archives."""
    tokens = "tokens"
    """Token shards that `keepstep data prepare` wrote."""
    npy = "npy"
    """Flat .npy arrays of token ids."""
    raw = "raw"
    """Arrays of token ids without a header."""
    megatron = "megatron"
    """Pairs of .bin and .idx."""
    litdata_tokens = "litdata_tokens"
    """Chunks of token arrays of litdata."""


class Packing(StrEnum):
    """How documents become samples of one length."""

    concatenate = "concatenate"
    """Put end to end and cut; a token sees whatever comes before it in its sample."""
    isolated = "isolated"
    """The same, but attention and positions stay inside each document."""
    fitted = "fitted"
    """Whole documents side by side, best fit first, each by itself; longer ones are cut."""


@dataclass(kw_only=True, slots=True)
class MixtureSource:
    """One source of a mixture."""

    name: str
    """A name for it; shakespeare and stdlib are there without a path."""
    path: str | None = None
    """As data.path."""
    format: DataFormat = DataFormat.auto
    """As data.format."""
    weight: float = 1.0
    """Its share of the samples, as a part of all weights' sum; from the run's start."""

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(
                f"data.mixture {self.name}: found the weight {self.weight}, needed 0 or more; set "
                "0 to leave it out at first"
            )


@dataclass(kw_only=True, slots=True)
class WeightChange:
    """Other weights from some sample on."""

    samples: int
    """Samples of the run, over all ranks, after which they hold."""
    weights: list[float]
    """One a source, in the order of data.mixture."""


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Where the records come from, how they become tokens, and the order in which they are seen."""

    name: str
    """The corpus: "shakespeare", "stdlib", or any name for your own where `path` is set."""

    path: str | None = None
    """A folder, file, glob or fsspec URL of text, JSONL or Parquet, which replaces the named
    corpus; or a local folder of prepared token shards. None: the named corpus."""

    format: DataFormat = DataFormat.auto
    """How `path` is read. auto: token shards where a folder holds their manifest, else by suffix
    (.jsonl, .ndjson, .parquet; .gz is unpacked), and anything else as text."""

    text_field: str = "text"
    """The field of a JSONL record, or the Parquet column, that holds the text."""

    sequence_length: int = 128
    """Tokens a sample is trained on; a sample holds one more, the last target."""

    seed: int = 0
    """Decides the order of the samples and which documents are held out for evaluation."""

    vocabulary_size: int = 4096
    """Entries at most of the tokenizer trained on the text; at least 257 (256 bytes and the end
    of text). Not used where `tokenizer` is set."""

    tokenizer: str | None = None
    """A Hugging Face tokenizer.json (path or URL) to use. None: one is trained on the text."""

    eval_fraction: float = 0.05
    """Share of the documents held out for evaluation, between 0 and 1, both excluded; at least
    one document is held out and at least one is kept."""

    prefetch_batches: int = 4
    """Optimizer steps of data that are read ahead; at least 1."""

    lanes: int = 64
    """Strands of data interleaved in every batch; fewer are used where samples are few."""

    block: int = 0
    """Consecutive samples that are read together; fewer are used where samples are few. 0: as many
    as an extent of the store holds, or 64 at most where there is little data."""

    window: int = 8
    """Blocks of a lane that are shuffled together: a pool of lanes x window x block samples."""

    packing: Packing = Packing.concatenate
    """How documents become samples: concatenate, isolated or fitted."""

    token_field: str = "tokens"
    """The column of MDS, litdata, WebDataset, Parquet or Arrow records that holds token ids."""

    token_dtype: str | None = None
    """Type of the ids where the format does not say it (raw arrays, bytes), e.g. uint16."""

    end_token: int | None = None
    """The id that ends a document, where the data does not say it and `packing` must know."""

    mixture: list[MixtureSource] = field(default_factory=list)
    """Sources that are mixed, in place of `name` and `path`:
    data.mixture=[{name:books,path:s3://bucket/books,weight:0.7},{name:stdlib,weight:0.3}]."""

    mixture_changes: list[WeightChange] = field(default_factory=list)
    """Other weights from given samples on, e.g. [{samples:100000,weights:[1,1]}]."""

    extent_bytes: int = 0
    """Bytes that are fetched and cached as one, 64 KiB to 8 MiB; 0: 4 MiB, less where there is
    little data."""

    ahead_bytes: int = 4 * 2**30
    """How far ahead each process fetches at most, in bytes of samples; no farther than the pool of
    samples that are shuffled together and some seconds, nor than an eighth of the cache."""

    held_bytes: int = 256 * 2**20
    """Bytes that each process keeps in memory of what the cache has no room for."""

    on_bad: OnBad = OnBad.refuse
    """What becomes of a sample that cannot be read, or whose ids are no ids of the vocabulary, in
    data that others wrote: refuse ends the run, skip takes another one in its place."""

    max_bad: float = 0.001
    """How many may be skipped: a number where 1 or more, else a share of all samples."""

    require_signed: str | None = None
    """File of an Ed25519 public key: only data whose lock is signed by it, with digests of every
    extent, is read. None: no signature is asked for."""

    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    """How text becomes tokens."""

    cache: CacheConfig = field(default_factory=CacheConfig)
    """The node's cache of what stores hold; `cache.folder` also keeps prepared data."""

    store: StoreConfig = field(default_factory=StoreConfig)
    """How stores are reached."""

    fetch: FetchConfig = field(default_factory=FetchConfig)
    """How much is asked for at once, how often again, and how long an outage is ridden out."""

    def __post_init__(self) -> None:
        if self.path is None and not self.mixture and self.name not in CORPORA:
            nearest = difflib.get_close_matches(self.name, CORPORA, n=1) or CORPORA[:1]
            raise ValueError(
                f"data.name: found {self.name!r}, needed one of {', '.join(CORPORA)} or a "
                f"data.path of your own; set data.name={nearest[0]} or data.path=FOLDER"
            )
        for name, least in (
            ("sequence_length", 1),
            ("vocabulary_size", 257),
            ("prefetch_batches", 1),
            ("lanes", 1),
            ("block", 0),
            ("window", 1),
            ("seed", 0),
            ("extent_bytes", 0),
            ("ahead_bytes", 1),
            ("held_bytes", 0),
        ):
            found = getattr(self, name)
            if found < least:
                raise ValueError(
                    f"data.{name}: found {found}, needed {least} or more; "
                    f"set data.{name}={least} or leave it out"
                )
        if not 0.0 < self.eval_fraction < 1.0:
            raise ValueError(
                f"data.eval_fraction: found {self.eval_fraction}, needed a number between 0 and 1, "
                "both excluded; set data.eval_fraction=0.05 or leave it out"
            )
        if self.token_dtype not in (None, *TOKEN_DTYPES):
            raise ValueError(
                f"data.token_dtype: found {self.token_dtype!r}, needed one of "
                f"{', '.join(TOKEN_DTYPES)}; set data.token_dtype=uint16 for most tokenizers"
            )
        for change in self.mixture_changes:
            if len(change.weights) != len(self.mixture):
                raise ValueError(
                    f"data.mixture_changes: found weights {change.weights} from sample "
                    f"{change.samples}, needed one for each of the {len(self.mixture)} sources of "
                    "data.mixture; give one a source"
                )

    def part(self, source: MixtureSource) -> "DataConfig":
        """The settings of one source of the mixture by itself."""
        return replace(
            self,
            name=source.name,
            path=source.path,
            format=source.format,
            mixture=[],
            mixture_changes=[],
        )

    def weights(self) -> list[tuple[int, list[float]]]:
        """(position, weights) pairs of the mixture, from the run's start on."""
        first = (0, [source.weight for source in self.mixture])
        return [first, *((change.samples, change.weights) for change in self.mixture_changes)]
