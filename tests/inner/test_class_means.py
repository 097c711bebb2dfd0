"""Class means by cosine against NumPy, and their temperature against a search of its own."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

import innerloop as il
from innerloop.algorithms import class_means
from innerloop.errors import UsageError
from innerloop.inner import Model
from innerloop.inner.heads import ClassMeansHead
from innerloop.inner.heads.temperature import class_episodes, log_temperature
from innerloop.tasks import classes
from innerloop.tasks.episodes import Batch


def test_logits_are_ten_times_the_cosine_of_the_angle_to_the_mean():
    rng = np.random.default_rng(0)
    x, query, y = rng.normal(size=(7, 4)), rng.normal(size=(5, 4)), np.array([0, 0, 1, 2, 2, 2, 1])
    learner = class_means(4, 3)
    meta = {name: value.double() for name, value in learner.init().items()}
    found = Model(learner, meta).adapt(torch.from_numpy(x), torch.from_numpy(y))(torch.from_numpy(query))
    means = np.stack([x[y == number].mean(0) for number in range(3)])
    cosine = query @ means.T / np.linalg.norm(query, axis=1)[:, None] / np.linalg.norm(means, axis=1)
    np.testing.assert_allclose(found.numpy(), 10 * cosine, rtol=1e-6)


def test_the_length_of_a_row_says_nothing_and_a_row_of_zeros_is_of_every_class():
    head = ClassMeansHead(2, 2)
    support = Batch(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[0, 1]]))
    own = head.solve(head.init(), support.x, support)
    rows = torch.tensor([[[1.0, 2.0], [100.0, 200.0], [0.0, 0.0]]])
    one, other, zero = head.predict(head.init(), own, rows)[0]
    torch.testing.assert_close(one, other)
    assert zero.tolist() == [0.0, 0.0]


def test_the_temperature_is_that_of_another_search():
    rng = np.random.default_rng(1)
    found = [(torch.from_numpy(rng.normal(size=(6, 3)) + np.eye(3)[rng.integers(3, size=6)]),
              torch.from_numpy(rng.integers(3, size=6))) for _ in range(9)]  # fmt: skip
    found = [(logits + 2 * torch.eye(3)[labels], labels) for logits, labels in found]

    def loss(value):
        return sum(
            -log_softmax(logits.numpy() * np.exp(-value), axis=1)[np.arange(6), labels.numpy()].mean()
            for logits, labels in found
        )

    expected = minimize_scalar(loss, bounds=(-4, 8), method="bounded", options={"xatol": 1e-9}).x
    assert log_temperature(found).item() == pytest.approx(expected, abs=1e-4)


def test_an_episode_has_other_rows_as_support_than_as_query():
    of_row = torch.tensor([0] * 9 + [1] * 3 + [2])
    for episode in class_episodes(of_row, 5, count=30, generator=torch.Generator().manual_seed(0)):
        every = torch.cat([*episode.support, episode.query]).tolist()
        assert len(set(every)) == len(every)
        assert of_row[torch.cat(episode.support)].unique().tolist() == [0, 1]
        assert [of_row[rows].unique().item() for rows in episode.support] == [
            of_row[episode.query[episode.labels == number]].unique().item() for number in range(2)
        ]


def test_the_fit_makes_probabilities_more_honest_and_changes_no_answer():
    rng = np.random.default_rng(2)
    label = np.repeat(np.arange(60), 12)
    x = (rng.normal(size=(60, 200))[label] + 2 * rng.normal(size=(720, 200))) * 37
    tasks = classes(x, label, n_way=5, n_query=5)
    run = il.meta_train(class_means(200, 5), tasks.train, device="cpu")
    scores = il.evaluate(run.model, tasks.test)
    before = il.evaluate(Model(class_means(200, 5), class_means(200, 5).init()), tasks.test)
    for name in ("loss", "calibration_error"):
        assert scores.metric(name)[0] < before.metric(name)[0] - 0.02
    assert scores.metric("accuracy")[0] == before.metric("accuracy")[0]


def test_single_rows_leave_the_temperature_as_it_is_and_numbers_are_refused():
    learner = class_means(2, 2)
    rows = Batch(torch.rand(1, 4, 2), torch.arange(4)[None])
    assert learner.fit(learner.init(), rows)["head/log_temperature"] == learner.init()["head/log_temperature"]
    with pytest.raises(UsageError, match="regression"):
        class_means(2, 1, kind="regression")
