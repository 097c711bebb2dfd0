"""A meta-learning tutorial's program on a real table, beside its sound version and ordinary training.

    python examples/tutorial_table.py

The tutorial has a net of 10-16-2 units, 5 inner steps at 0.01, an outer Adam at 0.001, and 10 rounds over the
loader of one single data set, each mini-batch a task. The table is scikit-learn's breast cancer data: ten
mean measurements of each tumour, malignant (0) or benign (1).
"""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import innerloop as il

ROUNDS = 10
CLOSING = """
All learned from the same {rows} rows and are scored on the same {others} others, where always saying benign
is right in {benign:.1f} %. One data set is one task, with nothing to learn across tasks: meta-learning is not
expected to beat ordinary training here, and a difference of a point or two is chance."""


class SimpleNet(nn.Module):
    """The tutorial's net, without its functional twin of `forward`: innerloop takes any module as it is."""

    def __init__(self, in_features=10, hidden_features=16, out_features=2):
        super().__init__()
        # So small a start leaves the logits near 0 for the first rounds.
        self.w1 = nn.Parameter(torch.randn(hidden_features, in_features) * 0.01)
        self.b1 = nn.Parameter(torch.zeros(hidden_features))
        self.w2 = nn.Parameter(torch.randn(out_features, hidden_features) * 0.01)
        self.b2 = nn.Parameter(torch.zeros(out_features))

    def forward(self, x):  # noqa: D102
        hidden = F.relu(F.linear(x, self.w1, self.b1))
        # ReLU on logits: one that falls below 0 in every row learns nothing any more. Try --seed 9.
        return F.relu(F.linear(hidden, self.w2, self.b2))


def table(seed):
    """Features and classes of the rows to train on and of the test rows, scaled by the former."""
    x, y = load_breast_cancer(return_X_y=True)
    parts = train_test_split(x[:, :10], y, test_size=0.3, stratify=y, random_state=seed)
    scaler = StandardScaler().fit(parts[0])
    x_train, x_test = (torch.tensor(scaler.transform(part), dtype=torch.float32) for part in parts[:2])
    return x_train, torch.tensor(parts[2]), x_test, torch.tensor(parts[3])


def meta_train(net, loader, held_out, *, split, seed):
    """Ten rounds of MAML over the loader's data set, with a line after each; return the model."""
    # All rows of the loader are for training: rows of the other splits are given, not taken from it.
    tasks = il.tasks.single(loader, split=split, valid=held_out, test=held_out)
    batches, losses = tasks.train.n_tasks, []

    def report(entry):
        losses.append(entry["loss"])
        if entry["step"] % batches == 0:
            print(f"round {entry['step'] // batches} done, query loss {sum(losses[-batches:]) / batches:.3f}")

    learner = il.maml(net, loss="cross_entropy", inner_lr=0.01, inner_steps=5)
    run = il.meta_train(
        learner, tasks.train, steps=ROUNDS * batches, meta_batch_size=1, meta_lr=0.001, schedule="constant",
        clip=None, seed=seed, device="cpu", callbacks=[report],
    )  # fmt: skip
    assert sum(losses[-batches:]) < sum(losses[:batches]), "the query loss did not fall"
    return run.model


def train(net, loader):
    """As many rounds of ordinary training."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    for number in range(ROUNDS):
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"round {number + 1} done, loss {total / len(loader):.3f}")
    return net


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args(argv).seed
    torch.manual_seed(seed)
    x, y, x_test, y_test = table(seed)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True, drop_last=True)

    print("(a) the tutorial to the letter")  # the same rows adapt and score; predicts without adapting
    letter = meta_train(SimpleNet(), loader, (x_test, y_test), split="none", seed=seed).base()
    # One half of a batch adapts the net, the other scores it; 16 labelled rows adapt it before it predicts.
    print("\n(b) the sound version")
    net = il.models.mlp(10, [16], 2, activation="relu")
    sound = meta_train(net, loader, (x_test, y_test), split="half", seed=seed).adapt(x[:16], y[:16])

    print("\n(c) ordinary training of the net of (b)")
    ordinary = train(net, loader)  # `meta_train` left `net` as it was

    found = [model(x_test).argmax(1) for model in (letter, sound, ordinary)]
    scores = [100 * (classes == y_test).float().mean().item() for classes in found]
    print(f"\n{'':15}  (a) tutorial     (b) sound  (c) ordinary         truth")
    for row in range(8):
        print(f"test row {row + 1:<6}" + "".join(f"{int(classes[row]):14}" for classes in (*found, y_test)))
    print(f"{'test accuracy':15}" + "".join(f"{score:12.1f} %" for score in scores))
    print(CLOSING.format(rows=len(x), others=len(x_test), benign=100 * y_test.float().mean()))
    assert min(scores[1:]) > 80, scores  # (a) has seeds with a dead output, and then no floor


if __name__ == "__main__":
    torch.set_num_threads(1)  # several threads only wait for each other on tensors this small
    main()
