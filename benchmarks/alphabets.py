"""How hard the invented alphabets are, how long they take to draw, and what a network learns from them.

    python benchmarks/alphabets.py                          # nearest neighbours and drawing time
    python benchmarks/alphabets.py --train 60               # and a prototypical network on held-out alphabets
    python benchmarks/alphabets.py --train 60 --omniglot omniglot28_train_val.npz   # and on real characters

The file of `--omniglot` has `images` (28 x 28 bits, packed along the last axis, 20 to a character) and
`split` (1 for the characters to test on). Prototypical networks: Snell, Swersky and Zemel, "Prototypical
Networks for Few-shot Learning", 2017, https://arxiv.org/abs/1703.05175.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from innerloop.tasks.datasets.alphabets import draw_alphabets

QUERIES = 5
TRAIN_ALPHABETS = 20


def episode(images, way, shot, rng):
    """Support `(way, shot, 28, 28)` and query `(way, QUERIES, 28, 28)` of one random task."""
    classes = rng.choice(len(images), way, replace=False)
    order = np.stack([rng.permutation(images.shape[1])[: shot + QUERIES] for _ in classes])
    pictures = torch.as_tensor(images[classes[:, None], order]).float()
    return pictures[:, :shot], pictures[:, shot:]


def nearest(images, way, shot, episodes=1000):
    """Accuracy in per cent of the nearest neighbour by the cosine between pixels."""
    rng, hits = np.random.default_rng(0), []
    for _ in range(episodes):
        support, query = (
            F.normalize(part.flatten(2), dim=-1).flatten(0, 1) for part in episode(images, way, shot, rng)
        )
        found = (query @ support.T).argmax(1) // shot
        hits.append((found == torch.arange(way).repeat_interleave(QUERIES)).float().mean().item())
    return 100 * np.mean(hits)


def embedding(width):
    """Four blocks of convolution, batch normalisation, ReLU and pooling."""
    blocks, channels = [], 1
    for _ in range(4):
        blocks += [
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels = width
    return nn.Sequential(*blocks, nn.Flatten())


def scores(network, support, query):
    """Negative squared distance of each query picture to the mean embedding of each class."""
    way, shot = support.shape[:2]
    z = network(torch.cat([support.flatten(0, 1), query.flatten(0, 1)]).unsqueeze(1))
    return -(torch.cdist(z[way * shot :], z[: way * shot].unflatten(0, (way, shot)).mean(1)) ** 2)


def train(images, seconds, *, width=32, way=20, rate=3e-3):
    """Train on 1-shot tasks for so many seconds of processor time."""
    torch.manual_seed(0)
    rng, network = np.random.default_rng(0), embedding(width)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    target, start = torch.arange(way).repeat_interleave(QUERIES), time.process_time()
    while (spent := (time.process_time() - start) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = rate * (1 - spent)
        loss = F.cross_entropy(scores(network, *episode(images, way, 1, rng)) / 8, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def accuracy(network, images, way, episodes=400):
    """1-shot accuracy in per cent."""
    rng, target = np.random.default_rng(1), torch.arange(way).repeat_interleave(QUERIES)
    hits = [scores(network, *episode(images, way, 1, rng)).argmax(1) == target for _ in range(episodes)]
    return 100 * torch.cat(hits).float().mean().item()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the alphabets")
    parser.add_argument(
        "--train", type=float, default=0, metavar="SECONDS", help="train a prototypical network"
    )
    parser.add_argument("--omniglot", metavar="PATH", help="test on real characters too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for counts in ((10, 24, 20), (28, 24, 20)):
        start = time.perf_counter()
        drawn = draw_alphabets(*counts, seed=arguments.seed)
        print(f"drawing {' x '.join(map(str, counts))}: {time.perf_counter() - start:.1f} s")
    tests = {"drawn alphabets": drawn.images}
    if arguments.omniglot:
        with np.load(arguments.omniglot) as file:
            pictures = np.unpackbits(file["images"], axis=-1)[..., : 28 * 28].reshape(-1, 20, 28, 28)
            tests["Omniglot"] = pictures[file["split"] == 1]
    for name, images in tests.items():
        figures = [
            f"{w}-way {s}-shot {nearest(images, w, s):.1f}" for w, s in ((5, 1), (5, 5), (20, 1), (20, 5))
        ]
        print(f"nearest neighbour, {name}:", ", ".join(figures))
    if arguments.train:
        network = train(drawn.images[drawn.alphabet < TRAIN_ALPHABETS], arguments.train)
        tests["drawn alphabets"] = drawn.images[drawn.alphabet >= TRAIN_ALPHABETS]
        for name, images in tests.items():
            figures = [f"{way}-way 1-shot {accuracy(network, images, way):.1f}" for way in (5, 20)]
            print(f"prototypical network, held-out {name}:", ", ".join(figures))


if __name__ == "__main__":
    main()
