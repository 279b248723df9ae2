"""Pickles are read as records: known ones in full, any other refused by name before it can run."""

import collections
import contextlib
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keepstep.checkpoint.formats.pickled import (
    Made,
    Named,
    Pairs,
    UnreadableError,
    read_pickle,
)

ORDERED = {Named("collections", "OrderedDict")}
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


class Hostile:
    """Makes a file wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def plain(value: Any) -> Any:
    """Records of dicts as dicts again."""
    if isinstance(value, Pairs):
        return {key: plain(one) for key, one in value.items}
    if isinstance(value, list | tuple):
        return type(value)(plain(one) for one in value)
    return value


@given(PLAIN, st.integers(3, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_read_as_they_are(value: Any, protocol: int) -> None:
    assert plain(read_pickle(pickle.dumps(value, protocol), ())) == value


def test_an_object_becomes_its_class_arguments_and_state() -> None:
    data = pickle.dumps(collections.OrderedDict(a=1))
    made = read_pickle(data, ORDERED)
    assert isinstance(made, Made)
    assert (str(made.kind), made.args, made.items) == ("collections.OrderedDict", (), [("a", 1)])


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_another_global_is_refused_by_name_and_nothing_runs(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"weights": [1, Hostile(tmp_path / "ran")]}, protocol)
    with pytest.raises(UnreadableError, match=r"names (posix|nt)\.system, which no such"):
        read_pickle(data, ORDERED)
    assert list(tmp_path.iterdir()) == []
    pickle.loads(data)  # the trap is one
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is no pickle"),
        (b"\x80\x04K\x01", "it has no end|exhausted"),
        (b"\x80\x04.", "is no pickle"),
        (b"\x80\x04(.", "a mark stands for a value"),
        (b"\x80\x04h\x07.", "is no pickle"),
        (b"\x80\x02I12\n.", "holds the opcode INT"),
        (b"\x80\x02cos\nsystem\n.", "names os.system"),
        (b"\x80\x02(S'x'\nios\nsystem\n.", "holds the opcode"),
        (b"\x80\x04K\x01K\x02b.", "gives a state to what is no object"),
        (b"\x80\x04K\x01)R.", "makes something of what is no class"),
        (b"\x80\x02\x82\x01.", "holds the opcode EXT1"),
    ],
)
def test_bytes_that_are_no_such_pickle_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(UnreadableError, match=words):
        read_pickle(data, ())


@given(st.binary(max_size=60), st.integers(0, 400))
@example(b"", 0)
def test_changed_bytes_are_read_or_refused_and_nothing_else(noise: bytes, at: int) -> None:
    good = pickle.dumps({"a": [1, 2.5, ("x", None)], "b": collections.OrderedDict(c=[b"y"])})
    data = good[:at] + noise + good[at + len(noise) :]
    with contextlib.suppress(UnreadableError):
        read_pickle(data, ORDERED)


def test_the_opcodes_that_can_import_or_call_are_known_or_refused() -> None:
    risky = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"}
    risky |= {"EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER"}
    assert risky <= {opcode.name for opcode in pickletools.opcodes}
    for code in ("INST", "OBJ", "NEWOBJ_EX", "EXT1", "PERSID", "NEXT_BUFFER"):
        found = next(opcode for opcode in pickletools.opcodes if opcode.name == code)
        data = b"\x80\x05" + found.code.encode("latin1") + b"\x01os\nsystem\n."
        with pytest.raises(UnreadableError):
            read_pickle(data, ORDERED)
