"""The house of docs/architecture.md: rooms, one way down, public names, short functions."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import grimp
import pytest

import medcam

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "medcam"
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = [info.name for info in pkgutil.walk_packages(medcam.__path__, "medcam.")]

TOP = {"__init__.py", "errors.py", "installation.py", "maps.py", "py.typed", "targets.py"}
ROOMS = {
    "cli", "demo", "engine", "evaluation", "explanation", "files", "frameworks", "injection",
    "methods", "trust", "views",
}  # fmt: skip
ORIGINAL = {"backends", "medcam", "medcam_inject", "medcam_utils"}
"""The modules of the original package that its programs import, as packages: see decision 85."""

PUBLIC = {
    "medcam": medcam,
    **{
        f"medcam.{name}": importlib.import_module(f"medcam.{name}")
        for name in ("errors", "evaluation", "files", "methods", "targets", "demo", "trust")
    },
    **{
        f"medcam.{name}": importlib.import_module(f"medcam.frameworks.{name}")
        for name in ("monai", "nnunet", "onnx", "torchio")
    },
}
"""The modules whose `__all__` is the public interface; no other name is public."""


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


# ---------------------------------------------------------------------------------- the rooms


def test_the_top_holds_the_rooms_and_five_files():
    there = {path.name for path in SOURCE.iterdir() if path.name != "__pycache__"}
    assert there == TOP | ROOMS | ORIGINAL


def test_each_room_says_what_it_is_for_and_what_it_never_does():
    for path in SOURCE.rglob("__init__.py"):
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0]
        if path.parent == SOURCE:
            continue
        assert re.search(r"\b(never|no|not|nor|nothing|neither|none)\b", first), name_of(path)
        assert len(first) <= 200, name_of(path)


def test_the_rooms_are_those_of_the_docs():
    text = (ROOT / "docs" / "architecture.md").read_text()
    folders = {name_of(path.parent) for path in SOURCE.rglob("__init__.py")} - {"."}
    assert [folder for folder in sorted(folders) if f"`{folder}/`" not in text] == []


def test_tests_mirror_the_rooms():
    rooms = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    rooms -= {"__pycache__"}
    others = {"maps", "peers", "project", "regressions", "support", "zoo"}
    assert rooms == ROOMS | others


# ------------------------------------------------------------------------------- the way down


def graph() -> dict[str, set[str]]:
    found = grimp.build_graph("medcam", cache_dir=None)
    return {name: set(found.find_modules_directly_imported_by(name)) for name in found.modules}


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected parts of more than one (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    parts: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in edges[name]:
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            part = [stack.pop()]
            while part[-1] != name:
                part.append(stack.pop())
            if len(part) > 1:
                parts.append(sorted(part))

    for name in sorted(edges):
        if name not in order:
            visit(name)
    return parts


def test_no_files_import_each_other_in_a_circle():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]  # the test can fail
    assert circles(graph()) == []


def test_no_folders_import_each_other_in_a_circle():
    edges = graph()
    packages = {name.rpartition(".")[0] for name in edges} - {""}
    for package in packages:
        depth = package.count(".") + 2
        children: dict[str, set[str]] = {}
        for name, imported in edges.items():
            if name.startswith(f"{package}."):
                child = ".".join(name.split(".")[:depth])
                others = {".".join(other.split(".")[:depth]) for other in imported}
                known = {other for other in others if other.startswith(f"{package}.")}
                children.setdefault(child, set()).update(known - {child})
        assert circles(children) == [], package


def test_the_one_contract_ignores_nothing():
    text = (ROOT / ".importlinter").read_text()
    assert text.count("[importlinter:contract") == 1
    assert "ignore_imports" not in text
    levels = text.partition("layers =")[2].partition("containers")[0]
    assert set(re.findall(r"\w+", levels)) == (
        ROOMS | ORIGINAL | {"errors", "installation", "maps", "targets"}
    )


# --------------------------------------------------------------------------------- the names


def test_modules_have_no_underscore():
    assert [name for name in MODULES if re.search(r"\._(?!_)", name)] == []


def public_functions() -> set[str]:
    return {
        name
        for module in PUBLIC.values()
        for name in module.__all__
        if inspect.isfunction(getattr(module, name))
    }


def test_no_module_has_the_name_of_a_public_function():
    assert {"explain", "inject", "read_image", "explain_case"} <= public_functions()
    named = {module for module in MODULES if module.rpartition(".")[2] in public_functions()}
    assert named == {"medcam.views.montage"}  # a folder, and `medcam.views` has no such function


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_exists_has_a_docstring_and_says_how_it_is_called(name):
    module = PUBLIC[name]
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert inspect.getdoc(value), f"{name}.{public}"


def test_the_public_interface_is_written_down_once():
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## What is public")[2]
    assert set(re.findall(r"`(medcam[\w.]*)`", text.partition("\n## ")[0])) == set(PUBLIC)


def test_errors_are_what_users_catch():
    errors = PUBLIC["medcam.errors"]
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, (errors.MedcamError, errors.MedcamWarning))
    }
    assert set(errors.__all__) == defined
    assert {getattr(errors, name).__module__ for name in defined} == {"medcam.errors"}
    assert medcam.errors is errors


# ------------------------------------------------------------------------------ short and plain


def bodies() -> list[tuple[str, int]]:
    """Every function with the number of lines of its body, without its docstring."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body
                if ast.get_docstring(node) is not None:
                    body = body[1:]
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                found.append((f"{name_of(path)}:{node.name}", lines))
    return found


def test_functions_and_files_are_short():
    assert len(bodies()) > 500
    assert [(name, lines) for name, lines in bodies() if lines > 60] == []
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


PLACEHOLDERS = {"given", "found", "one", "told"}


def named(tree: ast.AST) -> set[str]:
    """The names of variables, parameters and functions that a file makes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
    return names


def test_names_say_the_noun():
    used = {
        name_of(path): names
        for path in FILES
        if (names := named(ast.parse(path.read_text())) & PLACEHOLDERS)
    }
    assert used == {}


def test_docstrings_begin_with_an_imperative_or_a_noun():
    """No "Gives", "Says", "Makes" ...: one voice."""
    third_person = re.compile(
        r"^(Gives|Says|Tells|Makes|Takes|Puts|Returns|Raises|Writes|Reads|Draws|Shows|Opens|Loads|"
        r"Builds|Checks|Keeps|Lets|Brings|Chooses|Runs|Whatever|Whoever)\b"
    )
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                is_property = any(
                    isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list
                )
                if third_person.match(text) or (text.startswith("Whether") and not is_property):
                    found.append(f"{name_of(path)}:{node.name}: {text.splitlines()[0]}")
    assert found == []


def test_one_rule_resamples_maps():
    """`F.interpolate` is called in `maps.py`; the demo resamples an image with it, no map."""
    calls = {
        name_of(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute | ast.Name)
        and (node.attr if isinstance(node, ast.Attribute) else node.id) == "interpolate"
    }
    assert calls == {"maps.py", "demo/assets.py"}


def test_prose_of_the_docs_wraps_at_a_hundred_columns():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    found = []
    for page in pages:
        in_code = False
        for number, line in enumerate(page.read_text().splitlines(), 1):
            in_code ^= line.lstrip().startswith("```")
            fixed = in_code or line.lstrip().startswith(("|", "!", "<", "$$", "options:", "[!"))
            if len(line) > 100 and not fixed and " " in line.strip()[:80]:
                found.append(f"{page.relative_to(ROOT)}:{number}: {len(line)}")
    assert found == []


def test_modules_are_modules() -> None:
    """`import medcam.a.b as m` gives a module, never a function of that name."""
    for name in MODULES:
        imported = importlib.import_module(name)
        assert isinstance(imported, ModuleType)
        parent, _, last = name.rpartition(".")
        assert getattr(importlib.import_module(parent), last) is imported, name
