"""Loading a data or model file never runs code from it: the package holds none of the ways to do that."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "innerloop"

# Formats that run code when they are read. Weights are safetensors, everything else is JSON.
MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "torch.hub",
    "torch.package",
    # archives that name the place of their files, and what reads addresses
    "tarfile",
    "urllib.request",
    "http.client",
    "requests",
    "socket",
    "ftplib",
    "fsspec",
}
NAMES = {
    "__import__",
    "eval",
    "exec",
    "joblib.dump",
    "joblib.load",
    "numpy.loads",
    "os.popen",
    "os.system",
    "pandas.read_pickle",
    "torch.jit.load",
    "torch.load",
    "torch.save",
    # YAML makes objects of any class; the others evaluate the text of an expression
    "yaml.load",
    "yaml.unsafe_load",
    "pandas.eval",
    "numexpr.evaluate",
    "sympy.sympify",
    # unpacking writes where the archive says
    "shutil.unpack_archive",
}
METHODS = {"read_pickle", "to_pickle", "extractall", "unsafe_load"}
SWITCHES = {"allow_pickle", "shell"}


def is_forbidden(dotted: str) -> bool:
    plain = dotted.removeprefix("builtins.")
    return plain in NAMES or any(plain == module or plain.startswith(f"{module}.") for module in MODULES)


def aliases(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: `np` for `numpy`, `load` for `torch.load`."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.update({a.asname or a.name: f"{node.module}.{a.name}" for a in node.names})
    return names


def dotted_name(node: ast.expr, names: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = dotted_name(node.value, names)
        return owner and f"{owner}.{node.attr}"
    return None


def call_faults(node: ast.Call, names: dict[str, str]) -> Iterator[str]:
    for keyword in node.keywords:
        off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg in SWITCHES and not off:
            yield f"{keyword.arg}= must be a literal False or absent"
    called = dotted_name(node.func, names)
    # Only as a call: `compile` alone is more often an option of that name than the builtin.
    if called in {"compile", "builtins.compile"}:
        yield "compile"
    if called == "importlib.import_module":
        first = node.args[0] if node.args else None
        if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
            yield COMPUTED_IMPORT


def code_faults(source: str) -> list[str]:
    """Line and reason of everything in `source` that could run code from a file."""
    tree = ast.parse(source)
    names = aliases(tree)
    faults = []
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names if is_forbidden(alias.name)]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            brought = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found = [name for name in brought if is_forbidden(name)]
        elif isinstance(node, ast.Name | ast.Attribute):
            dotted = dotted_name(node, names)
            if dotted and is_forbidden(dotted):
                found = [dotted]
            elif isinstance(node, ast.Attribute) and node.attr in METHODS:
                found = [node.attr]
        elif isinstance(node, ast.Call):
            found = list(call_faults(node, names))
        faults += [f"line {node.lineno}: {reason}" for reason in found]
    return faults


# The root loads its public names when they are first used, through `import_module` with a computed name. That
# name comes from a table written out in the file, which the second test below holds.
LAZY = PACKAGE / "__init__.py"
COMPUTED_IMPORT = "import_module takes a literal name only: a computed one may come from a file"


def test_the_package_cannot_run_code_from_a_file() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert files, f"no modules in {PACKAGE}"
    faults = [
        f"{path.relative_to(PACKAGE)}, {fault}"
        for path in files
        for fault in code_faults(path.read_text(encoding="utf-8"))
        if not (path == LAZY and fault.endswith(COMPUTED_IMPORT))
    ]
    assert not faults, "\n".join(faults)


def test_the_names_that_the_root_loads_are_a_literal_table() -> None:
    tree = ast.parse(LAZY.read_text(encoding="utf-8"))
    stores = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == "_HOME" and is_store(n)]
    assert len(stores) == 1
    (table,) = [n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0] is stores[0]]
    for home in ast.literal_eval(table).values():
        place = PACKAGE.joinpath(*home.partition(":")[0].split("."))
        assert place.is_dir() or place.with_suffix(".py").is_file()


def is_store(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "import marshal",
        "import shelve",
        "def f():\n    import cloudpickle",
        "import torch\ntorch.load('x')",
        "import torch as t\nt.load('x', weights_only=True)",
        "from torch import load",
        "import torch\ntorch.save({}, 'x')",
        "import torch\ntorch.hub.load('a', 'b')",
        "eval('1')",
        "exec('1')",
        "run = exec",
        "import builtins\nbuiltins.eval('1')",
        "compile('1', 'x', 'eval')",
        "__import__('x')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import subprocess\nsubprocess.run('x', shell=flag)",
        "import os\nos.system('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import pandas as pd\npd.read_pickle('x')",
        "frame.to_pickle('x')",
        "import joblib\njoblib.load('x')",
        "import yaml\nyaml.load(text)",
        "import pandas as pd\npd.eval(text)",
        "import tarfile",
        "import zipfile\nzipfile.ZipFile('x').extractall()",
        "from urllib.request import urlopen",
        "import socket",
        "import importlib\nimportlib.import_module(config['module'])",
        "from importlib import import_module\nimport_module(f'innerloop.{name}')",
    ],
)
def test_a_way_to_run_code_is_found(source: str) -> None:
    assert code_faults(source)


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "import re\nre.compile('x')",
        "import torch\ntorch.compile(f)",
        "def f(compile: bool):\n    return compile",
        "from safetensors.torch import load_file\nload_file('x')",
        "from . import checkpoint\ncheckpoint.load('x')",
        "import json\njson.load(stream)",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import subprocess\nsubprocess.run(['x'], shell=False)",
        "import importlib\nimportlib.import_module('matplotlib')",
    ],
)
def test_what_runs_no_code_is_left_alone(source: str) -> None:
    assert code_faults(source) == []
