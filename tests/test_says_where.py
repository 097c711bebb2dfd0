"""Nothing in the package creates a tensor without saying where: what forgets it lies on the CPU and fails on a GPU."""

import ast
from collections.abc import Iterator
from pathlib import Path

import innerloop

SOURCE = Path(innerloop.__file__).parent
MAKERS = {
    "arange", "empty", "empty_strided", "eye", "full", "linspace", "logspace", "ones", "rand", "randint", "randn",
    "randperm", "scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros",
}  # fmt: skip
# what may leave `device=` out, and why
FOLDERS = {
    "tasks/": "episodes are drawn from rows in memory, and `tasks.episodes.to` takes them to the device"
}
FUNCTIONS = {
    "init": "fresh parameters are where `torch.device(...)` says, as those of a module; training takes them along",
    "__init__": "a module",
}


def silent(tree: ast.AST) -> Iterator[int]:
    """Lines that create a tensor without saying where; a draw from a generator is where the generator is."""
    if isinstance(tree, ast.FunctionDef) and tree.name in FUNCTIONS:
        return
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Attribute) and tree.func.attr in MAKERS:
        of_torch = isinstance(tree.func.value, ast.Name) and tree.func.value.id == "torch"
        if of_torch and not {"device", "generator", None} & {keyword.arg for keyword in tree.keywords}:
            yield tree.lineno
    for child in ast.iter_child_nodes(tree):
        yield from silent(child)


def test_a_tensor_is_created_somewhere_named():
    wrong = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in sorted(SOURCE.rglob("*.py"))
        if not path.relative_to(SOURCE).as_posix().startswith(tuple(FOLDERS))
        for line in silent(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not wrong, "say device=: " + ", ".join(wrong)


def test_the_search_sees_what_it_looks_for():
    quiet = (
        "torch.zeros(3, device=x.device)\ntorch.rand(3, generator=g)\ntorch.zeros_like(x)\nx.new_zeros(3)\n"
    )
    inside = "def init():\n    return torch.zeros(3)\ndef fit():\n    return torch.zeros(3)\n"
    assert list(silent(ast.parse(quiet))) == []
    assert list(silent(ast.parse(inside + "x = [torch.tensor([1.0], dtype=torch.float64)]"))) == [4, 5]
