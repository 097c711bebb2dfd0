"""`innerloop refine`, and `innerloop train --init`, from files to files."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import innerloop as il
from innerloop.cli import run


class Tutorial(nn.Module):
    """Linear, ReLU, Linear, under names of its own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, x):
        return self.layers(x)


MLP = ["--architecture", "mlp", "--activation", "relu", "--quiet"]
GOOD = ["--rounds", 40, "--lr", 0.05, "--budget", 0.3, "--stop", "none"]


def drawn(count, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4)).astype("float32")
    return x + np.float32(shift), x[:, :3].argmax(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained net in half precision, and rows that are shifted: a table, arrays and pictures."""
    folder = tmp_path_factory.mktemp("refine")
    x, y = drawn(400, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Tutorial()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(torch.tensor(x)), torch.tensor(y)).backward()
        optimizer.step()
    save_file(net.half().state_dict(), folder / "model.safetensors")
    new, test = drawn(120, 1, [2.0, 0, 0, 0]), drawn(200, 2, [2.0, 0, 0, 0])
    np.savez(folder / "rows.npz", x=new[0], y=new[1], x_test=test[0], y_test=test[1])
    np.savez(folder / "new.npz", x=new[0], label=new[1])
    np.savez(folder / "test.npz", x=test[0], label=test[1])
    names = np.array(["ash", "oak", "yew"])
    for name, (x, y) in {"new.csv": new, "test.csv": test}.items():
        pd.DataFrame(x, columns=list("abcd")).assign(tree=names[y]).to_csv(folder / name, index=False)
    return folder


def refined(folder, capsys, *arguments, code=0):
    found = run(["refine", *map(str, arguments)])
    printed = capsys.readouterr()
    assert found == code, printed.err
    return printed


def test_arrays_tables_and_separate_test_files_give_the_same(folder, tmp_path, capsys):
    model, found = folder / "model.safetensors", []
    for number, data in enumerate(
        (
            ["--data", folder / "rows.npz"],
            ["--data", folder / "new.npz", "--test", folder / "test.npz"],
            ["--data", folder / "new.csv", "--test", folder / "test.csv", "--target", "tree"],
        )
    ):
        options = [*MLP, *GOOD, "--json", "--out", tmp_path / str(number)]
        found.append(json.loads(refined(folder, capsys, model, *data, *options).out))
    assert found[0]["after"]["accuracy"] > found[0]["before"]["accuracy"] + 0.1
    for other in found[1:]:
        assert other["before"] == pytest.approx(found[0]["before"], abs=1e-6)
        assert other["after"] == pytest.approx(found[0]["after"], abs=1e-6)
    assert found[0]["n_rows"] == 120
    assert found[0]["n_test"] == 200
    assert 0 < found[0]["changed"] < 1
    assert len(found[0]["log"]) == 40


def test_the_weights_come_back_under_their_names_and_types(folder, tmp_path, capsys):
    model, out, weights = folder / "model.safetensors", tmp_path / "run", tmp_path / "new.safetensors"
    arguments = [
        model,
        "--data",
        folder / "rows.npz",
        *MLP,
        "--rounds",
        10,
        "--out",
        out,
        "--weights",
        weights,
    ]
    printed = refined(folder, capsys, *arguments).out
    assert "test accuracy: " in printed
    assert f"weights: {weights}" in printed
    before, after = load_file(model), load_file(weights)
    assert {n: (v.shape, v.dtype) for n, v in before.items()} == {
        n: (v.shape, v.dtype) for n, v in after.items()
    }
    net = Tutorial().half()
    net.load_state_dict(after)
    stored = il.load(out)
    assert stored.kind == "refined"
    assert stored.log[-1]["round"] == 10
    x = torch.tensor(drawn(50, 3)[0])
    assert (stored.model.base()(x) - net.float()(x)).abs().max() < 0.02  # the file holds halves
    share = sum(int(m.sum()) for m in stored.mask.values()) / sum(m.numel() for m in stored.mask.values())
    assert f"({100 * share:.1f} %)" in printed
    for name, mask in stored.mask.items():
        kept = stored.model.meta[name][~mask].half()
        assert torch.equal(kept, before[f"layers.{name}"][~mask])
    assert run(["inspect", str(out)]) == 0
    assert "refined" in capsys.readouterr().out


def test_a_refined_model_predicts_a_table_and_is_refined_again(folder, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["--data", folder / "new.csv", "--target", "tree", *MLP, *GOOD]
    refined(folder, capsys, folder / "model.safetensors", *arguments, "--out", out)
    assert (
        run(["predict", str(out), str(folder / "test.csv"), "--out", str(tmp_path / "p.csv"), "--quiet"]) == 0
    )
    capsys.readouterr()
    found = pd.read_csv(tmp_path / "p.csv")
    assert (found.prediction == found.tree).mean() > 0.7
    again = tmp_path / "again"
    printed = refined(
        folder, capsys, out, "--data", folder / "test.csv", "--rounds", 3, "--out", again, "--json", "--quiet"
    )
    told = json.loads(printed.out)
    assert told["before"]["accuracy"] > 0.7
    assert il.load(again).config["parent"] == il.load(out).sha256


def test_a_folder_of_images(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for part, count in {"train": 6, "test": 8}.items():
        for label in ("dark", "light"):
            (tmp_path / "photos" / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 100, (4, 4)) + (150 if label == "light" else 0)
                image.fromarray(pixels.astype("uint8")).save(tmp_path / f"photos/{part}/{label}/{number}.png")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = il.models.mlp(16, [16], 2, activation="relu")
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    out = ["--out", tmp_path / "run", "--rounds", 60, "--lr", 0.03, "--stop", "none", "--json"]
    found = json.loads(
        refined(tmp_path, capsys, tmp_path / "net.safetensors", "--data", tmp_path / "photos", *MLP, *out).out
    )
    assert found["n_test"] == 16
    assert found["after"]["accuracy"] > 0.9
    save_file(il.models.conv4(1, 2, size=16, width=4).state_dict(), tmp_path / "conv.safetensors")
    conv = [
        "--architecture",
        "conv4",
        "--data",
        tmp_path / "photos",
        "--rounds",
        2,
        "--stop",
        "none",
        "--quiet",
    ]
    refined(tmp_path, capsys, tmp_path / "conv.safetensors", *conv, "--out", tmp_path / "conv")
    assert il.load(tmp_path / "conv").model.base()(torch.rand(1, 1, 16, 16)).shape == (1, 2)


def test_training_starts_from_refined_and_from_plain_weights(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(120, 4)), columns=list("abcd")).assign(site=np.arange(120) // 10)
    frame["tree"] = np.array(["ash", "oak", "yew"])[frame[["a", "b", "c"]].to_numpy().argmax(1)]
    frame.to_csv("sites.csv", index=False)
    out = ["--data", str(folder / "rows.npz"), *MLP, "--rounds", "2", "--out", "refined"]
    refined(folder, capsys, folder / "model.safetensors", *out)
    train = ["train", "sites.csv", "--task", "site", "--target", "tree", "--n-shot", "1", "--hidden", "12"]
    for number, (init, steps) in enumerate([("refined", 0), (str(folder / "model.safetensors"), 0)]):
        assert run([*train, "--steps", str(steps), "--init", init, "--out", f"run{number}"]) == 0
        assert "training starts from the weights" in capsys.readouterr().err
    expected = il.load("refined").model.meta
    found = il.load("run0").model.meta
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    plain = load_file(folder / "model.safetensors")
    assert torch.equal(il.load("run1").model.meta["0.weight"], plain["layers.0.weight"].float())
    back = il.state_dict(il.load("run1").model)
    assert {*back} == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert run([*train[:-1], "7", "--init", "refined", "--steps", "1", "--out", "other"]) == 4
    assert "not those of this model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["model.pt", "--data", "rows.npz", *MLP], 4, "save_model(model, 'model.safetensors')"),
        (["model.safetensors", "--data", "rows.npz"], 2, "--architecture mlp or conv4"),
        (["nothing", "--data", "rows.npz"], 4, "no such folder"),
        (["model.safetensors", "--data", "new.csv", *MLP], 2, "--target COLUMN"),
        (["model.safetensors", "--data", "rows.npz", "--target", "tree", *MLP], 2, "for tables"),
        (["model.safetensors", "--data", "absent.npz", *MLP], 3, "no such file"),
        (["model.safetensors", "--data", "rows.npz", "--score", "most", *MLP], 2, "score='most' is unknown"),
        (
            ["model.safetensors", "--data", "rows.npz", "--classes", "a,b", *MLP],
            2,
            "names 2, and the model has 3",
        ),
        (["model.safetensors", "--data", "rows.npz", "--classes", "a,b,c", *MLP], 3, "none of"),
        (
            ["model.safetensors", "--data", "two.npz", *MLP],
            3,
            "2 classes ('ash', 'oak') and the model 3 outputs",
        ),
        (["model.safetensors", "--data", "wide.npz", *MLP], 3, "a row has 5 values"),
        (["model.safetensors", "--data", "odd.npz", *MLP], 3, "rename them"),
        (["model.safetensors", "--data", "rows.npz", "--test-share", "1", *MLP], 2, "--test-share"),
    ],
)
def test_what_goes_wrong_is_one_line(folder, tmp_path, capsys, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    for name in ("model.safetensors", "rows.npz", "new.csv"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    x = np.zeros((6, 4), dtype="float32")
    np.savez("two.npz", x=x, y=np.array(["ash", "oak"] * 3))
    np.savez("wide.npz", x=np.zeros((6, 5)), y=np.arange(6) % 3)
    np.savez("odd.npz", x=x, y=np.arange(6) % 3, z=x)
    printed = refined(folder, capsys, *arguments, code=code)
    assert words in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_numbers_that_are_not_0_1_2_are_taken_in_their_order(tmp_path, capsys):
    """10 comes after 9 and not after 1: a perfect model stays one."""
    parts = {"0.weight": 20 * torch.eye(10), "0.bias": torch.zeros(10)}
    parts |= {"2.weight": torch.eye(10), "2.bias": torch.zeros(10)}
    save_file(parts, tmp_path / "ten.safetensors")
    y = np.tile(np.arange(1, 11), 12)
    np.savez(tmp_path / "ten.npz", x=np.eye(10, dtype="float32")[y - 1], y=y)
    given = [tmp_path / "ten.safetensors", "--data", tmp_path / "ten.npz", "--rounds", 1, "--json", *MLP]
    assert run(["refine", *map(str, given), "--out", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["before"]["accuracy"] == 1


def test_a_model_with_a_head_of_its_own_and_one_layer_is_refused_by_name(folder, tmp_path, capsys):
    learner = il.ridge(il.models.mlp(4, [6], None), n_features=6)
    il.save(tmp_path / "run", il.Model(learner, learner.init()))
    printed = refined(folder, capsys, tmp_path / "run", "--data", folder / "rows.npz", code=2)
    assert "a model of ridge predicts through a part that is made anew" in printed.err
