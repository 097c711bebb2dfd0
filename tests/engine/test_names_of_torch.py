"""Every name of torch that the package uses exists in the torch installed; private ones may go without notice."""

import ast
import functools
import importlib
import inspect
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils import _pytree as pytree

from innerloop.engine.pytrees import unflattener

SOURCE = Path(__file__).resolve().parents[2] / "src" / "innerloop"
USES = {  # what the syntax of a file does not show to be torch's: an attribute or argument, and what has it
    "_allow_non_fake_inputs": lambda: (
        inspect.signature(importlib.import_module("torch.fx.experimental.proxy_tensor").make_fx).parameters
    ),
    "_cdata": lambda: dir(torch.zeros(1).untyped_storage()),
    "_forward_pre_hooks": lambda: vars(torch.nn.Linear(1, 1)),
    "_schema": lambda: dir(torch.ops.aten.add.Tensor),
}


def dotted(node, known):
    """The full name of an attribute of something that was imported from torch, or none."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name) and node.id in known and parts:
        return ".".join([known[node.id], *reversed(parts)])
    return None


def names_in(text):
    """Full names of everything of torch that a file imports or looks up, and of torch's under a name of its own."""
    tree, known, names = ast.parse(text), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "torch":
                    names.add(alias.name)
                    known[alias.asname or "torch"] = alias.name if alias.asname else "torch"
        elif (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and (node.module or "").split(".")[0] == "torch"
        ):
            for alias in node.names:
                names.add(f"{node.module}.{alias.name}")
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = dotted(node.value, known)
            known.update({node.targets[0].id: value} if value else {})
    return names | {name for node in ast.walk(tree) if (name := dotted(node, known))}


def resolve(name):
    """What a full name stands for; modules are imported on the way."""
    first, *rest = name.split(".")
    value = importlib.import_module(first)
    path = first
    for part in rest:
        path = f"{path}.{part}"
        if inspect.ismodule(value) and not hasattr(value, part):
            value = importlib.import_module(path)
        else:
            value = getattr(value, part)
    return value


def lacking(names):
    missing = []
    for name in sorted(names):
        try:
            with warnings.catch_warnings(action="ignore"):
                resolve(name)
        except (AttributeError, ImportError):
            missing.append(name)
    return missing


@functools.cache
def used():
    return {path.relative_to(SOURCE).as_posix(): names_in(path.read_text()) for path in SOURCE.rglob("*.py")}


def private(name):
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def test_every_name_of_torch_that_a_file_uses_is_there():
    missing = {file: names for file, all_names in used().items() if (names := lacking(all_names))}
    assert not missing, f"torch {torch.__version__} lacks {missing}"


def test_private_names_are_those_of_this_list():
    """One more private name is a decision: torch may drop it in any release."""
    modules = (
        "torch._decomp",
        "torch._subclasses.fake_tensor",
        "torch.utils._python_dispatch",
        "torch.utils._pytree",
    )
    classes = (
        "torch._ops.OpOverload",
        "torch.distributed.distributed_c10d._get_default_store",
        "torch.nn.modules.batchnorm._BatchNorm",
        "torch.nn.modules.dropout._DropoutNd",
        "torch.nn.modules.instancenorm._InstanceNorm",
        "torch.nn.utils.parametrizations._SpectralNorm",
        "torch.utils.checkpoint._checkpoint_without_reentrant_generator",
    )
    # operators belong to the graphs that torch writes, in which every name is one that torch chose
    rest = {
        name
        for names in used().values()
        for name in names
        if private(name) and not name.startswith((*modules, "torch.ops.aten._"))
    }
    assert rest == {*classes, "torch.nn.utils.parametrizations._WeightNorm"}


@pytest.mark.parametrize("name", USES)
def test_every_other_private_name_is_used_and_there(name):
    assert any(name in path.read_text() for path in SOURCE.rglob("*.py")), f"{name} is used no more"
    assert name in USES[name](), f"torch {torch.__version__} lacks {name}"


def test_what_is_missing_is_seen():
    text = "import torch\nfrom torch import nn\n_aten = torch.ops.aten\nnn.Linaer\n_aten.no_such_operator\nnn.Linear\n"
    assert lacking(names_in(text)) == ["torch.nn.Linaer", "torch.ops.aten.no_such_operator"]


def test_structures_are_read_as_torch_2_9_writes_them(monkeypatch):
    if hasattr(pytree.TreeSpec, "children"):  # a method since 2.10, an attribute before
        children = pytree.TreeSpec.children
        monkeypatch.delattr(pytree.TreeSpec, "children")
        monkeypatch.setattr(pytree.TreeSpec, "children_specs", property(children))
    tree = {"a": [torch.zeros(1), "name"], "b": (torch.ones(1),)}
    leaves, structure = pytree.tree_flatten(tree)
    build = unflattener(structure, [None, "name", None])
    assert build([leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]) == tree
