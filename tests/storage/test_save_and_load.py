import io
import json
import os
import pickle
import random
import re
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

from innerloop import models
from innerloop.algorithms import fomaml, gp, maml, mixed
from innerloop.errors import DivergedError, ModelFileError, ResourceError, UsageError
from innerloop.inner import Adapted, Model
from innerloop.inner.gradient import GradientLearner
from innerloop.storage import describe, load, save
from innerloop.storage import manifest as sealed
from innerloop.tasks.sources import SupportSize, Targets
from innerloop.tasks.tables.schema import Schema

FILES = ["config.json", "log.jsonl", "model.safetensors", "manifest.json", "README.md"]


def trained(learner, dtype=torch.float32) -> Model:
    """A model with random meta-parameters, so that no value is one that a fresh learner has."""
    generator = torch.Generator().manual_seed(3)
    return Model(
        learner,
        {k: v.to(dtype) + 0.1 * torch.randn(v.shape, generator=generator) for k, v in learner.init().items()},
    )


def a_task(shape=(2,), n=6, classes=0):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, *shape, generator=generator)
    return x, (torch.arange(n) % classes if classes else x.flatten(1)[:, :1] * 2 + 1)


LEARNERS = {
    "learned rates": lambda: maml(models.mlp(2, [5], 1), loss="mse", learn_lr="tensor"),
    "rates a weight": lambda: maml(models.mlp(2, [5], 1), loss="mse", learn_lr="weight", clip=1.0),
    "one rate": lambda: fomaml(models.mlp(2, [5], 1, dropout=0.5), loss="mse", learn_lr="all", adapt="head"),
    "mixed": lambda: mixed(2, squares=True, covariance="diagonal"),
    "gp": lambda: gp(2),
}


@pytest.fixture
def run(tmp_path) -> Path:
    return save(tmp_path / "run", trained(mixed(2)), log=[{"step": 1, "loss": 0.5}])


def reseal(folder: Path, **changed: bytes | None) -> None:
    """Make the manifest agree with what an attacker put into the folder."""
    content = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != sealed.MANIFEST}
    content |= {name.replace("_", "."): data for name, data in changed.items()}
    for name, data in sealed.seal(content).items():
        (folder / name).write_bytes(data)


def reconfigure(folder: Path, change) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    change(config)
    reseal(folder, config_json=json.dumps(config).encode())


def refused(folder: Path, reason: str, file: str = "") -> None:
    with pytest.raises(ModelFileError, match=reason or None) as caught:
        load(folder)
    assert caught.value.exit_code == 4
    assert str(folder / file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", LEARNERS)
def test_a_round_trip_predicts_bit_for_bit_the_same(tmp_path, name, dtype) -> None:
    model, (x, y) = trained(LEARNERS[name](), dtype), a_task()
    stored = load(save(tmp_path / "run", model))
    assert stored.kind == "run"
    assert list(stored.model.meta) == list(model.meta)
    assert all(torch.equal(stored.model.meta[key], value) for key, value in model.meta.items())
    assert torch.equal(stored.model.adapt(x, y)(x), model.adapt(x, y)(x))
    assert torch.equal(stored.model.base()(x), model.base()(x))
    assert stored.model.learner.recipe == model.learner.recipe


def test_a_network_with_batchnorm_goes_round(tmp_path) -> None:
    model = trained(maml(models.conv4(1, 3, size=8, width=4), loss="cross_entropy", inner_steps=1))
    x, y = a_task((1, 8, 8), classes=3)
    stored = load(save(tmp_path / "run", model))
    site = stored.model.adapt(x, y)
    again = load(stored.with_tasks({"a": site}).save(tmp_path / "sites"))
    assert torch.equal(again.tasks["a"](x), model.adapt(x, y)(x))


@pytest.mark.parametrize("name", LEARNERS)
def test_adapted_tasks_go_round_without_their_parent(tmp_path, name) -> None:
    x, y = a_task()
    parent = load(save(tmp_path / "run", trained(LEARNERS[name]()), settings={"steps": 3}))
    tasks = {
        "007": parent.model.adapt(x, y),
        "nobody": parent.model.base(),
        "Zürich\n": parent.model.adapt(x[:1], y[:1], steps=1),
    }
    counts = {"007": 6, "nobody": 0, "Zürich\n": 1}
    sites = parent.with_tasks(tasks, n_support=counts).save(tmp_path / "sites")
    shutil.rmtree(parent.path)
    stored = load(sites)
    assert stored.kind == "adapted"
    assert stored.config["parent"] == parent.sha256
    assert list(stored.tasks) == list(tasks)
    for task, one in tasks.items():
        assert torch.equal(stored.tasks[task](x), one(x))
    assert [entry["n_support"] for entry in stored.config["tasks"]] == [6, 0, 1]
    assert torch.equal(stored.model.adapt(x, y)(x), parent.model.adapt(x, y)(x))
    again = load(stored.with_tasks(stored.tasks).save(tmp_path / "more"))
    assert again.config["parent"] == parent.sha256
    only_base = load(parent.with_tasks({"nobody": parent.model.base()}).save(tmp_path / "base"))
    assert torch.equal(only_base.tasks["nobody"](x), parent.model.base()(x))


def test_everything_beside_the_weights_goes_round(tmp_path) -> None:
    frame = pd.DataFrame({"site": list("aabb"), "dose": [1, 2, 3, 4], "risk": [0.1, 0.2, 0.4, 0.9]})
    schema = Schema.fit(frame, task="site", target="risk")
    support, targets = SupportSize(1, 8, True), Targets("regression", 1, (0.3,), (1.0,))
    scores = [{"metric": "rmse", "mean": 0.5, "ci95": [float("nan"), float("nan")]}]
    log = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": float("nan")}]
    folder = save(
        tmp_path / "run",
        trained(mixed(1)),
        schema=schema,
        splits={"train": ["a", "1"], "test": ["b"]},
        support=support,
        targets=targets,
        settings={"seed": 0, "out": tmp_path},
        data={"name": "visits.csv", "sha256": "0" * 64},
        scores=scores,
        best_step=2,
        log=log,
        keep_ids=True,
    )
    stored = load(folder)
    assert stored.schema == schema
    assert (stored.support, stored.targets) == (support, targets)
    assert stored.log == [log[0], {"step": 2, "loss": None}]
    assert stored.config["scores"][0]["ci95"] == [None, None]
    assert stored.config["splits"] == {"train": ["a", "1"], "test": ["b"]}
    shown = describe(stored)
    assert shown["algorithm"] == "mixed"
    assert shown["columns"] == ["dose"]
    assert shown["tasks_per_split"] == {"train": 2, "test": 1}
    assert shown["support"] == {"n_shot": "1-8"}
    assert (shown["steps"], shown["best_step"], shown["target"]) == (2, 2, "risk")
    assert shown["versions"]["torch"] == torch.__version__
    json.dumps(shown, allow_nan=False)


def test_a_refined_model_names_its_parent(tmp_path, run) -> None:
    parent = load(run)
    stored = load(save(tmp_path / "better", parent.model, kind="refined", parent=parent))
    assert (stored.kind, stored.config["parent"]) == ("refined", parent.sha256)


def test_loading_and_saving_leave_the_random_state_alone(tmp_path) -> None:
    before = torch.get_rng_state()
    load(save(tmp_path / "run", Model(learner := mixed(2), learner.init())))
    assert torch.equal(torch.get_rng_state(), before)
    model = trained(LEARNERS["learned rates"]())
    before = torch.get_rng_state()
    load(save(tmp_path / "net", model))
    assert torch.equal(torch.get_rng_state(), before)


class Frozen(nn.Module):
    def __init__(self, offset: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.register_buffer("offset", torch.tensor(offset))

    def forward(self, x):
        return self.linear(x) + self.offset


def squares(prediction, target):
    return (prediction - target).square().flatten(1).mean(1)


def test_own_modules_and_losses_are_passed_in(tmp_path) -> None:
    x, y = a_task()
    model = trained(maml(Frozen(), loss=squares))
    folder = save(tmp_path / "run", model)
    stored = load(folder, module=Frozen(), loss=squares)
    assert torch.equal(stored.model.adapt(x, y)(x), model.adapt(x, y)(x))
    with pytest.raises(UsageError, match="pass it as module="):
        load(folder)
    with pytest.raises(UsageError, match="pass it as loss="):
        load(folder, module=Frozen())
    with pytest.raises(UsageError, match=r"not the one .* trained with: 'linear.bias' is missing"):
        load(folder, module=nn.Linear(2, 1), loss=squares)
    with pytest.raises(UsageError, match="other frozen parameters or buffers"):
        load(folder, module=Frozen(2.0), loss=squares)
    with pytest.raises(UsageError, match="leave module= out"):
        load(save(tmp_path / "mixed", trained(mixed(2))), module=Frozen())


def test_a_device_that_is_not_there_is_a_usage_error(run) -> None:
    with pytest.raises(UsageError, match="device='nowhere'"):
        load(run, device="nowhere")


def by_hand(learner: GradientLearner) -> GradientLearner:
    return GradientLearner(
        learner.network, learner.criterion, learner.rule, learner.fast, learner.inner_steps, learner.metagrad
    )


def test_what_could_not_be_loaded_is_not_saved(tmp_path) -> None:
    net = models.mlp(2, [5], 1)
    good = trained(maml(net, loss="mse"))

    def attempt(reason: str, model: Model = good, error=UsageError, **keywords) -> None:
        with pytest.raises(error, match=reason):
            save(tmp_path / "run", model, **keywords)
        assert not os.listdir(tmp_path)

    attempt("assembled by hand", Model(by_hand(good.learner), good.meta))
    attempt("lambda", trained(maml(net, loss="mse", adapt=lambda name: "0" in name)))
    attempt("'0.weight' is missing", Model(good.learner, {"0.bias": good.meta["0.bias"]}))
    attempt("run.model", None)
    attempt("no plain data", settings={"hook": print})
    attempt("Out of range float", settings={"lr": float("inf")})
    attempt("nested deeper", settings=json.loads('{"a":' * 30 + "1" + "}" * 30))
    attempt("splits", splits={"train": [1, 2]})
    attempt("kind='adapted'", kind="adapted")
    bad = {**good.meta, "0.bias": torch.full((5,), torch.nan)}
    attempt("'0.bias' holds NaN", Model(good.learner, bad), DivergedError)


def test_adapted_tasks_must_fit_their_parent(tmp_path, run) -> None:
    parent, (x, y) = load(run), a_task()
    other = trained(mixed(2))
    other = Model(other.learner, {name: value + 1 for name, value in other.meta.items()})
    with pytest.raises(UsageError, match="'a' was adapted from another model"):
        parent.with_tasks({"a": other.adapt(x, y)}).save(tmp_path / "sites")
    with pytest.raises(UsageError, match="at least one"):
        parent.with_tasks({}).save(tmp_path / "sites")
    with pytest.raises(DivergedError, match="task 'a' diverged"):
        parent.with_tasks({"a": parent.model.adapt(x, y * torch.inf)}).save(tmp_path / "sites")


def test_files_are_the_same_bytes_every_time(tmp_path) -> None:
    model = trained(LEARNERS["learned rates"]())
    backwards = Model(model.learner, dict(reversed(model.meta.items())))
    one = save(tmp_path / "1", model, splits={"train": ["a"], "test": ["b"]})
    two = save(tmp_path / "2", backwards, splits={"train": ["a"], "test": ["b"]})
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_extra_files_are_sealed_with_the_rest(tmp_path) -> None:
    model, extra = trained(mixed(2)), {"report.html": b"<p>", "scores.csv": b"rmse\n"}
    folder = save(tmp_path / "run", model, extra=extra)
    load(folder)
    (folder / "report.html").write_bytes(b"<b>")
    refused(folder, "sha256", "report.html")
    save(folder, model, replace=True)
    assert sorted(os.listdir(folder)) == sorted(FILES)
    with pytest.raises(UsageError, match=r"choose among report\.html, scores\.csv"):
        save(tmp_path / "other", model, extra={"run.py": b""})


# --- damage


def mutated(data: bytes, chance: random.Random) -> bytes:
    place, kind = chance.randrange(len(data)), chance.randrange(5)
    if kind == 0:
        return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]
    if kind == 1:
        return data[:place]
    if kind == 2:
        return data[:place] + chance.randbytes(chance.randrange(1, 9)) + data[place:]
    if kind == 3:
        return data[:place] + data[place + chance.randrange(1, 9) :]
    return data[:place] + data[place : place + 8] * chance.randrange(2, 5) + data[place + 8 :]


def test_five_hundred_damaged_directories_are_refused(run) -> None:
    chance = random.Random(7)
    whole = {name: (run / name).read_bytes() for name in FILES}
    for _ in range(500):
        name = chance.choice(FILES)
        changed = mutated(whole[name], chance)
        (run / name).write_bytes(changed)
        if changed == whole[name]:
            load(run)
        else:
            with pytest.raises(ModelFileError):
                load(run)
        (run / name).write_bytes(whole[name])
    load(run)


def test_damage_under_a_matching_manifest_is_refused_or_harmless(tmp_path) -> None:
    """The sha256 is no signature: whoever changes a file can write its manifest, too."""
    x, y = a_task()
    parent = load(save(tmp_path / "run", trained(LEARNERS["learned rates"]()), log=[{"step": 1}]))
    folder = parent.with_tasks({"a": parent.model.adapt(x, y)}).save(tmp_path / "sites")
    whole = {name: (folder / name).read_bytes() for name in FILES[:3]}
    chance, survived = random.Random(11), 0
    for _ in range(200):
        name = chance.choice(FILES[:3])
        reseal(folder, **{k.replace(".", "_"): v for k, v in whole.items()})
        reseal(folder, **{name.replace(".", "_"): mutated(whole[name], chance)})
        try:
            stored = load(folder)
        except ModelFileError:
            continue
        except UsageError as error:
            # "external" is the only word in a file that asks something of the caller
            if "pass it as" not in str(error):
                raise
            continue
        survived += 1
        assert stored.model.adapt(x, y)(x).shape == (6, 1)
        assert all(one(x).shape == (6, 1) for one in stored.tasks.values())
        describe(stored)
    assert survived > 10


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("data.pkl", b"x")
    return stream.getvalue()


@pytest.mark.parametrize("name", FILES[:4])  # nothing reads the card
@pytest.mark.parametrize("resealed", [False, True])
def test_no_code_of_a_pickle_runs(run, tmp_path, name, resealed) -> None:
    marker = tmp_path / "marker"
    checkpoint_file = io.BytesIO()
    torch.save({"a": Payload(marker)}, checkpoint_file)
    for attack in (pickle.dumps(Payload(marker)), checkpoint_file.getvalue(), archive()):
        if resealed and name != sealed.MANIFEST:
            reseal(run, **{name.replace(".", "_"): attack})
        else:
            (run / name).write_bytes(attack)
        refused(run, "", name)
        assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker))).close()
    assert marker.exists()


def header(length: int, text: bytes = b"", data: bytes = b"") -> bytes:
    return length.to_bytes(8, "little") + text + data


def entry(**change) -> bytes:
    text = json.dumps(
        {"head/log_noise": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **change}}
    ).encode()
    return header(len(text), text, b"\0" * 4)


@pytest.mark.parametrize(
    "data",
    [
        header(2**63),
        header(4 * 2**30, b"{" * 100),
        header(100_000_000, b"{}"),
        b"",
        b"\0" * 7,
        entry(data_offsets=[-4, 0]),
        entry(data_offsets=[0, 4 * 2**30]),
        entry(data_offsets=[4, 0]),
        entry(shape=[2**62, 2**62]),
        entry(shape=[2]),
        entry(shape=[-1]),
        entry(dtype="F8_E4M3", shape=[4]),
        entry(dtype="OBJECT"),
        entry()[:-1],
        entry() + b"more",
        header(2, b"{}"),
    ],
    ids=range(16),
)
def test_hostile_tensors_are_refused(run, data) -> None:
    reseal(run, model_safetensors=data)
    refused(run, "", "model.safetensors")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.update({"head/mean": torch.zeros(4, 1)}), r"'head/mean' is torch.float32 \[4, 1\], not"),
        (lambda t: t.update({"head/mean": torch.zeros(3, 1, dtype=torch.float64)}), "float64"),
        (lambda t: t.update({"more": torch.zeros(1)}), "'more' is not of this learner"),
        (lambda t: t.update({"tasks/head/weights": torch.zeros(1, 3, 1)}), "'head/weights' is not of this"),
        (lambda t: t.pop("head/root"), "'head/root' is missing"),
        (lambda t: t["head/root"].fill_(torch.nan), "'head/root' holds NaN"),
        (lambda t: t["head/root"].fill_(-torch.inf), "'head/root' holds NaN or infinity"),
    ],
)
def test_tensors_must_be_those_of_the_learner(run, change, reason) -> None:
    tensors = safetensors.torch.load((run / "model.safetensors").read_bytes())
    change(tensors)
    reseal(run, model_safetensors=safetensors.torch.save(tensors))
    refused(run, reason, "model.safetensors")


def test_an_unknown_loss_is_refused(tmp_path) -> None:
    folder = save(tmp_path / "run", trained(LEARNERS["learned rates"]()))
    reconfigure(folder, at("learner", "settings", "loss", value="msu"))
    refused(folder, "loss 'msu' is unknown: there are mse, cross_entropy", "config.json")


def at(*path, value):
    def change(config) -> None:
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (at("schema_version", value=2), "made by a newer innerloop: schema_version 2, .* up to 1: upgrade"),
        (at("schema_version", value=0), "not a version"),
        (at("schema_version", value=True), "not a version"),
        (at("kind", value="adapted"), "tasks do not go with"),
        (at("kind", value="pickle"), "kind 'pickle' is unknown"),
        (at("learner", "algorithm", value="os.system"), "algorithm 'os.system' is unknown"),
        (at("learner", "algorithm", value=["maml"]), "is unknown"),
        (at("learner", "model", value={"name": "nn.RNN", "settings": {}}), "model 'nn.RNN' is unknown"),
        (at("learner", "model", value={"name": "mlp", "settings": {"_a_": 1}}), "no setting '_a_'"),
        (at("learner", "model", value=3), "no name and settings"),
        (at("learner", "module", value="os"), "has the parts"),
        (at("learner", "settings", value=None), "has no settings"),
        (at("learner", "settings", "n_features", value="2"), "n_features=.2. is no int"),
        (at("learner", "settings", "n_features", value=2.0), "n_features=2.0 is no int"),
        (at("learner", "settings", "n_features", value=10**400), "a setting of the learner is 1000"),
        (at("learner", "settings", "n_features", value=-5), ""),
        (at("learner", "settings", "n_features", value=10**9), "head/mean"),
        (at("learner", "settings", "n_features", value=2**53), ""),
        (at("learner", "settings", "covariance", value="odd"), "covariance='odd' is unknown"),
        (at("learner", "settings", "covariance", value="x" * 100_000), "more settings than"),
        (at("learner", value={}), "has the parts"),
        (at("extra", value=1), "extra"),
        (lambda config: config.pop("splits"), "splits"),
        (at("splits", value={"train": [1]}), "splits"),
        (at("support", value={"rows": "many", "per_class": False}), "n_support='many'"),
        (at("targets", value={"kind": "regression"}), "targets lacks"),
        (at("schema", value={"columns": 3}), "schema"),
        (at("schema", value={"task": 3, "target": "y", "kind": "", "columns": [], "classes": []}), "schema"),
        (at("frozen", value=1), "frozen"),
    ],
)  # fmt: skip
def test_hostile_configurations_are_refused(run, change, reason) -> None:
    reconfigure(run, change)
    refused(run, reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[]", "not a version"),
        (b'{"kind": "run", "kind": "run"}', "'kind' stands twice"),
        (b'{"a": NaN}', "not finite"),
        (b'{"a": 1e999}', "not finite"),
        (b'{"a":' * 200_000, "nested deeper"),
        (b'{"a": "' + b"x" * (1 << 22), "Unterminated"),
        (b"\x80\x05.", "utf-8"),
        (b"", "Expecting value"),
    ],
    ids=range(8),
)
def test_what_is_no_configuration_is_refused(run, text, reason) -> None:
    reseal(run, config_json=text)
    refused(run, reason, "config.json")


@pytest.mark.parametrize(
    ("text", "reason"), [(b"1\n", "no JSON object"), (b'{"a":1}\n{"a":', "line 2"), (b"\n", "line 1")]
)
def test_a_hostile_log_is_refused(run, text, reason) -> None:
    reseal(run, log_jsonl=text)
    refused(run, reason, "log.jsonl")


@pytest.mark.parametrize(
    "tasks",
    [
        [{"id": "a", "n_support": 1, "base": False}, {"id": "a", "n_support": 1, "base": False}],
        [{"id": "a", "n_support": 1, "base": False}] * 0 + [{"id": "a", "n_support": 1, "base": True}],
        [{"id": 1, "n_support": 1, "base": False}],
        [{"id": "a"}],
        [],
        "a",
    ],
    ids=range(6),
)
def test_hostile_task_lists_are_refused(run, tmp_path, tasks) -> None:
    parent = load(run)
    folder = parent.with_tasks({"a": parent.model.adapt(*a_task())}).save(tmp_path / "sites")
    reconfigure(folder, at("tasks", value=tasks))
    refused(folder, "task")


# --- the manifest and the folder


def remanifest(folder: Path, change) -> None:
    manifest = json.loads((folder / sealed.MANIFEST).read_bytes())
    del manifest["sha256"]
    change(manifest)
    manifest["sha256"] = sealed.sha256(sealed.canonical(manifest))
    (folder / sealed.MANIFEST).write_bytes(sealed.canonical(manifest))


@pytest.mark.parametrize(
    "name",
    [
        "../secret.txt",
        "/etc/hostname",
        "a/b",
        "..",
        ".",
        "",
        "Config.json",
        "a\\b",
        "con\0fig",
        "manifest.json",
        ".x",
    ],
)
def test_a_path_in_the_manifest_is_refused(run, tmp_path, name) -> None:
    (tmp_path / "secret.txt").write_bytes(b"secret")
    entry = {"sha256": sealed.sha256(b"secret"), "size": 6}
    remanifest(run, lambda manifest: manifest["files"].update({name: entry}))
    refused(run, "is not a name of a file in this folder", "manifest.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (at("schema_version", value=7), "made by a newer innerloop: schema_version 7"),
        (at("schema_version", value="1"), "not a version"),
        (at("format", value="other"), "not the manifest of a model directory"),
        (at("note", value=1), "keys"),
        (at("files", value=[]), "keys"),
        (at("files", "config.json", value=3), "has no size and sha256"),
        (at("files", "config.json", "size", value=True), "has no size and sha256"),
        (at("files", "config.json", "size", value=-1), "bytes, not -1"),
        (at("files", "config.json", "sha256", value="0" * 64), "sha256"),
        (lambda manifest: manifest["files"].pop("log.jsonl"), "does not name it"),
    ],
)
def test_hostile_manifests_are_refused(run, change, reason) -> None:
    remanifest(run, change)
    refused(run, reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"files": {}, "files": {}}', "stands twice"),
        (b"[" * 900_000, "nested deeper"),
        (b" " * (1 << 20) + b"{}", "larger than"),
        (b"{}", "not the manifest"),
        (b"\xff", "utf-8"),
    ],
    ids=range(5),
)
def test_what_is_no_manifest_is_refused(run, text, reason) -> None:
    (run / sealed.MANIFEST).write_bytes(text)
    refused(run, reason, "manifest.json")


def test_white_space_in_the_manifest_is_damage(run) -> None:
    path = run / sealed.MANIFEST
    path.write_bytes(path.read_bytes() + b" ")
    refused(run, "its sha256 is not its own", "manifest.json")


def test_the_files_of_the_folder_are_exactly_those_of_the_manifest(run, tmp_path) -> None:
    (run / "extra.txt").write_text("")
    refused(run, "remove it from the folder", "extra.txt")
    (run / "extra.txt").unlink()
    (run / "folder").mkdir()
    refused(run, "remove it from the folder", "folder")
    (run / "folder").rmdir()
    reseal(run, more_txt=b"")
    refused(run, "more.txt", "manifest.json")
    (run / "more.txt").unlink()
    reseal(run)
    load(run)
    os.rename(run / "log.jsonl", tmp_path / "log.jsonl")
    refused(run, "the file is missing", "log.jsonl")
    (run / "log.jsonl").symlink_to(tmp_path / "log.jsonl")
    refused(run, "not a regular file", "log.jsonl")
    (run / "log.jsonl").unlink()
    os.mkfifo(run / "log.jsonl")
    refused(run, "not a regular file", "log.jsonl")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(run, name) -> None:
    (run / name).unlink()
    refused(run, re.escape(name))


def test_a_manifest_that_is_a_link_is_refused(run, tmp_path) -> None:
    os.rename(run / sealed.MANIFEST, tmp_path / "elsewhere.json")
    (run / sealed.MANIFEST).symlink_to(tmp_path / "elsewhere.json")
    refused(run, "not a regular file", "manifest.json")


def test_what_is_no_model_directory_is_told_apart(run, tmp_path) -> None:
    refused(tmp_path / "nowhere", "no such folder: give a folder that `innerloop train --out`")
    refused(run / "config.json", "a file, not a model directory")
    refused(tmp_path, f"it has no manifest.json.*such as {re.escape(str(run))}")
    with pytest.raises(ModelFileError, match=r"no manifest\.json"):
        load(str(Path(__file__).parent))
    with pytest.raises(UsageError, match="NUL"):
        load("a\0b")


def test_a_link_to_a_model_directory_is_fine(run, tmp_path) -> None:
    (tmp_path / "latest").symlink_to(run)
    assert load(tmp_path / "latest").kind == "run"


def test_a_directory_can_be_moved(run, tmp_path) -> None:
    x, y = a_task()
    before = load(run).model.adapt(x, y)(x)
    shutil.move(run, tmp_path / "a b ü")
    assert torch.equal(load(tmp_path / "a b ü").model.adapt(x, y)(x), before)


def test_saving_fails_whole(tmp_path, run, monkeypatch) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="no space is left"):
        save(run, trained(mixed(2)), replace=True)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert os.listdir(tmp_path) == ["run"]


def test_the_manifest_names_every_file_by_its_sha256(run) -> None:
    manifest = json.loads((run / sealed.MANIFEST).read_bytes())
    assert set(manifest["files"]) == set(FILES) - {sealed.MANIFEST}
    own = manifest.pop("sha256")
    assert own == sealed.sha256(sealed.canonical(manifest)) == load(run).sha256
    assert sealed.SCHEMA_VERSION == manifest["schema_version"] == 1


@pytest.fixture
def of_any_length(tmp_path) -> Path:
    """Adapted tasks that own as many rows as they were shown: 4, none at all, and 9."""
    stored = load(save(tmp_path / "parent", trained(gp(2))))
    tasks = {str(n): stored.model.adapt(*a_task(n=n)) for n in (4, 0, 9)}
    return stored.with_tasks(tasks).save(tmp_path / "tasks")


def test_tasks_own_as_many_rows_as_they_were_shown(of_any_length) -> None:
    stored = load(of_any_length)
    for count in (4, 0, 9):
        task = stored.tasks[str(count)]
        assert task.own["head/root"].shape == (1, count, count)
        again = stored.model.adapt(*a_task(n=count))
        assert torch.equal(task(a_task(n=3)[0]), again(a_task(n=3)[0]))
        assert torch.equal(task.deviation(a_task(n=3)[0]), again.deviation(a_task(n=3)[0]))
    tensors = safetensors.torch.load((of_any_length / "model.safetensors").read_bytes())
    assert tensors["tasks/head/root"].shape == (4 * 4 + 9 * 9,)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("tasks/lengths"), "does not say how many rows"),
        (lambda t: t.update({"tasks/lengths": torch.tensor([4, -1, 10])}), "does not say how many rows"),
        (lambda t: t.update({"tasks/lengths": torch.tensor([4, 0, 9.0])}), "does not say how many rows"),
        (lambda t: t.update({"tasks/lengths": torch.tensor([4, 9])}), "does not say how many rows"),
        (lambda t: t.update({"tasks/lengths": torch.tensor([4, 1, 8])}), "'head/root' is"),
        (lambda t: t.update({"tasks/head/rows": t["tasks/head/rows"][:-2]}), "'head/rows' is"),
        (lambda t: t.pop("tasks/head/weights"), "'head/weights' is missing"),
        (lambda t: t.update({"tasks/head/rows": t["tasks/head/rows"].float()}), "'head/rows' is"),
    ],
)
def test_lengths_must_fit_what_tasks_own(of_any_length, change, reason) -> None:
    tensors = safetensors.torch.load((of_any_length / "model.safetensors").read_bytes())
    change(tensors)
    reseal(of_any_length, model_safetensors=safetensors.torch.save(tensors))
    refused(of_any_length, reason, "model.safetensors")


def test_rows_that_do_not_belong_together_are_not_stored(tmp_path) -> None:
    stored = load(save(tmp_path / "parent", trained(gp(2))))
    task = stored.model.adapt(*a_task(n=4))
    odd = Adapted(stored.model, task.own | {"head/weights": task.own["head/weights"][:, :3]})
    with pytest.raises(UsageError, match="'head/weights' is"):
        stored.with_tasks({"a": odd})
