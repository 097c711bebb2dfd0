"""An algorithm of one's own: registered, saved and loaded, and found by the command through an entry point."""

import inspect
import json
import sys

import pytest
import torch
from torch import nn

import innerloop as il
import innerloop.storage.stored
from innerloop.algorithms import ALGORITHMS, NetworkOptions, build, gradient_learner, maml, registered
from innerloop.cli import run
from innerloop.errors import ModelFileError, UsageError
from innerloop.inner import sgd
from innerloop.outer import unrolled
from toolkit.cases import CASES

CODE = '''
from innerloop.algorithms import gradient_learner, registered
from innerloop.inner import clipped, detached, sgd
from innerloop.outer import unrolled
from toolkit.cases import CASES


@registered
def {name}(module, *, loss, inner_lr: float = 0.1, inner_steps: int = 3):
    """Moves biases only."""
    rule = detached(clipped(sgd(inner_lr, learn="tensor"), 1.0))
    moves = lambda name: name.endswith("bias")
    return gradient_learner(module, loss, rule, inner_steps, metagrad=unrolled(), adapt=moves)
'''


@pytest.fixture(autouse=True)
def own_names():
    """Names that a test registers are gone after it."""
    before = dict(ALGORITHMS._presets)
    yield
    ALGORITHMS._presets.clear()
    ALGORITHMS._presets.update(before)


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """An installed package: a folder with a module and what an installer writes beside it."""

    def install(name="bias_maml", *, entry=None, code=CODE):
        site = tmp_path / "site"
        info = site / "own_algorithms-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"own_{name}.py").write_text(code.format(name=name))
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-algorithms\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[innerloop.algorithms]\n{entry or name} = own_{name}:{name}\n"
        )
        monkeypatch.syspath_prepend(site)
        return f"own_{name}"

    yield install
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def steps(module: nn.Module, *, loss: str, inner_lr: float = 0.1, adapt="all"):
    """Two steps."""
    return gradient_learner(module, loss, sgd(inner_lr), 2, metagrad=unrolled(), adapt=adapt)


def test_a_registered_algorithm_is_saved_and_loaded(tmp_path):
    preset = registered(steps)
    learner = preset(il.models.mlp(2, [4], 1), loss="mse", adapt="head")
    assert learner.recipe["defined_in"] == __name__
    assert learner.recipe["settings"] == {"loss": "mse", "inner_lr": 0.1, "adapt": "head"}
    il.save(tmp_path / "run", il.Model(learner, learner.init()))
    again = il.load(tmp_path / "run").model
    x, y = torch.randn(3, 2), torch.randn(3, 1)
    assert torch.equal(again.adapt(x, y)(x), il.Model(learner, again.meta).adapt(x, y)(x))
    assert build(learner.recipe).fast == learner.fast


def test_the_error_names_the_module_to_import(tmp_path):
    learner = registered(steps)(il.models.mlp(2, [4], 1), loss="mse")
    il.save(tmp_path / "run", il.Model(learner, learner.init()))
    del ALGORITHMS._presets["steps"]
    message = f"'steps' is not registered here: .* of the module '{__name__}'; import that module first"
    with pytest.raises(UsageError, match=message):
        il.load(tmp_path / "run")
    with pytest.raises(UsageError, match=message):
        build(learner.recipe)


def test_algorithms_of_the_package_store_no_module():
    assert set(maml(il.models.mlp(2, [4], 1), loss="mse").recipe) == {"algorithm", "settings", "model"}


def test_a_name_belongs_to_one_module():
    def maml(module, *, loss):
        return steps(module, loss=loss)

    with pytest.raises(UsageError, match=r"'maml' of .*: innerloop.algorithms.gradient_based has one"):
        registered(maml)
    assert registered(steps).__name__ == registered(steps).__name__


def test_arguments_without_names_are_refused():
    def anything(module, **options):
        return steps(module, **options)

    with pytest.raises(UsageError, match="'anything' takes any options"):
        registered(anything)


def test_shared_options_stand_in_signature_and_help():
    from typing import Unpack

    def shared(module: nn.Module, *, loss: str, **options: Unpack[NetworkOptions]):
        """Two steps.

        Its own arguments:
            loss: what is
                descended.

        Example:
            >>> 1
            1
        """
        rule = sgd(0.1)
        return gradient_learner(module, loss, rule, 2, metagrad=unrolled(), **options)

    preset = registered(shared)
    assert list(inspect.signature(preset).parameters) == ["module", "loss", "batchnorm", "mapping"]
    assert "loss: what is descended." in preset.__doc__
    assert preset.__doc__.index("mapping: ") < preset.__doc__.index("Example:")
    settings = preset(il.models.mlp(2, [4], 1), loss="mse", mapping="loop").recipe["settings"]
    assert settings == {"loss": "mse", "batchnorm": "support", "mapping": "loop"}
    with pytest.raises(TypeError, match=r"shared\(\) got an unexpected keyword argument 'map'"):
        preset(il.models.mlp(2, [4], 1), loss="mse", map="loop")


def test_every_argument_of_an_algorithm_is_explained():
    for name in {case.algorithm for case in CASES}:
        preset = ALGORITHMS[name]
        for argument in inspect.signature(preset).parameters:
            assert f"\n    {argument}: " in preset.__doc__, (name, argument)


def test_the_command_finds_the_algorithm_of_an_installed_package(distribution, tmp_path, capsys):
    module = distribution()
    assert module not in sys.modules
    assert run(["list", "algorithms", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["algorithms"]
    assert {"name": "bias_maml", "about": "Moves biases only."} in listed
    out = str(tmp_path / "run")
    words = [
        "--algorithm",
        "bias_maml",
        "--n-support",
        "5",
        "--steps",
        "2",
        "--hidden",
        "4",
        "--inner-steps",
        "2",
    ]
    assert run(["train", "sinusoid", *words, "--out", out]) == 0
    assert "no page was drawn" not in capsys.readouterr().err
    assert il.load(out).config["learner"]["defined_in"] == module


def test_a_stored_model_loads_where_the_package_is_installed(distribution, tmp_path):
    distribution()
    assert "bias_maml" in ALGORITHMS
    learner = ALGORITHMS["bias_maml"](il.models.mlp(1, [4], 1), loss="mse")
    il.save(tmp_path / "run", il.Model(learner, learner.init()))
    del ALGORITHMS._presets["bias_maml"], sys.modules["own_bias_maml"]
    assert set(il.load(tmp_path / "run").model.meta) == set(learner.init())


def test_only_the_name_that_is_asked_for_is_imported(distribution):
    module = distribution()
    assert "nobody" not in ALGORITHMS
    assert "maml" in ALGORITHMS
    assert module not in sys.modules


def test_the_module_in_a_model_directory_is_never_imported(tmp_path, monkeypatch):
    (tmp_path / "own_trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = {"algorithm": "trap", "settings": {}, "defined_in": "own_trap"}
    with pytest.raises(UsageError, match="of the module 'own_trap'"):
        build(recipe)
    assert "own_trap" not in sys.modules


def test_packages_that_cannot_be_used_are_named(distribution):
    distribution(code="import nothing_of_this_name  # {name}")
    with pytest.raises(
        UsageError, match="'bias_maml' of the installed package own-algorithms cannot be loaded"
    ):
        list(ALGORITHMS)


def test_an_entry_point_has_the_name_of_its_function(distribution):
    distribution(entry="other")
    with pytest.raises(UsageError, match="own_bias_maml:bias_maml registers none of that name"):
        ALGORITHMS["other"]


@pytest.mark.parametrize("algorithm", [["steps"], None, {"a": 1}])
def test_a_directory_whose_algorithm_is_no_name_is_damaged(tmp_path, algorithm, monkeypatch):
    monkeypatch.setattr(innerloop.storage.stored, "require_config", lambda config: None)
    learner = maml(il.models.mlp(2, [4], 1), loss="mse")
    recipe = {**learner.recipe, "algorithm": algorithm, "defined_in": "somewhere"}
    il.save(tmp_path / "run", il.Model(learner.with_recipe(recipe), learner.init()))
    with pytest.raises(ModelFileError, match=r"algorithm .* is unknown"):
        il.load(tmp_path / "run")


def test_a_file_with_a_strange_module_name_is_damaged(tmp_path):
    learner = registered(steps)(il.models.mlp(2, [4], 1), loss="mse").with_recipe(
        {"algorithm": "steps", "settings": {"loss": "mse"}, "defined_in": 3}
    )
    with pytest.raises((ModelFileError, UsageError), match="module of the algorithm is no name"):
        il.save(tmp_path / "run", il.Model(learner, learner.init()))
