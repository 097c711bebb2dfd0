"""Does choosing what to change help a trained model? `innerloop.refine` against fine-tuning, and its own controls.

    python benchmarks/refine.py                 # everything, about 35 minutes on one core; goes on where it stopped
    python benchmarks/refine.py --only digits   # one data set
    python benchmarks/refine.py --more          # only what is not a comparison of methods
    python benchmarks/refine.py --tables        # the tables of what is there, nothing is computed

Classifiers are trained in the ordinary way, then given a few new rows a class, with and without a shift: digits
(scikit-learn, 8 x 8, an mlp; images turned by 30 degrees, or noisy), alphabets (invented characters, 28 x 28, a
conv4; drawers who slant and press harder), a table (computed, 12 features, 3 classes, an mlp; another site, with
instruments and habits of its own). Every method has its step size, number of steps and, where there is one, its
budget or dropout chosen on two development draws with rows and models of their own, once for 1 to 5 and once for
10 and 50 examples a class; then all methods are scored on the same draws. The number of steps is a setting like any
other: this is early stopping that does not cost rows. Results are kept, one line each, in
benchmarks/results/refine.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage, stats
from sklearn.datasets import load_digits
from torch import nn

import innerloop as il
from innerloop.refining import Settings
from innerloop.tasks.datasets.alphabets import draw_alphabets

RESULTS = Path(__file__).parent / "results" / "refine.jsonl"
SHOTS = {"digits": (1, 2, 5, 10, 50), "table": (1, 2, 5, 10, 50), "alphabets": (1, 5, 50)}
DRAWS, DEVELOPMENT = {"digits": 5, "table": 5, "alphabets": 2}, (100, 101)
SHIFTS = {
    "digits": ("none", "turned", "noisy"),
    "table": ("none", "another site"),
    "alphabets": ("none", "new drawers"),
}
CHECKPOINTS, RATES = (5, 10, 20, 40, 80), (1e-3, 3e-3, 1e-2, 3e-2)
SELECTED = ("gradient", "agreement", "snr", "learned", "static", "random")


def grids(rates, chosen):
    """The settings of every method to choose from."""
    return {
        "fine-tuning": [{"lr": lr} for lr in (3e-4, *rates)],
        "last layer": [{"lr": lr} for lr in RATES],
        "dropout": [{"lr": lr, "dropout": p} for lr in rates for p in (0.1, 0.2, 0.5)],
        "augmentation": [{"lr": lr} for lr in (3e-4, *rates)],
        "all": [{"lr": lr} for lr in (3e-4, *rates)],
        **dict.fromkeys(SELECTED, chosen),
    }


GRIDS = {
    "digits": grids(
        RATES,
        [{"lr": lr, "budget": b} for lr in RATES[:3] for b in (0.03, 0.3)] + [{"lr": 3e-2, "budget": 0.3}],
    ),
    "table": grids(RATES, [{"lr": lr, "budget": 0.3} for lr in RATES[1:]] + [{"lr": 1e-2, "budget": 0.03}]),
    "alphabets": {  # fewer, because a step takes longest
        "fine-tuning": [{"lr": lr} for lr in RATES[:3]],
        "last layer": [{"lr": lr} for lr in RATES[2:]],
        "dropout": [{"lr": lr, "dropout": 0.2} for lr in RATES[1:3]],
        "augmentation": [{"lr": lr} for lr in RATES[1:3]],
        "all": [{"lr": lr} for lr in RATES[1:3]],
        "snr": [{"lr": lr, "budget": 0.3} for lr in RATES[1:3]],
        "random": [{"lr": lr, "budget": 0.3} for lr in RATES[1:3]],
    },
}


# ---------------------------------------------------------------------------------------------------- the data


def digits(shift, rng):
    pixels, y = load_digits(return_X_y=True)
    x = pixels / 16
    if shift == "turned":
        x = np.stack([ndimage.rotate(image, 30, reshape=False, order=1) for image in x.reshape(-1, 8, 8)])
    if shift == "noisy":
        x = x + rng.normal(0, 0.35, x.shape)
    return x.reshape(len(y), -1), y


@functools.cache
def characters():
    return draw_alphabets(1, 10, 300, seed=7).images  # (10, 300, 28, 28)


def alphabets(shift, rng):
    images = characters().astype(np.float32)
    y = np.repeat(np.arange(10), images.shape[1])
    x = images.reshape(-1, 28, 28)
    if shift == "new drawers":
        slant = np.array([[1, 0], [0.45, 1]])
        centre = np.array([13.5, 13.5])
        turned = [ndimage.affine_transform(im, slant, offset=centre - slant @ centre, order=1) for im in x]
        x = np.stack([ndimage.grey_dilation(image, size=(2, 2)) for image in turned])
    return x.reshape(len(y), 1, 28, 28), y


def table(shift, rng):
    """Three classes from a random smooth function of 12 features; another site has other units and a habit."""
    fixed = np.random.default_rng(5)
    one, two = fixed.normal(size=(12, 16)), fixed.normal(size=(16, 3))
    x = rng.normal(size=(4000, 12))
    scores = np.tanh(x @ one / 2) @ two
    if shift == "another site":
        scores = scores + 0.8 * np.tanh(x @ fixed.normal(size=(12, 16)) / 2) @ fixed.normal(size=(16, 3))
        x = 0.7 * x + fixed.normal(0, 0.6, 12)
    return x, (scores + rng.gumbel(0, 0.3, scores.shape)).argmax(1)


@functools.cache
def drawn(name, shift, draw):
    """Rows to train on (never shifted), and rows to refine on and test with; each draw divides them anew."""
    make = {"digits": digits, "alphabets": alphabets, "table": table}[name]
    order = np.random.default_rng([draw, 1]).permutation(len(make("none", np.random.default_rng(draw))[1]))
    first = 700 if name == "digits" else 1000
    parts = []
    for kind, rows in (("none", order[:first]), (shift, order[first:])):
        x, y = make(kind, np.random.default_rng(draw))
        parts.append((torch.tensor(x[rows], dtype=torch.float32), torch.tensor(y[rows])))
    return parts


def network(name):
    if name == "digits":
        return il.models.mlp(64, [32], 10, activation="relu")
    if name == "table":
        return il.models.mlp(12, [32, 32], 3, activation="relu")
    net = il.models.conv4(1, 10, width=8, pool="stride")
    for number, layer in enumerate(net):
        if isinstance(layer, nn.BatchNorm2d):  # an ordinary classifier keeps running statistics
            net[number] = nn.BatchNorm2d(layer.num_features)
    return net


@functools.cache
def trained(name, draw):
    """A classifier trained in the ordinary way on the rows of a draw."""
    torch.manual_seed(draw)
    net, (x, y) = network(name), drawn(name, "none", draw)[0]
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(15 if name == "alphabets" else 40):
        for rows in torch.randperm(len(y)).split(50):
            loss = F.cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def cell(name, shift, shots, draw):
    """The trained net, the rows to refine on, and 500 to test with."""
    x, y = drawn(name, shift, draw)[1]
    rows = torch.cat([torch.nonzero(y == c).flatten()[:shots] for c in range(int(y.max()) + 1)])
    rest = torch.ones(len(y), dtype=torch.bool)
    # the test rows are the same whatever the number of shots
    for c in range(int(y.max()) + 1):
        rest[torch.nonzero(y == c).flatten()[:50]] = False
    test = torch.nonzero(rest).flatten()[:500]
    return trained(name, draw), (x[rows], y[rows]), (x[test], y[test])


# ------------------------------------------------------------------------------------------------- the methods


def with_dropout(net, share):
    """The same net with dropout before every linear layer but the first layer of all."""
    layers = []
    for number, layer in enumerate(net):
        layers += [nn.Dropout(share)] * (isinstance(layer, nn.Linear) and number > 0) + [layer]
    return nn.Sequential(*layers)


def augmented(x):
    """Images shifted by up to an eighth of their side; rows of a table with a little noise."""
    if x.dim() == 2 and x.shape[1] != 64:
        return x + 0.1 * torch.randn(x.shape)
    images = x.reshape(len(x), 1, 8, 8) if x.dim() == 2 else x
    most = images.shape[-1] // 8
    moves = torch.randint(-most, most + 1, (len(x), 2)).tolist()
    moved = torch.stack([image.roll(move, (1, 2)) for image, move in zip(images, moves, strict=True)])
    return moved.reshape(x.shape)


def accuracy(net, rows):
    with torch.no_grad():
        return (net(rows[0]).argmax(1) == rows[1]).float().mean().item()


def finetuned(method, net, rows, test, setting, rounds):
    """Adam on all rows at once, the plain way: the accuracy on the test rows after each of `rounds` steps."""
    torch.manual_seed(0)
    net = with_dropout(net, setting["dropout"]) if method == "dropout" else net
    net = copy.deepcopy(net)
    moving = net[-1].parameters() if method == "last layer" else net.parameters()
    optimizer, found = torch.optim.Adam(moving, lr=setting["lr"]), {}
    for step in range(1, max(rounds) + 1):
        for layer in net.modules():
            layer.train(isinstance(layer, nn.Dropout))
        x = augmented(rows[0]) if method == "augmentation" else rows[0]
        loss = F.cross_entropy(net(x), rows[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in rounds:
            found[step] = accuracy(net.eval(), test)
    return found


def refined(method, net, rows, test, setting, rounds):
    """The same of `innerloop.refine`."""
    options = {"score": method, "decay": 0.0, "tolerance": 0.0, **setting}
    options["batch_size"] = 200 if rows[0].dim() > 2 else 512
    found = il.refine(net, rows, valid=test, rounds=max(rounds), worse=10**6, **options)
    return {step: found.log[step - 1]["valid_accuracy"] for step in rounds}


def run(method, net, rows, test, setting, rounds):
    plain = method in ("fine-tuning", "last layer", "dropout", "augmentation")
    return (finetuned if plain else refined)(method, net, rows, test, setting, rounds)


# ----------------------------------------------------------------------------------------------------- results


class NotThere(Exception):
    """A result that is not computed yet."""


class Results:
    """One line a result; what is there is not computed again."""

    def __init__(self):
        self.reading = False  # nothing is computed, for the tables
        lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
        self.found = {json.dumps(line["key"]): line["value"] for line in map(json.loads, lines)}

    def __call__(self, key, compute):
        """The value of a key."""
        name = json.dumps(key)
        if name not in self.found:
            if self.reading:
                raise NotThere
            self.found[name] = compute()
            RESULTS.parent.mkdir(exist_ok=True)
            with RESULTS.open("a") as file:
                file.write(json.dumps({"key": key, "value": self.found[name]}) + "\n")
        return self.found[name]


def tuned(results, name, shift, method, shots):
    """Setting and number of steps that are best on the development draws."""
    stand_in, curves = 2 if shots <= 5 else 10, {}
    steps = CHECKPOINTS[: 4 if name == "alphabets" else 5]
    for number, setting in enumerate(GRIDS[name][method]):
        for draw in DEVELOPMENT:
            key = ["tune", name, shift, stand_in, method, setting, draw]
            found = results(key, lambda: curve(name, shift, stand_in, draw, method, setting, steps))  # noqa: B023
            for step in steps:
                curves.setdefault((number, step), []).append(found[str(step)])
    number, step = max(curves, key=lambda key: np.mean(curves[key]))
    return GRIDS[name][method][number], step


def curve(name, shift, shots, draw, method, setting, steps):
    """Accuracy on the test rows after so many steps, by their number as text."""
    found = run(method, *cell(name, shift, shots, draw), setting, steps)
    return {str(step): value for step, value in found.items()}


def compute(results, name):
    """Tune and test every method on a data set."""
    for shift in SHIFTS[name]:
        for shots in SHOTS[name]:
            for draw in range(DRAWS[name]):
                net, _, test = cell(name, shift, shots, draw)
                results(["test", name, shift, shots, "not touched", {}, 0, draw], lambda: accuracy(net, test))  # noqa: B023
            for method in GRIDS[name]:
                setting, step = tuned(results, name, shift, method, shots)
                for draw in range(DRAWS[name]):
                    key = ["test", name, shift, shots, method, setting, step, draw]
                    results(
                        key,
                        lambda: curve(name, shift, shots, draw, method, setting, (step,))[str(step)],  # noqa: B023
                    )
            print(
                f"{time.process_time():6.0f} s  {name}, {shift}, {shots} a class", file=sys.stderr, flush=True
            )


def as_it_comes(results, name):
    """`innerloop.refine(net, rows)` with nothing chosen: how many rounds is found from the rows themselves."""
    settings = dataclasses.asdict(Settings())
    for shift in SHIFTS[name]:
        for shots in (1, 5, 50):
            for draw in range(2):
                net, rows, test = cell(name, shift, shots, draw)
                key = ["default", name, shift, shots, settings, draw]
                results(key, lambda: il.refine(net, rows, test=test).scores["after"]["accuracy"])  # noqa: B023


VARIANTS = {
    "folds 2": {"folds": 2},
    "folds 10": {"folds": 10},
    "moves few": {"moves": "few"},
    "moves bootstrap": {"moves": "bootstrap"},
    "candidate_lr 0": {"candidate_lr": 0.0},
    "reach 0.01": {"reach": 0.01},
    "noise laplace": {"noise": "laplace"},
    "scope tensor": {"scope": "tensor"},
    "scope neuron": {"scope": "neuron"},
    "score fisher": {"score": "fisher"},
    "rule sgd": {"rule": "sgd", "lr": 0.1},
}


def vary(results):
    """One option at a time, 5 examples a class, from the setting that was chosen for the score `snr`."""
    for name, shift in (("digits", "turned"), ("table", "another site")):
        setting, step = tuned(results, name, shift, "snr", 5)
        for change in VARIANTS.values():
            for draw in range(3):
                varied = setting | change
                key = ["vary", name, shift, change, varied, step, draw]
                method = varied.get("score", "snr")
                results(key, lambda: curve(name, shift, 5, draw, method, varied, (step,))[str(step)])  # noqa: B023


# ------------------------------------------------------------------------------------------------------ tables


def scores(results, name, shift, method, shots):
    """Accuracy in per cent on every draw."""
    setting, step = ({}, 0) if method == "not touched" else tuned(results, name, shift, method, shots)
    keys = [["test", name, shift, shots, method, setting, step, draw] for draw in range(DRAWS[name])]
    return np.array([100 * results(key, None) for key in keys])


def complete(results, name):
    """Whether every method is tested on a data set."""
    try:
        for shift in SHIFTS[name]:
            for shots in SHOTS[name]:
                for method in ("not touched", *GRIDS[name]):
                    scores(results, name, shift, method, shots)
    except NotThere:
        print(f"\n{name}: not everything is computed yet, so it is left out", file=sys.stderr)
        return False
    return True


def interval(differences):
    """Mean and 95 % interval of paired differences."""
    mean, count = np.mean(differences), len(differences)
    half = stats.t.ppf(0.975, count - 1) * np.std(differences, ddof=1) / math.sqrt(count)
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def tables(results, names):
    for name in names:
        for shift in SHIFTS[name]:
            print(
                f"\n{name}, {'no shift' if shift == 'none' else shift}: accuracy in per cent by examples a class\n"
            )
            print(f"| method | {' | '.join(map(str, SHOTS[name]))} |\n|---|{'---|' * len(SHOTS[name])}")
            for method in ("not touched", *GRIDS[name]):
                means = [scores(results, name, shift, method, shots).mean() for shots in SHOTS[name]]
                print(f"| {method} | {' | '.join(f'{mean:.1f}' for mean in means)} |")
    for opponent in ("fine-tuning", "random"):
        print(f"\nPoints of accuracy above {opponent}: mean and 95 % interval over data sets and draws\n")
        print("| method | no shift, 1 to 5 | no shift, 10 and 50 | shift, 1 to 5 | shift, 10 and 50 |")
        print("|---|---|---|---|---|")
        for method in ("not touched", *GRIDS["digits"]):
            if method != opponent:
                cells = [paired(results, names, method, opponent, *part) for part in PARTS]
                print(f"| {method} | {' | '.join(cells)} |")


PARTS = [(shifted, shots) for shifted in (False, True) for shots in ((1, 2, 5), (10, 50))]


def paired(results, names, method, opponent, shifted, shots):
    """A unit is a draw of a data set under a shift, its mean over the numbers of examples."""
    units = []
    for name in names:
        if method != "not touched" and method not in GRIDS[name]:
            continue
        for shift in SHIFTS[name]:
            if (shift != "none") == shifted:
                gaps = [
                    scores(results, name, shift, method, k) - scores(results, name, shift, opponent, k)
                    for k in shots
                    if k in SHOTS[name]
                ]
                units += np.mean(gaps, axis=0).tolist()
    return interval(units)


def default_table(results):
    settings = dataclasses.asdict(Settings())
    gaps = {False: [], True: []}
    print("\nNothing chosen: accuracy in per cent\n")
    print(
        "| data | examples a class | not touched | as it comes | fine-tuning, tuned |\n|---|---|---|---|---|"
    )
    for name in ("digits", "table"):
        for shift in SHIFTS[name]:
            for shots in (1, 5, 50):
                keys = [["default", name, shift, shots, settings, draw] for draw in range(2)]
                found = np.array([100 * results(key, None) for key in keys])
                still, tuned_ones = (
                    scores(results, name, shift, method, shots)[:2]
                    for method in ("not touched", "fine-tuning")
                )
                print(
                    f"| {name}, {shift} | {shots} | {still.mean():.1f} | {found.mean():.1f} | "
                    f"{tuned_ones.mean():.1f} |"
                )
                gaps[shift != "none"] += list(zip(found - still, found - tuned_ones, strict=True))
    for shifted, pairs in gaps.items():
        above = [interval(column) for column in np.array(pairs).T]
        print(
            f"\n{'Shifted' if shifted else 'Not shifted'}: {above[0]} above not touched, {above[1]} above fine-tuning"
        )


def option_table(results):
    lines = []
    for label, change in VARIANTS.items():
        cells = []
        for name, shift in (("digits", "turned"), ("table", "another site")):
            setting, step = tuned(results, name, shift, "snr", 5)
            keys = [["vary", name, shift, change, setting | change, step, draw] for draw in range(3)]
            found = np.array([100 * results(key, None) for key in keys])
            cells.append(interval(found - scores(results, name, shift, "snr", 5)[:3]))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    print("\nOne option at a time, 5 examples a class: points above the setting as chosen\n")
    print("| option | digits, turned | table, another site |\n|---|---|---|")
    print("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=SHIFTS)
    parser.add_argument("--more", action="store_true", help="only what is not a comparison of methods")
    parser.add_argument("--tables", action="store_true", help="compute nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results, names = Results(), [arguments.only] if arguments.only else [*SHIFTS]
    if not arguments.tables:
        for name in [] if arguments.more else names:
            compute(results, name)
        if not arguments.only:
            for name in ("digits", "table"):
                as_it_comes(results, name)
            vary(results)
    results.reading = True
    there = [name for name in names if complete(results, name)]
    if there and not arguments.more:
        tables(results, there)
    for table_of in (default_table, option_table) if not arguments.only else ():
        try:
            table_of(results)
        except NotThere:
            print(f"\n{table_of.__name__}: not everything is computed yet", file=sys.stderr)


if __name__ == "__main__":
    main()
