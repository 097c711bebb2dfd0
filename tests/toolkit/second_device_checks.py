"""Everything the package does, done on the second device of the toolkit: the CPU's numbers come out.

`tests/test_second_device.py` runs this file in a process of its own. With `--device auto` in mind: code that forgets
where it works fails here with the words of a GPU.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from torch import nn

import innerloop as il
from innerloop.algorithms import baselines
from innerloop.algorithms.baselines import BASELINES
from innerloop.cli import run
from innerloop.compare import linear, methods, nets
from innerloop.compare.nets import Bench
from innerloop.engine import devices
from innerloop.inner import Model
from innerloop.outer.training import Gear, meta_train
from innerloop.refining import SCORES
from innerloop.tasks.episodes import map_tensors, to
from innerloop.tasks.sources import FunctionSource, SupportSize, Targets
from innerloop.tasks.splits import Tasks
from toolkit.cases import CASES, IDS, Case, learner_module
from toolkit.groups import patients
from toolkit.second_device import NAME, register

DEVICES = ("cpu", NAME)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def second_device() -> None:
    """The device exists from here on."""
    register()


@pytest.fixture(autouse=True)
def fewer_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods that choose among settings choose among few: it is the same code for each of them."""
    best_stop = nets.best_stop
    monkeypatch.setattr(nets, "best_stop", lambda model, source, most: best_stop(model, source, 2))
    monkeypatch.setattr(linear, "SPREADS", (0.1, 1.0))
    monkeypatch.setattr(baselines, "_SPREADS", (0.1, 1.0))


def on(value: Any, device: str) -> Any:
    """Tensors of a dictionary or an episode on a device."""
    return (
        {name: one.to(device) for name, one in value.items()}
        if isinstance(value, dict)
        else to(value, device)
    )


def same(results: list[Any]) -> None:
    """Assert that two results, pytrees of tensors and numbers, have equal numbers."""
    one, other = ([leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf for leaf in tree] for tree in map(
        torch.utils._pytree.tree_leaves, results))  # fmt: skip
    assert len(one) == len(other) > 0
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-7, equal_nan=True)


def source_of(case: Case) -> FunctionSource:
    """The tasks of a case, in single precision."""
    episode = map_tensors(lambda t: t.float() if t.is_floating_point() else t, case.episode)
    targets = Targets(case.kind, 1 if case.kind == "regression" else 3)
    return FunctionSource(lambda count, generator: episode, targets, SupportSize(5, 5), 3)


every = pytest.mark.parametrize("case", CASES, ids=IDS)


TRACED = ("maml", "cavia", "ridge", "protonet", "meta_curvature")


def runs() -> list[Any]:
    """Every case as it is; as a graph, some of each kind of algorithm."""
    cases = [pytest.param(case, "eager", id=f"eager-{name}") for case, name in zip(CASES, IDS, strict=True)]
    first = {case.algorithm: case for case in reversed(CASES)}
    return cases + [pytest.param(first[name], "traced", id=f"traced-{name}") for name in TRACED]


@pytest.mark.parametrize(("case", "gear"), runs())
def test_training_and_scores(case: Case, gear: str) -> None:
    def results(device: str) -> list[Any]:
        trained = meta_train(
            case.make(), source_of(case), steps=2, meta_batch_size=3, device=device, gear=gear
        )
        assert all(value.device.type == device for value in trained.model.meta.values())
        assert trained.gear.gear == gear or trained.log == []
        calibration = il.calibrate(trained.model, source_of(case))
        score = il.evaluate(trained.model, source_of(case), calibration=calibration)
        thresholds = [torch.from_numpy(own) for own in calibration.thresholds.values()]
        return [trained.log, trained.model.meta, score.metric("loss"), thresholds]

    same([results(device) for device in DEVICES])


@every
def test_what_a_learner_does(case: Case) -> None:
    def results(device: str) -> list[Any]:
        learner, episode = case.make(), to(case.episode, device, torch.float32)
        meta = on(learner.init(), device)
        adapted = learner.adapt(meta, episode.support)
        model = Model(learner, meta)
        task = model.adapt(episode.support.x[0], episode.support.y[0])
        base = model.base()(episode.query.x[0])
        parts = [
            adapted, learner.predict(meta, adapted, episode.query.x), learner.loss(meta, adapted, episode.query),
            learner.fit(meta, episode.query) or {}, learner.observe(meta, episode),
            learner.variance(meta, adapted, episode.query.x), base, task(episode.query.x[0]),
            learner.own_like(meta), list(learner.path(meta, episode.support)),
        ]  # fmt: skip
        assert base.device.type == device
        return parts

    parts = [results(device) for device in DEVICES]
    parts = [[part for part in one if part is not None] for one in parts]
    same(parts)


@every
def test_a_directory_written_from_the_device_loads_on_the_cpu(case: Case, tmp_path: Path) -> None:
    learner, x = case.make(), case.episode.query.x[0].float()
    model = Model(learner, on(learner.init(), NAME))
    support = case.episode.support.x[0].float(), case.episode.support.y[0]
    support = tuple(t.float() if t.is_floating_point() else t for t in support)
    il.save(tmp_path / "run", model)
    module = learner_module(case) if learner.recipe.get("model") == "external" else None
    stored = il.load(tmp_path / "run", module=module)
    again = il.load(tmp_path / "run", module=module, device=NAME)
    assert next(iter(stored.model.meta.values())).device.type == "cpu"
    tasks = {"one": again.model.adapt(*support)}
    again.with_tasks(tasks).save(tmp_path / "adapted")
    alone = il.load(tmp_path / "adapted", module=module).tasks["one"]
    back = il.load(tmp_path / "adapted", module=module, device=NAME).tasks["one"]
    expected = model.adapt(*support)(x)
    same([expected, alone(x)])
    same([expected, back(x)])


@pytest.mark.parametrize("name", BASELINES)
def test_baselines(name: str) -> None:
    tasks = regression()

    def results(device: str) -> list[Any]:
        learner = BASELINES[name](tasks.n_features, n_support=3)
        trained = meta_train(learner, tasks.train, device=device).model
        return [trained.meta, il.evaluate(trained, tasks.test).metric("rmse")]

    same([results(device) for device in DEVICES])


# --- compare ----------------------------------------------------------------------------------------------


def frame(kind: str) -> pd.DataFrame:
    """Eight sites whose lines differ, with uneven rows, or classes of these."""
    rng = np.random.default_rng(0)
    sizes = [8, *[9] * 7]
    site = np.repeat([f"s{n}" for n in range(8)], sizes)
    x, z = rng.normal(size=(2, len(site)))
    y = x - 0.5 * z + np.repeat(rng.normal(size=8), sizes) + 0.1 * rng.normal(size=len(site))
    target = y if kind == "regression" else np.where(y > 0, "high", "low")
    return pd.DataFrame({"site": site, "x": x, "z": z, "y": target})


def regression() -> Tasks:
    return il.tasks.table(frame("regression"), task="site", target="y", n_support=4)


def classification() -> Tasks:
    return il.tasks.table(frame("classification"), task="site", target="y", n_shot=2)


def few(tasks: Tasks) -> Tasks:
    """The same with few episodes to score."""
    valid, test = (replace(source, episodes=2) for source in (tasks.valid, tasks.test))
    return replace(tasks, valid=valid, test=test)


def n_way() -> Tasks:
    rng = np.random.default_rng(0)
    labels = np.tile(list("abcdefghijklmnopqrst"), 8)
    rows = pd.DataFrame({"x": rng.normal(size=160), "z": rng.normal(size=160), "label": labels})
    return few(
        il.tasks.class_table(rows, target="label", n_way=2, n_shot=1, n_query=2, split=(0.5, 0.25, 0.25))
    )


def images() -> Tasks:
    pictures = np.random.default_rng(0).integers(0, 255, (96, 1, 8, 8), dtype=np.uint8)
    return few(
        il.tasks.classes(pictures, np.arange(96) % 12, n_way=2, n_shot=1, n_query=2, split=(0.5, 0.25, 0.25))
    )


KINDS: dict[str, Callable[[], Tasks]] = {
    made.__name__: made for made in (regression, classification, n_way, images)
}


SMALL = {kind: {"width": 4} if kind == "images" else {"hidden": [4]} for kind in KINDS}


def contest() -> Iterator[Any]:
    """Every baseline on every kind of tasks; meta-learners, which `CASES` has too, on one kind each."""
    for number, kind in enumerate(KINDS):
        for name in (*methods.META[number :: len(KINDS)], *methods.BASELINES):
            if name != "tabicl":
                yield pytest.param(kind, name, id=f"{kind}-{name}")


@pytest.fixture(scope="module")
def benches() -> dict[tuple[str, str], Bench]:
    """The nets that several methods start from are trained once."""
    return {}


@pytest.mark.parametrize(("kind", "name"), list(contest()))
def test_methods_of_compare(kind: str, name: str, benches: dict[tuple[str, str], Bench]) -> None:
    tasks = KINDS[kind]()
    entrant = methods.entrant(tasks, name)
    if entrant.refuses(tasks):
        pytest.skip(f"{entrant.refuses(tasks)}")

    def results(device: str) -> list[Any]:
        bench = benches.setdefault(
            (kind, device), Bench(tasks, 0, 2, SMALL[kind], device, gear=Gear("eager"))
        )
        trained = entrant.fit(bench, entrant.grid[0])
        score = il.evaluate(trained.model, tasks.test)
        return [
            trained.model.meta,
            [v for v in trained.chosen.values() if not isinstance(v, str)],
            score.metric("loss"),
        ]

    same([results(device) for device in DEVICES])


# --- refine, figures of what was learned ------------------------------------------------------------------


STOPS = [("snr", "crossfit"), ("snr", "split"), *((score, "none") for score in SCORES)]


@pytest.mark.parametrize(("score", "stop"), STOPS)
def test_refining(score: str, stop: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, generator=generator)
    y = x[:, :3].argmax(1)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))

    def results(device: str) -> list[Any]:
        noise = "laplace" if score == "fisher" else "none"
        refined = il.refine(
            net, (x, y), test=(x, y), rounds=2, folds=3, stop=stop, score=score, noise=noise, device=device
        )
        return [refined.model.meta, refined.mask, refined.model.base()(x), refined.scores]

    same([results(device) for device in DEVICES])


# --- the command ------------------------------------------------------------------------------------------

TABLE = ["--task", "site", "--target", "y"]


@pytest.mark.parametrize("algorithm", ["mixed", "maml", "ridge"])
def test_estimators(algorithm: str, tmp_path: Path) -> None:
    results = []
    for device in DEVICES:
        X, y = patients(30)
        options = {} if algorithm == "mixed" else {"hidden": (4,)}
        model = il.MetaRegressor(
            "patient",
            algorithm=algorithm,
            steps=2,
            validation_fraction=0.4,
            random_state=0,
            device=device,
            **options,
        ).fit(X, y)
        assert model.model_.device.type == device
        new = (X[:3].assign(patient="new"), y[:3])
        found = [model.predict(X), *model.predict(X[3:6].assign(patient="new"), support=new, interval=0.8)]
        found.append(model.adapt(*new).predict(new[0]))
        again = il.MetaRegressor.load(model.save(tmp_path / device), device=device)
        np.testing.assert_allclose(again.predict(X), found[0])
        if algorithm != "mixed":
            embedding = il.MetaEmbedding(clone(model))
            found.append(embedding.fit(X, y).transform(X))
        results.append([torch.from_numpy(each) for each in found])
    same(results)


def numbers(text: str) -> list[float]:
    """Every number with a decimal point of what a verb printed; times in seconds left out."""
    lines = [line for line in text.splitlines() if not re.search(r"\bseconds?\b|\d s\b", line)]
    return [float(number) for number in re.findall(r"-?\d+\.\d+", "\n".join(lines))]


def leave_tables(folder: Path, kind: str) -> None:
    """A table to train on, and one with a new task that is labelled in part and one that is not at all."""
    table = frame(kind)
    table.to_csv(folder / "sites.csv", index=False)
    new = table[:17].assign(site=["new"] * 8 + ["unknown"] * 9)
    new["y"] = new["y"].where(np.arange(17) < 5)
    new.to_csv(folder / "new.csv", index=False)
    new[new["y"].notna()].to_csv(folder / "known.csv", index=False)


@pytest.mark.parametrize(("kind", "algorithm"), [("classification", "maml"), ("regression", "ridge")])
def test_verbs(
    kind: str,
    algorithm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Train, evaluate, predict, adapt, predict by adapted tasks, inspect, and refine."""
    support = ["--n-support", "4"] if kind == "regression" else ["--n-shot", "2"]
    train = [
        "train",
        "sites.csv",
        *TABLE,
        *support,
        "--algorithm",
        algorithm,
        "--steps",
        "2",
        "--hidden",
        "4",
    ]
    verbs = [
        [*train, "--out", "run"],
        ["evaluate", "run", "--report", "none"],
        ["predict", "run", "new.csv"],
        ["adapt", "run", "known.csv", "--out", "adapted"],
        ["predict", "adapted", "new.csv"],
    ]
    if algorithm == "maml":
        verbs += [
            ["refine", "run", "--data", "known.csv", "--rounds", "1", "--stop", "none", "--out", "refined"]
        ]
        verbs += [["predict", "refined", "new.csv"]]
    printed: dict[str, list[list[float]]] = {}
    for device in DEVICES:
        folder = tmp_path / device
        folder.mkdir()
        monkeypatch.chdir(folder)
        leave_tables(folder, kind)
        for words in verbs:
            capsys.readouterr()
            assert run([*words, "--device", device]) == 0, capsys.readouterr().err
            printed.setdefault(device, []).append(numbers(capsys.readouterr().out))
        config = json.loads((folder / "run" / "config.json").read_text(encoding="utf-8"))
        assert config["settings"]["placed"] == device
        assert run(["inspect", "run"]) == 0
        printed[device].append(numbers(capsys.readouterr().out.split("\n\n", 1)[1]))
    for one, other in zip(*(printed[device] for device in DEVICES), strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)
    assert sum(map(len, printed["cpu"])) > 50


def test_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole comparison, with its curves and what was learned; the methods are tested one by one above."""
    monkeypatch.chdir(tmp_path)
    leave_tables(tmp_path, "regression")
    words = [
        "compare",
        "sites.csv",
        *TABLE,
        "--n-support",
        "4",
        "--quick",
        "--learners",
        "maml",
        "--steps",
        "2",
    ]
    words += [
        "--baselines",
        "pooled,shrunken",
        "--tries",
        "1",
        "--seeds",
        "1",
        "--folds",
        "3",
        "--hidden",
        "4",
    ]
    results = []
    for device in DEVICES:
        capsys.readouterr()
        assert run([*words, "--device", device, "--report", "none", "--json", "--quiet"]) == 0
        told = json.loads(capsys.readouterr().out)
        results.append({name: told[name] for name in ("scores", "methods", "differences", "curves")})
    leaves = [torch.utils._pytree.tree_leaves(result) for result in results]
    for one, other in zip(*leaves, strict=True):
        assert one == (pytest.approx(other, rel=1e-4, abs=1e-5) if isinstance(other, float) else other)


# --- the documents ----------------------------------------------------------------------------------------

LOOPS = [
    pytest.param(block, id=f"{page}-{number}")
    for page in ("algorithms", "extending")
    for number, block in enumerate(
        re.findall(
            r"^```python\n(.*?)^```$",
            (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"),
            re.MULTILINE | re.DOTALL,
        )
    )
    if "schools" not in block
]


@pytest.mark.parametrize("block", LOOPS)
def test_loops_of_the_documents(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` would do if it took the device for everything."""

    def chosen(work: Any, **options: Any) -> devices.Choice:
        return devices.Choice(torch.device(NAME), "always")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "gpu", lambda: devices.processor(1))
    monkeypatch.setattr(devices, "choose", chosen)
    names: dict[str, Any] = {}
    exec(block.replace("steps=2000", "steps=2"), names)
    if "run" in names and not names["run"].model.learner.fits_directly:  # which is small work
        assert next(iter(names["run"].model.meta.values())).device.type == NAME
