"""The three layers of the engine: what each may import of the package, and that its map is complete."""

import ast
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parents[2] / "src" / "innerloop" / "engine"
# first part of an absolute name within the package, as seen from each layer
ALLOWED = {
    "": {"innerloop.errors", "innerloop.engine"},
    "ops": {"innerloop.engine.ops"},
    "c": {"innerloop.errors", "innerloop.files", "innerloop.engine.c", "innerloop.engine.ops"},
}


def imports(path):
    """Absolute names of what a file imports from the package."""
    parts = ("innerloop", "engine", *path.relative_to(ENGINE).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield ".".join([*parts[: -node.level], *([node.module] if node.module else [])])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("innerloop"):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("innerloop"))


@pytest.mark.parametrize("layer", ALLOWED)
def test_a_layer_imports_what_it_may(layer):
    files = sorted((ENGINE / layer).glob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            allowed = any(name == one or name.startswith(f"{one}.") for one in ALLOWED[layer])
            assert allowed, f"{path.relative_to(ENGINE)} imports {name}"


@pytest.mark.parametrize("layer", ALLOWED)
def test_the_map_of_a_layer_names_each_of_its_files(layer):
    text = ast.get_docstring(ast.parse((ENGINE / layer / "__init__.py").read_text(encoding="utf-8")))
    for path in (ENGINE / layer).glob("*.py"):
        assert path.stem == "__init__" or f"`{path.stem}`" in text, path


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("*.py")), ids=lambda path: path.stem)
def test_a_module_lists_what_others_may_import(path):
    module = ast.parse(path.read_text(encoding="utf-8"))
    (listed,) = (
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    defined = set()
    for node in module.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                defined |= {name.id for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.ImportFrom) and path.stem == "__init__":
            defined |= {alias.name for alias in node.names}
    assert set(listed) <= defined
    assert not [name for name in listed if name.startswith("_")]
