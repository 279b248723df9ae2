"""The guard of the plan: imports run down only, caps hold, one reader of the environment."""

import ast
import functools
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PEERS = ("parallel", "checkpoint", "data")
ROOMS = (*PEERS, "trainer", "configs")
MAY_IMPORT = {
    "trainer": {"trainer", *PEERS, "configs"},
    **{peer: {peer} for peer in PEERS},
    "configs": set(),
}
ROOT_NAMES = {
    *ROOMS,
    *("tests", "scripts", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"),
    *("CONTRIBUTING.md", "constraints.txt", "__init__.py", "py.typed"),
}
BUILT = {"build", "dist", "runs", "keepstep.egg-info", "__pycache__"}
FILE_LINES, FUNCTION_LINES, INIT_LINES, PARAMETERS, INIT_FILE_LINES = 450, 70, 40, 10, 40
DRAWERS = {"utils", "util", "common", "core", "helpers", "helper", "misc"}


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """Modules of the house that a file imports, as room.module, relative ones resolved."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (
                a.name.removeprefix("keepstep.") for a in node.names if "keepstep" in a.name
            )
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
            elif (node.module or "").split(".")[0] == "keepstep":
                base, node.module = (), (node.module or "").partition(".")[2]
            else:
                continue
            stem = ".".join((*base, node.module) if node.module else base)
            names = [f"{stem}.{alias.name}".lstrip(".") for alias in node.names]
            yield from (name if _is_module(name) else stem for name in names)


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def test_imports_run_down_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for room in ROOMS
        for path in sources(room)
        for name in imported(path)
        if name.split(".")[0] not in MAY_IMPORT[room]
    ]
    assert not wrong, wrong


def test_no_import_circles() -> None:
    graph = {module_name(path): set(imported(path)) for path in sources(*ROOMS)}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(graph.get(name, ())):
                walk(target, (*trail, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def test_environment_has_one_reader() -> None:
    readers = [
        str(path.relative_to(ROOT))
        for path in sources(*ROOMS)
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv"))
        or (isinstance(node, ast.alias) and node.name in ("environ", "getenv", "putenv"))
    ]
    assert set(readers) <= {"parallel/process.py"}, readers


@pytest.mark.parametrize(
    "path", sources(*ROOMS, "tests", "scripts"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_sizes_stay_under_their_caps(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= (INIT_FILE_LINES if path.name == "__init__.py" else FILE_LINES)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            cap = INIT_LINES if node.name == "__init__" else FUNCTION_LINES
            assert length <= cap, f"{path.name}:{node.name} has {length} lines, cap {cap}"
            count = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
            assert count <= PARAMETERS, f"{path.name}:{node.name} takes {count} parameters"


def test_init_files_hold_names_only() -> None:
    allowed = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign)
    for path in sources(*ROOMS):
        if path.name == "__init__.py":
            body = tree(path).body
            assert all(isinstance(node, allowed) for node in body), path
            assert ast.get_docstring(tree(path)), f"{path} says not why it exists"


def test_no_drawers() -> None:
    names = {path.stem for path in sources(*ROOMS)} | {p.parent.name for p in sources(*ROOMS)}
    assert not names & DRAWERS


def test_root_holds_the_plan_and_nothing_else() -> None:
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert names - BUILT == ROOT_NAMES


def test_packages_list_equals_the_folders() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(("keepstep", *path.parent.relative_to(ROOT).parts))
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert set(listed) == found | {"keepstep"}
    assert len(listed) == len(set(listed))


def test_public_surface_equals_all() -> None:
    for room in (*PEERS, "trainer"):
        body = tree(ROOT / room / "__init__.py").body
        names = [
            alias.asname or alias.name
            for node in body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        ]
        listed = next(
            ast.literal_eval(node.value)
            for node in body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        )
        assert set(listed) == set(names), f"{room}.__all__ differs from what it imports"
