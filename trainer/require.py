"""The one sentence that every config object says of a wrong value of its own."""


def require(holds: bool, key: str, found: object, needed: str, remedy: str) -> None:
    """Raises the one-sentence ValueError of a wrong setting unless `holds`."""
    if not holds:
        raise ValueError(f"{key}: found {found!r}, needed {needed}; {remedy}")
