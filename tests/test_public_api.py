"""The public names: importing is quick, and each name is explained by an example that the doctests run."""

import inspect
import types

import pytest

import innerloop as il
from toolkit.commands import run_python


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys, innerloop\n"
        "heavy = {'torch', 'numpy', 'pandas', 'scipy', 'sklearn', 'cyclopts', 'rich'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "assert 'meta_train' in dir(innerloop)\n"
        "assert innerloop.__version__\n"
        "import innerloop.errors\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", il.__all__)
def test_every_public_name_is_there_and_explained(name):
    found = getattr(il, name)
    text = inspect.getdoc(found)
    assert text, f"{name} has no docstring"
    if isinstance(found, types.ModuleType):
        return
    assert found.__module__.startswith("innerloop")
    assert ">>> " in text, f"the docstring of {name} has no example"
    assert "Example" in text


def test_the_names_are_listed_once_and_in_order():
    assert il.__all__ == sorted(set(il.__all__))
    assert {
        "Batch",
        "Episode",
        "Model",
        "evaluate",
        "fomaml",
        "load",
        "maml",
        "meta_train",
        "mixed",
        "tasks",
    } <= {*il.__all__}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'mamal'"):
        il.mamal  # noqa: B018
