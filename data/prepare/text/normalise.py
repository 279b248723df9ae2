"""One form for texts that look the same: Unicode, line ends, control characters, blanks.

Pure functions; what is taken away carries no meaning in running text.
"""

import re
import unicodedata

# Line ends of other systems, and the two that Unicode adds beside \n.
_LINE_ENDS = re.compile("\r\n|[\r\x85\u2028\u2029]")
# C0 and C1 without tab and line feed, delete, and the mark of byte order inside a text.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")
_BLANKS = re.compile(r"[^\S\n]+")
_AROUND_LINE_ENDS = re.compile(r" ?\n ?")
_EMPTY_LINES = re.compile(r"\n{3,}")


def normalise(text: str) -> str:
    """Unicode Normalization Form C (UAX 15), line ends as \\n, no control characters."""
    text = _LINE_ENDS.sub("\n", text)
    text = _CONTROLS.sub("", text)
    # Surrogates come from JSON escapes of half a pair; no encoding of Unicode can hold them.
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        text = unicodedata.normalize("NFC", text)
    return text


def fold_blanks(text: str) -> str:
    """Runs of blanks as one, none at the ends of lines, at most one empty line, none around."""
    text = _BLANKS.sub(" ", text)
    text = _AROUND_LINE_ENDS.sub("\n", text)
    return _EMPTY_LINES.sub("\n\n", text).strip()
