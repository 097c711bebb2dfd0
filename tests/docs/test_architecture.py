"""What docs/architecture.md and CONTRIBUTING.md say of the source is there: packages, files, functions, order."""

import ast
import re
from pathlib import Path

import pytest

from test_layers import LAYERS

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "innerloop"
PAGES = [ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"]
ARCHITECTURE = PAGES[0].read_text(encoding="utf-8")


def defined(path):
    """Dotted names of the functions, classes, methods and constants of a file."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_file_that_is_named_exists(page):
    text = page.read_text(encoding="utf-8")
    places = set(re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.(?:py|md|toml))?|[a-z_]+\.py)`", text))
    assert len(places) > 10
    folders = [SOURCE, SOURCE.parent, ROOT]
    missing = {place for place in places if not any((folder / place).exists() for folder in folders)}
    assert not missing


def test_the_journeys_have_ten_lines_and_name_functions_of_their_packages():
    journeys = re.findall(r"^\| (\d+) \| `([\w.]+)` \| `(\w+)` \|", ARCHITECTURE, re.MULTILINE)
    assert [int(number) for number, _, _ in journeys] == [*range(1, 11)] * 3
    missing = {
        f"{name} in {package}"
        for _, name, package in journeys
        if not any(name in defined(path) for path in (SOURCE / package).rglob("*.py"))
    }
    assert not missing


def test_what_is_made_known_in_a_file_is_defined_there():
    pairs = re.findall(r"`([A-Z_]+)` in `([\w/]+\.py)`", ARCHITECTURE)
    there = re.findall(r"^\|[^|]*\| `([\w/]+\.py)`[^|]*\| `([A-Z_]+)` there", ARCHITECTURE, re.MULTILINE)
    pairs += [(name, file) for file, name in there]
    assert len(pairs) > 8
    missing = {f"{name} in {file}" for name, file in pairs if name not in defined(SOURCE / file)}
    assert not missing


def test_what_decides_is_defined_where_it_is_said():
    section = ARCHITECTURE.partition("## Where it is decided")[2]
    rows = re.findall(r"^\|[^|]*\|([^|]*)\|([^|]*`[^|]*)\|$", section, re.MULTILINE)
    assert len(rows) > 10
    for names, files in rows:
        paths = [SOURCE / file for file in re.findall(r"`([\w/]+\.py)`", files)]
        known = set().union(*(defined(path) for path in paths)) | {"exit_code", "auto"}
        assert set(re.findall(r"`([\w.]+)`", names)) <= known, (names, files)


def test_the_picture_has_the_order_of_imports():
    picture = ARCHITECTURE.partition("```\n")[2].partition("```")[0].rstrip().splitlines()
    names = [tuple(name for name in line[:26].split() if name) for line in picture]
    packages = [set(layer) for layer in LAYERS if layer != ("__main__",)]
    assert [set(line) for line in reversed(names)] == packages
