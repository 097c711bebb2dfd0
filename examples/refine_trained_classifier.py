"""A trained image classifier is refined: data and parameters from files, accuracy in per cent before and after.

    python examples/refine_trained_classifier.py

Part one stands for the past: a net of Linear, ReLU, Linear, Sigmoid learns scikit-learn's digits and is saved. Then
the digits come from another scanner, turned by 30 degrees, and few of them are labelled. Part two is all that is
needed: load training data, test data and model parameters from files, refine, report, and save the parameters for
the program that uses the net.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy import ndimage
from sklearn.datasets import load_digits
from torch import nn

import innerloop as il

FILES = ("train_data.npz", "test_data.npz", "model_params.safetensors")


class MultiLayerPerceptron(nn.Module):
    """The net of the program that is to go on unchanged."""

    def __init__(self, input_dim, hidden_dim, output_dim):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, output_dim), nn.Sigmoid()
        )

    def forward(self, x):
        """Outputs between 0 and 1, one a class."""
        return self.layers(x)


def accuracy(model, x, y):
    """In per cent."""
    with torch.no_grad():
        return 100 * (model(x).argmax(1) == y).float().mean().item()


def past(folder, seed):
    """Train on upright digits; leave 10 turned ones of each digit, 500 to test with, and the parameters, in files."""
    torch.manual_seed(seed)
    pixels, digits = load_digits(return_X_y=True)
    x, y = (pixels / 16).astype(np.float32), digits
    draws = np.random.default_rng(seed)
    order = draws.permutation(len(y))
    old, new = order[:1000], order[1000:]
    model = MultiLayerPerceptron(64, 32, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        for rows in np.array_split(draws.permutation(old), 20):
            loss = F.cross_entropy(model(torch.tensor(x[rows])), torch.tensor(y[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    turned = np.stack(
        [ndimage.rotate(image, 30, reshape=False, order=1) for image in x.reshape(-1, 8, 8)]
    ).reshape(-1, 64)
    few = np.concatenate([new[y[new] == digit][:10] for digit in range(10)])
    rest = np.setdiff1d(new, few)[:500]
    np.savez(folder / FILES[0], x=turned[few], y=y[few])
    np.savez(folder / FILES[1], x=turned[rest], y=y[rest])
    save_file(model.state_dict(), folder / FILES[2])
    print(
        f"trained on upright digits: {accuracy(model, torch.tensor(x[new]), torch.tensor(y[new])):.1f} % of others"
    )


def present(folder, seed):
    """Refine what is in the files."""
    train, test = ([torch.tensor(np.load(folder / name)[key]) for key in "xy"] for name in FILES[:2])
    model = MultiLayerPerceptron(64, 32, 10)
    model.load_state_dict(load_file(folder / FILES[2]))

    def show(entry):
        if entry["round"] % 20 == 0:
            print(
                f"Round {entry['round']} - held-out loss: {entry['loss']:.4f}, "
                f"accuracy {100 * entry['accuracy']:.0f}%, {100 * entry['changed']:.0f}% of the parameters changed, "
                f"moved {entry['moved']:.1e}"
            )

    found = il.refine(model, tuple(train), test=tuple(test), seed=seed, device="cpu", callbacks=[show])
    print(f"Stopped: {found.stopped}")
    before, after = (100 * found.scores[when]["accuracy"] for when in ("before", "after"))
    print(f"Accuracy of the model on test set: {before:.1f}% before, {after:.1f}% after")
    save_file(found.state_dict(), folder / "refined_params.safetensors")
    model.load_state_dict(load_file(folder / "refined_params.safetensors"))
    print(f"Accuracy of the program that loads the refined parameters: {accuracy(model, *test):.1f}%")
    return before, after, accuracy(model, *test)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args(argv).seed
    with tempfile.TemporaryDirectory() as name:
        past(Path(name), seed)
        before, after, reloaded = present(Path(name), seed)
    assert after > before + 15, (before, after)
    assert abs(after - reloaded) < 0.01


if __name__ == "__main__":
    torch.set_num_threads(1)  # several threads only wait for each other on tensors this small
    main()
