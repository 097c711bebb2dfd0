"""The way over from other libraries: what docs/coming_from.md prints on the right, against plain PyTorch."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.func import functional_call

import innerloop as il
from innerloop.algorithms import anil, meta_sgd
from innerloop.tasks.episodes import Batch, Episode
from innerloop.tasks.sources import FunctionSource, SupportSize, Targets

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "coming_from.md").read_text(encoding="utf-8")
TABLE = TEXT[TEXT.index("## Line by line") :].split("\n\n")[2]
ROWS = [tuple(line.strip("| ").split(" | ")) for line in TABLE.splitlines()[2:]]
CODE = re.compile(r"`([^`]+)`")
loss = nn.functional.cross_entropy


def prepared() -> dict[str, Any]:
    """What the right column takes for granted."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    support = Batch(torch.randn(4, 6, 5, generator=g), torch.arange(3).repeat(4, 2))
    query = Batch(torch.randn(4, 9, 5, generator=g), torch.arange(3).repeat(4, 3))
    episodes = Episode(*(Batch(b.x.double(), b.y) for b in (support, query)))
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    source = FunctionSource(
        lambda count, generator: episodes, Targets("classification", 3), SupportSize(6, 6), 4
    )
    layers = (nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten())
    return {
        "il": il, "torch": torch, "anil": anil, "meta_sgd": meta_sgd, "model": model, "source": source,
        "convolutions": nn.Sequential(*layers, nn.Linear(12, 3)).double(), "episodes": episodes,
        "x": episodes.support.x[0], "y": episodes.support.y[0], "x_query": episodes.query.x[0],
        "learner": il.maml(model, loss="cross_entropy", inner_lr=0.1, inner_steps=1),
    }  # fmt: skip


def run(row: tuple[str, ...], space: dict[str, Any]) -> dict[str, Any]:
    """Run the code of the right column: what is a statement in it."""
    for code in CODE.findall(row[1]):
        if "=" in code:
            exec(code, space)
    return space


def stepped(module, start, x, y, step: Callable[..., Any], steps=1):
    """Fast weights after `steps` of `step(name, value, slope, number)`, with their graph."""
    fast = dict(start)
    for number in range(steps):
        value = loss(functional_call(module, fast, (x,)), y)
        slopes = torch.autograd.grad(value, list(fast.values()), create_graph=True, allow_unused=True)
        fast = {
            n: v if s is None else step(n, v, s, number)
            for (n, v), s in zip(fast.items(), slopes, strict=True)
        }
    return fast


def mean_gradient(module, episodes, start, make_step, steps=1):
    """The mean over a Python loop of tasks of the query gradient through the steps; a rule is made for each task."""
    total = 0.0
    for task in range(episodes.n_tasks):
        fast = stepped(module, start, episodes.support.x[task], episodes.support.y[task], make_step(), steps)
        total = total + loss(functional_call(module, fast, (episodes.query.x[task],)), episodes.query.y[task])
    grads = torch.autograd.grad(total / episodes.n_tasks, list(start.values()), allow_unused=True)
    return dict(zip(start, grads, strict=True))


def start_of(module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone().requires_grad_() for name, value in module.named_parameters()}


def sgd(rate=0.1, first_order=False):
    return lambda: lambda n, v, slope, number: v - rate * (slope.detach() if first_order else slope)


def momentum():
    velocity: dict[str, Any] = {}

    def step(n, v, slope, number):
        velocity[n] = slope if n not in velocity else 0.9 * velocity[n] + slope
        return v - 0.1 * velocity[n]

    return step


def adam():
    """As `torch.optim.Adam` has it: epsilon outside of the root."""
    mean: dict[str, Any] = {}
    square: dict[str, Any] = {}

    def step(n, v, slope, number):
        mean[n] = 0.9 * mean.get(n, 0) + 0.1 * slope
        square[n] = 0.999 * square.get(n, 0) + 0.001 * slope.square()
        root = (square[n] / (1 - 0.999 ** (number + 1))).sqrt()
        return v - 0.1 * (mean[n] / (1 - 0.9 ** (number + 1))) / (root + 1e-8)

    return step


def same_gradient(space, expected, tolerance=1e-12):
    learner = space["learner"]
    found, _ = learner.metagrad(learner, learner.init(), space["episodes"])
    assert expected.keys() <= found.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=tolerance, atol=tolerance), name


def plainly(make_step, steps=1, module="model", tolerance=1e-12):
    def check(space):
        plain = space[module]
        same_gradient(
            space, mean_gradient(plain, space["episodes"], start_of(plain), make_step, steps), tolerance
        )

    return check


def same_predictions(space):
    fast = stepped(space["model"], start_of(space["model"]), space["x"], space["y"], sgd()())
    expected = functional_call(space["model"], fast, (space["x_query"],))
    assert torch.allclose(space["predictions"], expected, rtol=1e-12)
    assert not space["predictions"].requires_grad


def given_gradient(space):
    expected = mean_gradient(space["model"], space["episodes"], start_of(space["model"]), sgd())
    assert all(torch.allclose(space["gradient"][n], v, rtol=1e-12) for n, v in expected.items())
    assert space["figures"]["losses"].shape == (4,)


def trained(space):
    params = start_of(space["model"])
    optimizer = torch.optim.Adam(params.values(), lr=0.003)
    for _ in range(3):
        for value, grad in zip(
            params.values(),
            mean_gradient(space["model"], space["episodes"], params, sgd()).values(),
            strict=True,
        ):
            value.grad = grad
        optimizer.step()
    found = space["run"].model.meta
    assert all(torch.allclose(found[n], v.detach(), rtol=1e-9, atol=1e-11) for n, v in params.items())


def meta_sgd_rates(space):
    start = start_of(space["model"])
    rates = {f"inner/lr/{n}": torch.full_like(v, 0.1, requires_grad=True) for n, v in start.items()}
    both = start | rates

    def make():
        return lambda n, v, slope, number: v - rates[f"inner/lr/{n}"] * slope

    total = 0.0
    for t in range(4):
        (xs, ys, _), (xq, yq, _) = (Batch(b.x[t], b.y[t]) for b in space["episodes"])
        fast = stepped(space["model"], start, xs, ys, make())
        total = total + loss(functional_call(space["model"], fast, (xq,)), yq) / 4
    same_gradient(space, dict(zip(both, torch.autograd.grad(total, list(both.values())), strict=True)))


def learned_rate(space):
    start, rate = start_of(space["model"]), torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    total = 0.0
    for t in range(4):
        (xs, ys, _), (xq, yq, _) = (Batch(b.x[t], b.y[t]) for b in space["episodes"])
        fast = stepped(space["model"], start, xs, ys, lambda n, v, slope, number: v - rate * slope, 5)
        total = total + loss(functional_call(space["model"], fast, (xq,)), yq) / 4
    same_gradient(space, {"inner/lr": torch.autograd.grad(total, rate)[0]})


def head_only(space):
    def make():
        return lambda n, v, slope, number: v - 0.1 * slope if n.startswith("2.") else v

    same_gradient(space, mean_gradient(space["model"], space["episodes"], start_of(space["model"]), make))


def drawn(images, labels, tasks, episodes):
    """Five classes an episode, numbered 0 to 4; one image each to adapt to, two others to be scored on."""
    assert episodes.n_tasks == 16
    where = {image.tobytes(): place for place, image in enumerate(images)}
    for task in range(16):
        numbered: dict[int, set[Any]] = {}
        seen = set()
        for batch, each in ((episodes.support, 1), (episodes.query, 2)):
            assert batch.y[task].bincount().tolist() == [each] * 5
            for image, number in zip(batch.x[task], batch.y[task].tolist(), strict=True):
                place = where[(image * 255).round().to(torch.uint8).numpy().tobytes()]
                seen.add(place)
                numbered.setdefault(number, set()).add(labels[place])
        assert len(seen) == 15, "no image is both support and query"
        assert all(len(classes) == 1 for classes in numbered.values())
        assert len(set.union(*numbered.values())) == 5
    return set(labels)


def from_arrays(space):
    drawn(space["images"].numpy(), space["labels"], space["tasks"], space["episodes"])


def from_files(space):
    drawn(space["images"].numpy(), space["labels"], space["tasks"], space["episodes"])
    train = set(space["tasks"].splits["train"])
    assert not train & set(space["tasks"].splits["test"])


def pictures(tmp_path, monkeypatch, space):
    """A folder `data` as the authors of Omniglot publish it, small; the images as they are read."""
    monkeypatch.chdir(tmp_path)
    rng, images, labels = np.random.default_rng(0), [], []
    parts = {"images_background": (("Greek", 8), ("Hebrew", 6)), "images_evaluation": (("Tibetan", 6),)}
    for part, alphabets in parts.items():
        for alphabet, characters in alphabets:
            for number in range(1, characters + 1):
                for image in range(4):
                    path = tmp_path / "data" / part / alphabet / f"character{number:02d}" / f"{image}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    ink = (rng.random((28, 28)) < 0.2).astype(np.uint8) * 255
                    Image.fromarray(255 - ink).save(path)
                    images.append(ink[None])
                    labels.append(f"{alphabet}/{number}")
    space |= {"images": torch.from_numpy(np.stack(images)), "labels": labels}


CHECKS: dict[int, tuple[str, Callable[[dict[str, Any]], None]]] = {
    0: ("learner.adapt(loss(learner(x), y))", same_predictions),
    1: (".backward()` for every task", given_gradient),
    2: ("Adam(maml.parameters(), lr=0.003)", trained),
    3: ("first_order=True", plainly(sgd(first_order=True))),
    4: ("MetaSGD(model, lr=0.1)", meta_sgd_rates),
    5: ("head = MAML(head, lr=0.1)", head_only),
    6: ("momentum=0.9", plainly(momentum, 5)),
    7: ("the same with `Adam`", plainly(adam, 5, tolerance=1e-3)),
    8: ('override={"lr": [rate]}', learned_rate),
    9: ("track_higher_grads=False", same_predictions),
    10: ("BatchNorm", plainly(sgd(), module="convolutions")),
    11: ("gradient_update_parameters", same_predictions),
    12: ("BatchMetaDataLoader", from_files),
    13: ("TaskDataset", from_arrays),
}


def test_every_row_has_its_test():
    assert len(ROWS) == len(CHECKS)
    for row, (words, _) in zip(ROWS, CHECKS.values(), strict=True):
        assert len(row) == 2
        assert words in row[0]


@pytest.mark.parametrize("number", CHECKS, ids=[words for words, _ in CHECKS.values()])
def test_the_right_column_gives_the_numbers_of_the_left(number, tmp_path, monkeypatch):
    space = prepared()
    pictures(tmp_path, monkeypatch, space)
    CHECKS[number][1](run(ROWS[number], space))
