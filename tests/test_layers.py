"""The layers that docs/design.md draws, held against what the code imports; and that what the guides name is there."""

import ast
import builtins
import importlib
import keyword
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY

DESIGN = REPOSITORY / "docs" / "design.md"
GUIDES = (DESIGN, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "docs" / "training.md")


def layers() -> dict[str, int]:
    """Room -> height, from the drawing: the higher imports from the lower."""
    drawing = re.search(r"```text\n(pipeline\n.*?)```", DESIGN.read_text(), re.DOTALL)
    assert drawing, "docs/design.md has lost its drawing"
    found: dict[str, int] = {}
    package = ""
    lines = drawing[1].splitlines()
    for height, line in zip(range(len(lines), 0, -1), lines, strict=True):
        if not line.startswith(" "):
            package = line.strip()
            continue
        rooms = re.split(r" {3,}", line.strip())[0].split()
        found |= {f"{package}.{room}": height for room in rooms}
    return found


def imports(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            base = REPOSITORY.joinpath(*node.module.split("."))
            for alias in node.names:
                inner = (base / f"{alias.name}.py").exists() or (base / alias.name).is_dir()
                yield f"{node.module}.{alias.name}" if inner else node.module


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def arrows() -> list[tuple[str, str, Path]]:
    """(importing room, imported room, file), without those inside one room and those to the bare packages."""
    found = []
    for package in ("pipeline", "model"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
            for imported in imports(path):
                pair = room_of(module), room_of(imported)
                if imported.split(".")[0] in ("pipeline", "model") and "." in imported and len(set(pair)) == 2:
                    found.append((*pair, path.relative_to(REPOSITORY)))
    return found


def test_every_room_is_drawn():
    rooms = {room for one, other, _ in arrows() for room in (one, other)} - {"pipeline", "model"}
    assert rooms == set(layers())


def test_imports_point_down():
    height = layers()
    up = [
        f"{path}: {one} -> {other}"
        for one, other, path in arrows()
        if one in height and one.split(".")[0] == other.split(".")[0] and height[other] >= height[one]
    ]
    assert not up, "\n".join(up)


def test_the_pipeline_knows_no_network_and_networks_use_what_is_listed():
    listed = re.search(r"`model` uses of `pipeline`:\s(.*?)\.\n", DESIGN.read_text(), re.DOTALL)
    assert listed
    allowed = set(re.findall(r"`(\w+)`", listed[1]))
    used = {
        other.split(".")[1] for one, other, _ in arrows() if one.startswith("model") and other.startswith("pipeline")
    }
    assert used == allowed
    into_model = [path for one, other, path in arrows() if one.startswith("pipeline") and other.startswith("model")]
    assert all(path.parts[1] == "engines" for path in into_model), into_model


def named_things() -> list[tuple[str, str]]:
    """(guide, name) of every path and dotted name in backticks that speaks of this repository."""
    found = []
    for guide in GUIDES:
        text = re.sub(r"```.*?```", "", guide.read_text(), flags=re.DOTALL)
        for name in re.findall(r"`([\w./-]+)`", text):
            if re.match(r"(pipeline|model|tests|scripts|docs|jobs|benchmarks)[./]", name) and not name.endswith(
                ".safetensors"
            ):
                found.append((guide.name, name))
    return sorted(set(found))


@pytest.mark.parametrize(("guide", "name"), named_things())
def test_what_the_guides_name_is_there(guide: str, name: str):
    if "/" in name:
        assert (REPOSITORY / name).exists()
        return
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return
    raise AssertionError(f"{name} is no module")


FOREIGN = {
    "sha256sum",
    "tonemap",
    "json",
    "jsonl",
    *dir(builtins),
    *keyword.kwlist,
}  # programs, filters, endings, Python's own


def docstrings_and_names() -> tuple[list[tuple[Path, str, set[str]]], set[str], dict[str, set[str]]]:
    """(file, docstring, variables of the file) of all our code; every name used in it; what each module defines, by its last
    name."""
    docs, names = [], set()
    defined: dict[str, set[str]] = {}
    for path in (path for folder in ("pipeline", "model", "scripts") for path in (REPOSITORY / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        nodes = list(ast.walk(tree))
        variables = {node.arg for node in nodes if isinstance(node, ast.arg)}
        variables |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        own = defined.setdefault(path.stem if path.stem != "__init__" else path.parent.name, {"py"})
        if path.stem == "__init__":
            own |= {inner.stem for inner in path.parent.iterdir()}
        for node in nodes:
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
                docs.append((path.relative_to(REPOSITORY), ast.get_docstring(node) or "", variables))
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Name):
                own |= {node.id} if isinstance(node.ctx, ast.Store) else set()
                names.add(node.id)
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
                names |= set(re.findall(r"\w+", node.value))
        names |= own | variables | set(path.parts) | {path.stem}
    return docs, names, defined


def test_what_docstrings_name_is_there():
    docs, names, defined = docstrings_and_names()
    stale = []
    for path, text, variables in docs:
        for name in re.findall(r"`([a-z_A-Z]\w*(?:\.\w+)*)(?:\(\))?`", text):
            first, *rest = name.split(".")
            known = all(part in names | FOREIGN for part in (first, *rest))
            if len(rest) == 1 and first in defined and first not in variables:
                known = rest[0] in defined[first] | FOREIGN
            if not known and not name.isupper():
                stale.append(f"{path}: `{name}`")
        for name in re.findall(r"(?<![\w/<>])((?:pipeline|model|scripts|docs|jobs|benchmarks)/[\w./]*\w)", text):
            if not (REPOSITORY / name).exists():
                stale.append(f"{path}: {name}")
    assert not stale, "\n".join(stale)
