"""MAML, Meta-SGD, ANIL and iMAML in plain numpy: gradients by hand, their derivatives by the complex step.

No part of the library and no automatic differentiation. The net is `W2 tanh(W1 x + b1) + b2` with the mean squared
error. A complex step of 1e-30 has neither a truncation nor a rounding error, so the derivatives are exact to the
last digits (Squire & Trapp, 1998, *Using Complex Variables to Estimate Derivatives of Real Functions*).
"""

import numpy as np

NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")
STEP = 1e-30


def gradient(w, x, y):
    """Gradient of the mean squared error of one task, by hand."""
    hidden = np.tanh(x @ w["0.weight"].T + w["0.bias"])
    error = 2 * (hidden @ w["2.weight"].T + w["2.bias"] - y) / y.size
    back = (error @ w["2.weight"]) * (1 - hidden**2)
    return {
        "0.weight": back.T @ x,
        "0.bias": back.sum(0),
        "2.weight": error.T @ hidden,
        "2.bias": error.sum(0),
    }


def loss(w, x, y):
    """Mean squared error of one task."""
    hidden = np.tanh(x @ w["0.weight"].T + w["0.bias"])
    return ((hidden @ w["2.weight"].T + w["2.bias"] - y) ** 2).sum() / y.size


def adapted(meta, x, y, *, steps, lr, fast=NAMES, strength=0.0):
    """Gradient steps; `lr` is a number or `None` for the rates `inner/lr/...`; with a pull to the start."""
    w = {name: meta[name] for name in NAMES}
    for _ in range(steps):
        slope = gradient(w, x, y)
        for name in fast:
            rate = meta[f"inner/lr/{name}"] if lr is None else lr
            w[name] = w[name] - rate * (slope[name] + strength * (w[name] - meta[name]))
    return w


def derivative(function, meta):
    """Gradient of a real function of all entries, by the complex step."""
    found = {name: np.zeros(value.shape) for name, value in meta.items()}
    for name, value in meta.items():
        for place in np.ndindex(value.shape):
            moved = value.astype(complex)
            moved[place] += 1j * STEP
            found[name][place] = function({**meta, name: moved}).imag / STEP
    return found


def maml(meta, tasks, **options):
    """Gradient of the mean query loss after adaptation, through the steps."""

    def mean(meta):
        return sum(loss(adapted(meta, *support, **options), *query) for support, query in tasks) / len(tasks)

    return derivative(mean, meta)


def imaml(meta, tasks, *, strength, **options):
    """`(I + H / strength)^-1 g` at the end of the proximal inner steps, the system solved directly."""
    total = 0.0
    for support, query in tasks:
        w = adapted(meta, *support, strength=strength, **options)

        def slope(flat, w=w, support=support):
            return pack(gradient(unpack(flat, w), *support))

        flat = pack(w)
        columns = [slope(flat + 1j * STEP * unit).imag / STEP for unit in np.eye(len(flat))]
        hessian = np.stack(columns, 1)
        total = total + np.linalg.solve(np.eye(len(flat)) + hessian / strength, pack(gradient(w, *query)))
    return unpack(total / len(tasks), meta)


def pack(w):
    """All weights as one vector."""
    return np.concatenate([w[name].ravel() for name in NAMES])


def unpack(flat, like):
    """The vector as weights in the shapes of `like`."""
    sizes = np.cumsum([like[name].size for name in NAMES])[:-1]
    return {n: part.reshape(like[n].shape) for n, part in zip(NAMES, np.split(flat, sizes), strict=True)}
