import re
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import innerloop as il

pytestmark = pytest.mark.long

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def printed(name, capsys):
    with torch.random.fork_rng(devices=[]):
        run(name)["main"](["--seed", "0"])
    return capsys.readouterr().out


def percents(line):
    return [float(value) for value in re.findall(r"([\d.]+) ?%", line)]


def line_of(text, start):
    (found,) = [line for line in text.splitlines() if line.strip().startswith(start)]
    return found.strip().removeprefix(start)


def test_table_tutorial(capsys):
    text = printed("tutorial_table", capsys)
    rounds = re.findall(r"^round (\d+) done, (query loss|loss) ([\d.]+)$", text, re.MULTILINE)
    assert [int(number) for number, _, _ in rounds] == [*range(1, 11)] * 3
    assert [kind for _, kind, _ in rounds] == ["query loss"] * 20 + ["loss"] * 10
    for part in range(3):
        assert float(rounds[10 * part + 9][2]) < float(rounds[10 * part][2])
    predicted = re.findall(r"^test row \d+((?: +[01]){4})$", text, re.MULTILINE)
    assert len(predicted) == 8
    scores = percents(line_of(text, "test accuracy"))
    assert len(scores) == 3
    assert min(scores) > 80
    assert printed("tutorial_table", capsys) == text


def test_images_tutorial(capsys):
    text = printed("tutorial_images", capsys)
    epochs = re.findall(r"^Epoch (\d) - Loss: (\d\.\d{4})$", text, re.MULTILINE)
    losses = [float(loss) for _, loss in epochs]
    assert [number for number, _ in epochs] == list("12345")
    assert losses == sorted(losses, reverse=True)
    (accuracy,) = percents(line_of(text, "Accuracy of the model on test set:"))
    assert accuracy > 85
    assert percents(line_of(text, "plain")) == [accuracy]
    for share in ("10%", "20%", "50%"):
        assert percents(line_of(text, f"dropout {share}"))[0] > 80
    before, after = percents(line_of(text, "meta-trained net"))
    _, untrained = percents(line_of(text, "untrained net"))
    assert before < 45
    assert after > max(70, untrained)
    assert percents(line_of(text, "nearest mean image"))[0] > 80


def test_parts_of_the_images_tutorial_are_equal_for_equal_seeds():
    train = run("tutorial_images")["train"]
    data = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    loader = torch.utils.data.DataLoader(list(zip(data, range(10, 74), strict=True)), batch_size=16)
    loader = [(x, y % 10) for x, y in loader]

    def weights():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return torch.cat(
                [p.detach().flatten() for p in train(loader, dropout=0.2, turn=True).parameters()]
            )

    assert torch.equal(weights(), weights())


class Recorder:
    """A source that keeps the episodes it gave."""

    def __init__(self, source):
        self.source, self.seen = source, []

    def sample(self, count, generator):
        self.seen.append(self.source.sample(count, generator))
        return self.seen[-1]


@pytest.mark.parametrize("split", ["none", "half"])
def test_library_does_what_the_tutorial_wrote_by_hand(split):
    """The tutorial's inner and outer loop, written out, reach the same weights from the same batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = run("tutorial_table")["SimpleNet"]().double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 10, dtype=torch.float64, generator=generator)
    source = Recorder(il.tasks.single((x, (x[:, 0] > 0).long()), split=split, batch_size=16).train)
    learner = il.maml(net, loss="cross_entropy", inner_lr=0.01, inner_steps=5)
    found = il.meta_train(
        learner,
        source,
        steps=20,
        meta_batch_size=1,
        meta_lr=0.001,
        schedule="constant",
        clip=None,
        device="cpu",
    ).model.meta

    def forward(x, weights):
        hidden = F.relu(F.linear(x, weights[0], weights[1]))
        return F.relu(F.linear(hidden, weights[2], weights[3]))

    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    for support, query in source.seen:
        fast = list(net.parameters())
        for _ in range(5):
            loss = F.cross_entropy(forward(support.x[0], fast), support.y[0])
            grads = torch.autograd.grad(loss, fast, create_graph=True)
            fast = [w - 0.01 * g for w, g in zip(fast, grads, strict=True)]
        loss = F.cross_entropy(forward(query.x[0], fast), query.y[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in net.named_parameters():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-9, atol=1e-12)


def test_refining_a_trained_classifier(capsys):
    text = printed("refine_trained_classifier", capsys)
    rounds = re.findall(r"^Round (\d+) - held-out loss: ([\d.]+), accuracy", text, re.MULTILINE)
    assert [int(number) for number, _ in rounds] == [20, 40, 60, 80, 100][: len(rounds)]
    losses = [float(loss) for _, loss in rounds]
    assert losses[-1] < losses[0]
    before, after = percents(line_of(text, "Accuracy of the model on test set:"))
    assert after > before + 15
    assert percents(line_of(text, "Accuracy of the program that loads")) == [after]
