"""The names of objects in a place, which never lead out of it."""


def check_name(name: str, place: object) -> list[str]:
    """The parts of `folder` or `folder/file`; ValueError if it would not lie inside the place."""
    parts = name.split("/")
    if not all(parts) or "." in parts or ".." in parts or "\0" in name:
        raise ValueError(
            f"The name {name!r} is not inside {place}, but must be a folder or `folder/file` of "
            "it: name one that a listing shows."
        )
    return parts
