"""Image data sets read from the folders that people already have; nothing is downloaded or unpickled.

A set is looked for in the folder given, else in the one that the variable INNERLOOP_DATA names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import DataError
from ..images import SUFFIXES, read_images
from ..n_way import classes
from ..splits import SPLITS, Split, Tasks
from ..tables.reading import read_table

# Vinyals et al., 2016, "Matching Networks for One Shot Learning", as torchmeta has it
# (github.com/tristandeleu/pytorch-meta, torchmeta/datasets/assets/omniglot): 1,028, 172 and 423 characters.
# Validation and test are the alphabets named here and the last characters of Gurmukhi; the rest is for training.
OMNIGLOT_VALID = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
OMNIGLOT_TEST = (
    "Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya",
    "Sylheti", "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG",
)  # fmt: skip
OMNIGLOT_TEST_CHARACTERS = tuple(f"Gurmukhi/character{number}" for number in range(42, 46))


class Pictures(NamedTuple):
    """Files, the class of each, and the classes of each split."""

    paths: list[Path]
    labels: list[str]
    split: dict[str, list[str]]


class ImageSet(NamedTuple):
    """Where an image set may lie.

    Arguments:
        folders: names of its folder, below the data folder.
        where: where it is found, for people.
        also: what other libraries keep it as, which is not read.
    """

    folders: tuple[str, ...]
    where: str
    also: tuple[str, ...]


IMAGE_SETS = {
    "omniglot": ImageSet(
        (".", "omniglot-py", "omniglot", "omniglot/python", "omniglot/omniglot-py"),
        "unpack images_background.zip and images_evaluation.zip of github.com/brendenlake/omniglot (folder "
        "python) into omniglot-py",
        ("data.hdf5",),
    ),
    "cifar_fs": ImageSet(
        (".", "cifarfs/processed", "cifarfs/cifar100", "cifarfs", "cifar-fs", "cifar_fs", "cifar100"),
        "unpack CIFAR-FS of github.com/bertinetto/r2d2, which has data/CLASS/IMAGE and splits/bertinetto, into "
        "cifarfs/cifar100",
        ("cifar-100-python", "data.hdf5"),
    ),
    "mini_imagenet": ImageSet(
        (".", "miniimagenet", "mini-imagenet", "mini_imagenet", "miniImagenet", "miniImageNet"),
        "make the folders train, val and test with CLASS/IMAGE, or images and the files train.csv, val.csv and "
        "test.csv of github.com/twitter-research/meta-learning-lstm, in mini-imagenet",
        ("mini-imagenet-cache-train.pkl", "train_data.hdf5"),
    ),
}


def omniglot(
    *,
    n_way: int = 5,
    n_shot: int | str = 1,
    n_query: int = 15,
    split: Split | None = None,
    seed: int = 0,
    data: str | None = None,
    image_size: int = 28,
) -> Tasks:
    """Handwritten characters of 50 alphabets, 20 drawings each (Lake et al., 2015), in Vinyals' split.

    Arguments:
        n_way: characters an episode.
        n_shot: support drawings a character, a number or a range.
        n_query: query drawings a character.
        split: shares, names (`Greek/character01`) or a fold of the characters; Vinyals' split unless given.
        seed: of a split by shares.
        data: folder that holds `images_background` and `images_evaluation`, or a folder above them.
        image_size: side in pixels.

    Returns:
        The tasks; `x` is `(n, 1, side, side)`, ink is 1.

    Raises:
        DataError: the set is not there.

    Example:
        >>> omniglot(n_way=20)  # doctest: +SKIP
        Tasks(omniglot: 1623 classes = 1028 train + 172 valid + 423 test, x 1x28x28, classification, n_shot=1)
    """
    root = _found("omniglot", data)
    paths = sorted(path for part in root.glob("images_*") for path in part.glob("*/*/*") if _is_image(path))
    labels = [f"{path.parts[-3]}/{path.parts[-2]}" for path in paths]
    found = Pictures(paths, labels, _vinyals(sorted(set(labels))))
    return _tasks("omniglot", found, split, image_size, n_way, n_shot, n_query, seed, inverted=True)


def cifar_fs(
    *,
    n_way: int = 5,
    n_shot: int | str = 1,
    n_query: int = 15,
    split: Split | None = None,
    seed: int = 0,
    data: str | None = None,
    image_size: int = 32,
) -> Tasks:
    """The 100 classes of CIFAR-100 in 64 + 16 + 20 (Bertinetto et al., 2019), the split of the folder.

    Arguments, besides those that `omniglot` explains:
        data: folder with `data/CLASS/IMAGE` and `splits/bertinetto`, or with `train`, `val` and `test`, or
            a folder above it.

    Returns:
        The tasks; `x` is `(n, 3, side, side)`.

    Raises:
        DataError: the set is not there.

    Example:
        >>> cifar_fs()  # doctest: +SKIP
        Tasks(cifar_fs: 100 classes = 64 train + 16 valid + 20 test, x 3x32x32, classification, n_shot=1)
    """
    found = _pictures("cifar_fs", _found("cifar_fs", data))
    return _tasks("cifar_fs", found, split, image_size, n_way, n_shot, n_query, seed)


def mini_imagenet(
    *,
    n_way: int = 5,
    n_shot: int | str = 1,
    n_query: int = 15,
    split: Split | None = None,
    seed: int = 0,
    data: str | None = None,
    image_size: int = 84,
) -> Tasks:
    """100 classes of ImageNet with 600 images each in 64 + 16 + 20 (Ravi & Larochelle, 2017).

    Arguments, besides those that `omniglot` explains:
        data: folder with `train`, `val` and `test`, or with `images` and three CSV files (filename, label),
            or a folder above it.

    Returns:
        The tasks; `x` is `(n, 3, side, side)`.

    Raises:
        DataError: the set is not there.

    Example:
        >>> mini_imagenet()  # doctest: +SKIP
        Tasks(mini_imagenet: 100 classes = 64 train + 16 valid + 20 test, x 3x84x84, ...)
    """
    found = _pictures("mini_imagenet", _found("mini_imagenet", data))
    return _tasks("mini_imagenet", found, split, image_size, n_way, n_shot, n_query, seed)


def folder_of(name: str, data: str | None = None) -> Path | None:
    """Where an image set lies; `None` where it is not there.

    Example:
        >>> folder_of("omniglot", "no/such/folder") is None
        True
    """
    base = data or os.environ.get("INNERLOOP_DATA")
    if not base:
        return None
    for folder in IMAGE_SETS[name].folders:
        place = Path(base).expanduser() / folder
        if name == "omniglot":
            if (place / "images_background").is_dir() and (place / "images_evaluation").is_dir():
                return place
        elif _splits_of(place) is not None:
            return place
    return None


def _found(name: str, data: str | None) -> Path:
    place = folder_of(name, data)
    if place is not None:
        return place
    entry, base = IMAGE_SETS[name], data or os.environ.get("INNERLOOP_DATA")
    looked = f"not in {base}" if base else "no data folder is named"
    sealed = [
        str(path)
        for folder in entry.folders if base
        for also in entry.also
        if (path := Path(base).expanduser() / folder / also).exists()
    ]  # fmt: skip
    why = f"; {sealed[0]} is not read, for it holds no plain images" if sealed else ""
    raise DataError(
        f"the data set {name!r} is not here ({looked}{why}): {entry.where}, and name the folder above it with "
        "--data FOLDER or INNERLOOP_DATA"
    )


def _splits_of(root: Path) -> str | None:
    """How a folder says which classes are in which split."""
    if all((root / part).is_dir() for part in ("train", "test")) and _valid_folder(root):
        return "folders"
    if (root / "data").is_dir() and (root / "splits" / "bertinetto" / "train.txt").is_file():
        return "lists"
    if (root / "images").is_dir() and all(
        (root / f"{part}.csv").is_file() for part in ("train", "val", "test")
    ):
        return "tables"
    return None


def _valid_folder(root: Path) -> Path | None:
    return next((root / name for name in ("val", "valid", "validation") if (root / name).is_dir()), None)


def _pictures(name: str, root: Path) -> Pictures:
    how = _splits_of(root)
    paths: list[Path] = []
    labels: list[str] = []
    split: dict[str, list[str]] = {}
    for part, short in zip(SPLITS, ("train", "val", "test"), strict=True):
        if how == "tables":
            frame = read_table(root / f"{short}.csv")
            absent = [column for column in ("filename", "label") if column not in frame]
            if absent:
                raise DataError(f"{root / short}.csv has no column {absent[0]!r}: write filename,label")
            own = [root / "images" / str(file) for file in frame["filename"]]
            named = frame["label"].astype(str).tolist()
        else:
            if how == "lists":
                text = (root / "splits" / "bertinetto" / f"{short}.txt").read_text(encoding="utf-8")
                folders = [root / "data" / line.strip() for line in text.splitlines() if line.strip()]
            else:
                top = _valid_folder(root) if part == "valid" else root / part
                folders = sorted(path for path in Path(str(top)).iterdir() if path.is_dir())
            files = [(path, folder.name) for folder in folders for path in sorted(folder.glob("*"))]
            own = [path for path, _ in files if _is_image(path)]
            named = [label for path, label in files if _is_image(path)]
        paths += own
        labels += named
        split[part] = sorted(set(named))
        if not split[part]:
            raise DataError(f"{root}: the split {short} of {name} holds no image")
    return Pictures(paths, labels, split)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _vinyals(names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {part: [] for part in SPLITS}
    for name in names:
        alphabet = name.split("/")[0]
        is_test = alphabet in OMNIGLOT_TEST or name in OMNIGLOT_TEST_CHARACTERS
        found["valid" if alphabet in OMNIGLOT_VALID else "test" if is_test else "train"].append(name)
    return found


def _tasks(
    name: str,
    found: Pictures,
    split: Split | None,
    side: int,
    n_way: int,
    n_shot: int | str,
    n_query: int,
    seed: int,
    *,
    inverted: bool = False,
) -> Tasks:
    """n-way episodes of the pictures, in the split of the set unless another one is given."""
    images = read_images(found.paths, size=side)
    divided = split or found.split
    size = {"n_way": n_way, "n_shot": n_shot, "n_query": n_query, "seed": seed}
    pixels = 255 - images.x if inverted else images.x
    return classes(pixels, np.array(found.labels), split=divided, **size).renamed(name)  # type: ignore[arg-type]
