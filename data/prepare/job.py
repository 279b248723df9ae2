"""One preparation as every process that works on it knows it: files, parts, settings, folder."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from .config import PrepareConfig
from .text.files import SourceFile
from .text.parts import Part, cut_parts
from .work import Work, publish

_JOB = "job.json"
TOKENIZER = "tokenizer.json"
"""In the work folder, and in the finished one; in the former from the start where one is given."""
STAGES = ("survey", "decide", "encode", "shard", "finish")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is prepared, from what, how and where; a plain value."""

    name: str
    url: str
    """Where the files' filesystem is found again."""
    folder: Path
    """What the finished folder is to be."""
    work: Path
    files: list[SourceFile]
    format: str
    text_field: str
    seed: int
    eval_fraction: float
    vocabulary_size: int
    is_tolerant: bool
    """Whether files that are not UTF-8 are left out unasked, as of a corpus that has some."""
    settings: PrepareConfig
    facts: dict[str, Any]
    """The manifest's "source" and "settings"."""

    @property
    def results(self) -> Work:
        return Work(self.work)

    @property
    def filling(self) -> Path:
        """What becomes the finished folder."""
        return self.work / "folder"

    def parts(self) -> list[Part]:
        """The input in pieces of work; the same whoever asks."""
        return cut_parts(self.files, self.format, self.settings.part_bytes)

    def save(self) -> None:
        """Writes the job into its work folder, for processes that are started and not forked."""
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("files", "settings", "folder", "work")
        }
        body = {
            **fields,
            "folder": str(self.folder),
            "files": [[x.name, x.path, x.size, x.stamp] for x in self.files],
            "settings": dataclasses.asdict(self.settings),
        }
        content = json.dumps(body).encode()
        publish(self.work / _JOB, lambda stream: stream.write(content))


def load_job(work: Path) -> Job:
    """The job that `save` wrote."""
    body = json.loads((work / _JOB).read_bytes())
    filesystem, _ = url_to_fs(body["url"])
    files = [
        SourceFile(name, path, size, stamp, filesystem)
        for name, path, size, stamp in body.pop("files")
    ]
    return Job(
        work=work,
        folder=Path(body.pop("folder")),
        files=files,
        settings=PrepareConfig(**body.pop("settings")),
        **body,
    )
