"""Imports inside the package go one way: from a higher layer to a lower one, and never in a circle."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "innerloop"

# Lowest first. A package imports from itself and from the lines before its own; docs/architecture.md shows it.
LAYERS = (
    ("errors", "notebook"),
    ("files",),
    ("encoders",),
    ("tasks", "engine"),
    ("models",),
    ("inner",),
    ("outer",),
    ("algorithms",),
    ("evaluation",),
    ("combining",),
    ("storage",),
    ("compare", "refining", "tuning"),
    ("estimators",),
    ("report",),
    ("cli",),
    ("__main__",),
)
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}
TOP = LAYER["cli"]


def modules(package: Path) -> dict[str, Path]:
    """Dotted name to file. A file `__init__.py` stands for its folder and may import what it likes."""
    files = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        if parts[-1] != "__init__":
            files[".".join(parts)] = path
    return files


def imported(name: str, path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import from the own package, wherever in the file it stands."""

    def exists(dotted: str) -> bool:
        path = package.parent.joinpath(*dotted.split("."))
        return path.is_dir() or path.with_suffix(".py").is_file()

    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # One dot is the folder of the module, each further dot one folder up.
            base = name.split(".")[: -node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            # `from .a import b` brings the module a.b where there is one, else a name out of a.
            inside = [f"{source}.{alias.name}" for alias in node.names]
            targets = [target if exists(target) else source for target in inside]
        else:
            continue
        for target in dict.fromkeys(targets):
            if target.split(".")[0] == package.name:
                yield node.lineno, target


def layer_faults(package: Path) -> list[str]:
    """One line for each module without a layer and each import that goes up."""
    faults = []
    for name, path in modules(package).items():
        own = name.split(".")[1]
        if own not in LAYER:
            faults.append(f"{name} has no layer: add {own!r} to LAYERS in tests/test_layers.py")
            continue
        for line, target in imported(name, path, package):
            where = f"{name}, line {line}"
            if target == package.name:
                # The root re-exports every layer, so importing it from below the top is a circle.
                if LAYER[own] < TOP:
                    faults.append(f"{where}: imports the root; import from the module that owns the name")
                continue
            other = target.split(".")[1]
            if other not in LAYER:
                faults.append(
                    f"{where}: {target} has no layer: add {other!r} to LAYERS in tests/test_layers.py"
                )
            elif other != own and LAYER[other] >= LAYER[own]:
                faults.append(f"{where}: {own} (layer {LAYER[own]}) imports {other} (layer {LAYER[other]})")
    return faults


def cycle(package: Path) -> list[str]:
    """The modules of one circle of imports, first and last the same; empty where there is none."""
    files = modules(package)
    graph = {name: {t for _, t in imported(name, path, package)} for name, path in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_module_has_a_layer_and_imports_only_downwards() -> None:
    assert modules(PACKAGE), f"no modules in {PACKAGE}"
    faults = layer_faults(PACKAGE)
    assert not faults, "\n".join(faults)


def test_no_module_imports_itself_through_others() -> None:
    circle = cycle(PACKAGE)
    assert not circle, " <- ".join(circle)


def write(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "innerloop"
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return package


UPWARD = {
    "relative": "from ..outer.training import meta_train\n",
    "module": "from .. import outer\n",
    "absolute": "from innerloop.outer.training import meta_train\n",
    "plain": "import innerloop.outer as t\n",
    "inline": "def f():\n    from ..outer import meta_train\n",
    "typing": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..outer import Run\n",
    "folder": "from ..cli.train import run\n",
    "root": "from innerloop import maml\n",
    "relative root": "from .. import maml\n",
}


@pytest.mark.parametrize("source", UPWARD.values(), ids=UPWARD.keys())
def test_an_upward_import_is_found(tmp_path: Path, source: str) -> None:
    package = write(tmp_path, {"inner/rules.py": source, "outer/training.py": "", "cli/train.py": ""})
    (fault,) = layer_faults(package)
    assert fault.startswith("innerloop.inner.rules, line ")


def test_downward_imports_peers_and_init_files_are_fine(tmp_path: Path) -> None:
    package = write(
        tmp_path,
        {
            "__init__.py": "from .outer import meta_train\nfrom .cli import main\n",
            "errors.py": "import torch\nfrom collections import abc\n",
            "outer/training.py": "from . import update\nfrom ..errors import DataError\n",
            "outer/update.py": "",
            "cli/__init__.py": "from .train import run\n",
            "cli/train.py": "from .. import __version__, outer\nfrom . import shared\n",
            "cli/shared.py": "from ..errors import DataError\n",
        },
    )
    assert layer_faults(package) == []
    assert cycle(package) == []


@pytest.mark.parametrize(("one", "other"), [("tasks", "engine"), ("compare", "refining")])
def test_packages_of_one_line_do_not_import_each_other(tmp_path: Path, one: str, other: str) -> None:
    package = write(tmp_path, {f"{one}/a.py": f"from ..{other} import b\n", f"{other}/b.py": ""})
    (fault,) = layer_faults(package)
    assert fault.startswith(f"innerloop.{one}.a, line 1: {one} ")


def test_a_module_without_a_layer_is_named(tmp_path: Path) -> None:
    package = write(tmp_path, {"novelty.py": "", "inner/rules.py": "from ..novelty import x\n"})
    assert len(layer_faults(package)) == 2
    assert all("add 'novelty' to LAYERS in tests/test_layers.py" in fault for fault in layer_faults(package))


@pytest.mark.parametrize("back", ["from .rules import x\n", "def f():\n    from . import rules\n"])
def test_a_circle_of_peers_is_found(tmp_path: Path, back: str) -> None:
    package = write(tmp_path, {"inner/rules.py": "from .heads import y\n", "inner/heads.py": back})
    assert layer_faults(package) == []
    assert set(cycle(package)) == {"innerloop.inner.rules", "innerloop.inner.heads"}
