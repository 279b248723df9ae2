"""What a user sets about data. Checks its own fields only: no file is looked at here."""

import difflib
from dataclasses import dataclass
from enum import StrEnum

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

    cache_dir: str | None = None
    """Folder that keeps prepared data between runs. None: the user's cache folder."""

    prefetch_batches: int = 4
    """Optimizer steps of data that are read ahead; at least 1."""

    lanes: int = 64
    """Strands of data interleaved in every batch; fewer are used where samples are few."""

    block: int = 0
    """Consecutive samples that are read together; fewer are used where samples are few. 0: as many
    as an extent of the store holds, or 64 at most where there is little data."""

    window: int = 8
    """Blocks of a lane that are shuffled together: a pool of lanes x window x block samples."""

    def __post_init__(self) -> None:
        if self.path is None and self.name not in CORPORA:
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
