"""What a user sets about stores. Credentials are none of it: each store's SDK finds its own."""

from dataclasses import dataclass
from enum import StrEnum


class Transport(StrEnum):
    """The library that moves the bytes."""

    auto = "auto"
    fsspec = "fsspec"
    obstore = "obstore"


@dataclass(kw_only=True, slots=True)
class StoreConfig:
    """How a store is reached, and when a request to it counts as failed. Nothing is retried here.

    Credentials come from the environment, files or instance that the store's SDK looks at.
    """

    transport: Transport = Transport.auto
    """auto: obstore where it is installed and knows the URL's scheme, else fsspec. Both behave
    alike; obstore takes about a third of the processor time."""

    endpoint_url: str | None = None
    """The S3 server, http:// or https://. None: what the SDK finds, else AWS."""

    region: str | None = None
    """The S3 region. None: what the SDK finds."""

    anonymous: bool = False
    """Whether to sign nothing, for public buckets."""

    connect_seconds: float = 5.0
    """The longest a connection may take to be made."""

    first_byte_seconds: float = 5.0
    """The longest from a request to the first byte of its answer. With obstore, a silent
    connection is given the longer of this and `stall_seconds`, at any point."""

    stall_seconds: float = 5.0
    """A body of n bytes may take this many seconds and n / `slowest_bytes_per_second` more."""

    slowest_bytes_per_second: float = 250_000.0
    """The least rate at which a body must come in, on average."""

    connections: int = 128
    """Connections to one server that are kept open at most, where the library bounds them."""

    def __post_init__(self) -> None:
        for name in (
            "connect_seconds",
            "first_byte_seconds",
            "stall_seconds",
            "slowest_bytes_per_second",
            "connections",
        ):
            found = getattr(self, name)
            if found <= 0:
                raise ValueError(
                    f"data.store.{name}: found {found}, needed a number above 0; set one "
                    "or leave it out"
                )
        if self.endpoint_url is not None and not self.endpoint_url.startswith(
            ("http://", "https://")
        ):
            raise ValueError(
                f"data.store.endpoint_url: found {self.endpoint_url!r}, needed a URL that begins "
                "with http:// or https://; set that, or leave it out for AWS"
            )

    def body_seconds(self, size: int) -> float:
        """The longest a body of `size` bytes may take."""
        return self.stall_seconds + size / self.slowest_bytes_per_second
