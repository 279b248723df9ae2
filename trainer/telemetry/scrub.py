"""What must not leave the machine with a run's facts: credentials in URLs and in settings."""

import re
from typing import Any

HIDDEN = "***"
# Whole words of a key: `telemetry.wandb.api_key` and `AUTH_TOKEN`, not `batch_tokens`.
_SECRET_KEY = re.compile(
    r"(?:^|[._-])(?:token|secret|password|passwd|passphrase|credentials?|authorization|auth|bearer|"
    r"api[_-]?key|access[_-]?key(?:[_-]id)?|private[_-]?key|session[_-]?key)(?:$|[._-])",
    re.IGNORECASE,
)
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>,\]\)}]+", re.IGNORECASE)
_USER = re.compile(r"://[^/]*@")
_ASSIGNED = re.compile(r"^(?P<key>[+~]*[\w./@-]+)=(?P<value>.*)$", re.DOTALL)


def scrub(value: Any, key: str = "") -> Any:
    """The value as it may be shown: everything under a key named like a secret is hidden, and in
    text the user, password and query of each URL."""
    if _SECRET_KEY.search(key) and value not in (None, "", False, True):
        return HIDDEN
    if isinstance(value, dict):
        return {name: scrub(one, str(name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(one, key) for one in value]
    return _URL.sub(_bare, value) if isinstance(value, str) else value


def scrubbed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted key, each as it may be shown."""
    return {key: scrub(value, key) for key, value in settings.items()}


def scrub_word(word: str) -> str:
    """A word of a command line: of `key=value` the value as `scrub` shows it."""
    if (found := _ASSIGNED.match(word)) is not None:
        return f"{found['key']}={scrub(found['value'], found['key'].rpartition('.')[2])}"
    return str(scrub(word))


def _bare(found: re.Match[str]) -> str:
    address, asked, _ = found[0].partition("?")
    return _USER.sub("://", address) + (f"?{HIDDEN}" if asked else "")
