"""A tutorial's image classifier on scikit-learn's digits: trained in the ordinary way, then by meta-learning.

    python examples/tutorial_images.py

The tutorial's net is Linear, ReLU, Linear, Sigmoid. Its rivals of meta-learning, dropout and images turned by
90 degrees, come first; then new digits are told apart from 5 images each, of 8 x 8 pixels.
"""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

import innerloop as il
from innerloop.tasks.sources import EVALUATION_SEED

EPOCHS, HIDDEN, WAY, SHOT = 5, 32, 3, 5
CLOSING = """
The first table has many images of every digit to learn from, the second 5 of each new one: compare within a
table. Test digits stand upright, so turning costs accuracy. Four digits are few to learn across tasks from:
over seeds 0 to 7 the untrained net came to 80 % on average, the meta-trained one to 84 % (less with seed 4).
A nearest mean, which learns nothing across tasks, did better each time."""


def train(loader, *, dropout=0.0, turn=False, show=False):
    """The tutorial's training of its net, and its line an epoch."""
    # Sigmoid outputs as logits lie between 0 and 1, so this loss cannot fall below ln(1 + 9/e) = 1.46.
    net = il.models.mlp(64, [HIDDEN], 10, activation="relu", output="sigmoid", dropout=dropout)
    optimizer, epoch_losses = torch.optim.Adam(net.parameters(), lr=0.01), []
    for epoch in range(EPOCHS):
        losses = []
        for x, y in loader:
            if turn:
                quarter = int(torch.randint(4, ()))
                x = x.reshape(-1, 8, 8).rot90(quarter, (1, 2)).flatten(1)  # noqa: PLW2901
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        epoch_losses.append(sum(losses) / len(losses))  # the tutorial shows the last batch, mostly noise
        if show:
            print(f"Epoch {epoch + 1} - Loss: {epoch_losses[-1]:.4f}")
    assert epoch_losses[-1] < epoch_losses[0], f"the loss did not fall: {epoch_losses}"
    return net.eval()  # without this, dropout would go on at prediction


def ordinary(x, y, seed):
    """Accuracies in per cent of ordinary training on all ten digits, by its name."""
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.3, stratify=y, random_state=seed)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)

    def accuracy(net):  # the tutorial adds the true classes to the outputs before it decides
        return 100 * (net(x_test).argmax(1) == y_test).float().mean().item()

    scores = {"plain": accuracy(train(loader, show=True))}
    print(f"Accuracy of the model on test set: {scores['plain']:.1f}%")
    for share in (0.1, 0.2, 0.5):
        scores[f"dropout {share:.0%}"] = accuracy(train(loader, dropout=share))
    scores["turned by 90 degrees"] = accuracy(train(loader, turn=True))
    return scores


def nearest_mean(source):
    """Accuracy in per cent of the nearest mean of the support images, on the episodes of `il.evaluate`."""
    right = []
    for _, (support, query) in source.fixed(EVALUATION_SEED):
        weights = F.one_hot(support.y, WAY).float() / SHOT
        right.append(torch.cdist(query.x, weights.mT @ support.x).argmin(-1) == query.y)
    return 100 * torch.cat(right).float().mean().item()


def meta(x, y, seed):
    """Accuracies in per cent before and after adaptation to the digits 7, 8, 9, which training never saw."""
    split = {"train": [0, 1, 2, 3], "valid": [4, 5, 6], "test": [7, 8, 9]}
    tasks = il.tasks.classes(x, y, n_way=WAY, n_shot=SHOT, split=split)
    net = il.models.mlp(64, [HIDDEN], WAY, activation="relu", output="sigmoid")

    def score(model, source):
        found = il.evaluate(model, source)
        return tuple(100 * found.metric("accuracy", step)[0] for step in (0, -1))

    # An untrained net adapts too. It is given the inner rate that suits it on the validation digits.
    learners = [il.maml(net, loss="cross_entropy", inner_lr=rate) for rate in (1.0, 2.0, 4.0)]
    learner = max(learners, key=lambda one: score(il.Model(one, one.init()), tasks.valid)[1])
    size = {"steps": 100, "meta_batch_size": 8, "validate_every": 25}
    run = il.meta_train(learner, tasks.train, valid=tasks.valid, **size, seed=seed, device="cpu")
    print(f"\nMeta-training: best step {run.best_step}, inner rate {learner.recipe['settings']['inner_lr']}")
    fresh, trained = (score(model, tasks.test) for model in (il.Model(learner, learner.init()), run.model))
    return {"untrained net": fresh, "meta-trained net": trained}, nearest_mean(tasks.test)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args(argv).seed
    torch.manual_seed(seed)
    pixels, digits = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(digits)
    trained = ordinary(x, y, seed)
    adapted, nearest = meta(x, y, seed)
    print(f"\n{'all ten digits, many images of each':40}test accuracy")
    for name, score in trained.items():
        print(f"  {name:38}{score:11.1f} %")
    print(f"\n{'digits 7, 8, 9, new, 5 images of each':40}before adapting   after")
    for name, (before, after) in adapted.items():
        print(f"  {name:38}{before:13.1f} %{after:6.1f} %")
    print(f"  {'nearest mean image':38}{'':15}{nearest:6.1f} %")
    print(CLOSING)
    before, after = adapted["meta-trained net"]
    assert min(trained.values()) > 50, trained
    assert before < 50 < after, adapted  # 33.3 % is chance


if __name__ == "__main__":
    torch.set_num_threads(1)  # several threads only wait for each other on tensors this small
    main()
