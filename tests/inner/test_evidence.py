"""The likelihood of the Gaussian head in both forms, and the prior for more columns than rows, against scipy."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import innerloop as il
from innerloop.inner.heads import GaussianHead
from innerloop.inner.heads.evidence import MANY, Moments, Rows, pooled, shrunken
from innerloop.tasks.episodes import Batch
from toolkit.oracles import within


def rows_of(tasks, rows, columns, *, outputs=1, spread=0.3, seed=0):
    """Tasks whose first slope differs, the last one with padding; and their design with a constant."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tasks, rows, columns, generator=generator, dtype=torch.float64)
    slope = 1 + spread * torch.randn(tasks, 1, outputs, generator=generator, dtype=torch.float64)
    noise = 0.2 * torch.randn(tasks, rows, outputs, generator=generator, dtype=torch.float64)
    weight = torch.ones(tasks, rows, dtype=torch.float64)
    weight[-1, -1] = 0
    return torch.cat([x, torch.ones(tasks, rows, 1, dtype=torch.float64)], -1), Batch(
        x, x[..., :1] * slope + noise, weight
    )


@pytest.mark.parametrize("diagonal", [False, True])
def test_both_forms_of_the_likelihood_are_that_of_scipy(diagonal):
    design, rows = rows_of(3, 4, 5, outputs=2)
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64).tril()
    root = root.diagonal().exp() if diagonal else root + 2 * torch.eye(6, dtype=torch.float64)
    noise = torch.tensor([0.1, -0.3], dtype=torch.float64)
    matrix = (torch.diag(root) if diagonal else root).numpy()
    expected = 0.0
    for task in range(3):
        real = rows.weight[task] > 0
        phi, y = design[task][real].numpy(), rows.y[task][real].numpy()
        for output in range(2):
            scale = np.exp(2 * noise[output].item())
            covariance = scale * (np.eye(len(phi)) + phi @ matrix @ matrix.T @ phi.T)
            expected -= multivariate_normal(phi @ mean[:, output].numpy(), covariance).logpdf(y[:, output])
    for form in (Moments, Rows):
        profile = form.of(design, rows, torch.arange(6)).profile(root)
        found = profile.negative_log_density(mean, (2 * noise).exp()).item()
        within(abs(found - expected), 1e-9 * abs(expected))
    least = torch.linalg.lstsq(design[rows.weight > 0], rows.y[rows.weight > 0]).solution
    within((pooled(design, rows)[0] - least).abs().max(), 1e-9)


def test_the_drawn_mean_and_the_three_numbers_are_those_of_a_gaussian_process():
    design, rows = rows_of(12, 6, 40)
    params = shrunken(design, rows)
    real = rows.weight > 0
    phi, y = design[real].numpy(), rows.y[real].numpy()[:, 0]
    task = np.repeat(np.arange(12), 6)[real.flatten().numpy()]
    logs = params["head/root"].diagonal().numpy()
    assert len({*logs[:-1].tolist()}) == 1  # every slope varies alike

    def covariance(tau, s, c):
        between = np.exp(2 * np.array([s] * 40 + [c]))
        inside = (phi * between) @ phi.T * (task[:, None] == task)
        return np.eye(len(phi)) + np.exp(2 * tau) * phi @ phi.T + inside

    def density(tau, s, c, noise):
        return multivariate_normal(np.zeros(len(y)), noise * covariance(tau, s, c)).logpdf(y)

    noise, mean = np.exp(2 * params["head/log_noise"].item()), params["head/mean"].numpy()[:, 0]
    # tau is not returned: the mean tells it
    taus = np.linspace(-5, 1, 2401)
    solved = [np.linalg.solve(covariance(tau, logs[0], logs[-1]), y) for tau in taus]
    off = [np.abs(np.exp(2 * tau) * phi.T @ one - mean).max() for tau, one in zip(taus, solved, strict=True)]
    tau = taus[int(np.argmin(off))]
    within(min(off), 1e-3)
    within(abs(y @ solved[int(np.argmin(off))] / len(y) / noise - 1), 0.01)
    best = density(tau, logs[0], logs[-1], noise)
    for move in np.concatenate([np.eye(4), -np.eye(4)]) * 0.2:
        moved = density(tau + move[0], logs[0] + move[1], logs[-1] + move[2], noise * np.exp(move[3]))
        # at a bound of the search (no variation at all) it is flat
        assert moved < best + 1e-3


def test_more_columns_than_rows_still_predict_new_tasks():
    columns = 300
    design, rows = rows_of(30, 8, columns)
    learner = il.mixed(columns)
    meta = learner.fit(learner.init(), Batch(design[..., :-1].float(), rows.y.float(), rows.weight.float()))
    model = il.Model(learner, meta)
    _, new = rows_of(40, 12, columns, seed=5)
    error, start = 0.0, 0.0
    for x, y in zip(new.x.float(), new.y.float(), strict=True):
        error += float((model.adapt(x[:8], y[:8])(x[8:]) - y[8:]).square().mean())
        start += float(y[8:].square().mean())
    assert error < 0.75 * start


def test_wide_tables_are_fitted_in_the_form_that_is_cheap_and_narrow_ones_as_ever(monkeypatch):
    chosen = []
    monkeypatch.setattr(
        "innerloop.inner.heads.evidence.Evidence.steps", 3
    )  # the form is looked at, not the maximum
    for form in (Moments, Rows):
        of = form.of
        monkeypatch.setattr(form, "of", lambda *a, of=of, form=form: chosen.append(form) or of(*a))
    for tasks, rows, columns, form in [
        (20, 4, 10, Moments),
        (40, 10, 70, Rows),
        (10, 100, 70, Moments),
        (10, 5, 70, None),
    ]:
        design, data = rows_of(tasks, rows, columns)
        chosen.clear()
        head = GaussianHead(columns, 1, "diagonal")
        fitted = head.fit(head.init(), design[..., :-1], data)
        assert chosen == ([] if form is None else [form])
        assert all(value.isfinite().all() for value in fitted.values())


def test_the_work_of_a_search_is_bounded():
    narrow = Moments.of(*rows_of(50, 4, 20), torch.arange(21))
    assert narrow.steps == 300
    generous = Rows.of(*rows_of(5, 4, MANY + 1), torch.arange(MANY + 2))
    assert generous.steps == 300
    wide = Moments.of(*rows_of(40, 2, 399), torch.arange(400))
    assert 20 <= wide.steps < 300
    assert wide.steps == 20 or wide.steps * wide.cost <= 1e11
