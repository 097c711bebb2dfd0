"""Image data sets read from the folders that people already have; nothing is downloaded or unpickled.

A set is looked for in the folder given, else in the one that the variable INNERLOOP_DATA names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import DataError
from ..images import SUFFIXES, read_images
from ..n_way import classes
from ..splits import SPLITS, Split, Tasks
from ..tables.reading import read_table
from .folders import data_folder, not_here

__all__ = ["IMAGE_SETS", "cifar_fs", "folder_of", "mini_imagenet", "omniglot"]

# Vinyals et al., 2016, "Matching Networks for One Shot Learning", as torchmeta has it
# (github.com/tristandeleu/pytorch-meta, torchmeta/datasets/assets/omniglot): 1,028, 172 and 423 characters.
# Validation and test are the alphabets named here and the last characters of Gurmukhi; the rest is for training.
OMNIGLOT_VALID = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
OMNIGLOT_TEST = (
    "Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya",
    "Sylheti", "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG",
)  # fmt: skip
OMNIGLOT_TEST_CHARACTERS = tuple(f"Gurmukhi/character{number}" for number in range(42, 46))


class _Pictures(NamedTuple):
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
    root = _folder("omniglot", data)
    paths = sorted(path for part in root.glob("images_*") for path in part.glob("*/*/*") if _is_image(path))
    labels = [f"{path.parts[-3]}/{path.parts[-2]}" for path in paths]
    pictures = _Pictures(paths, labels, _vinyals(sorted(set(labels))))
    images = 255 - read_images(paths, size=image_size).x
    return _tasks("omniglot", images, pictures, split, n_way=n_way, n_shot=n_shot, n_query=n_query, seed=seed)


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
    pictures = _pictures("cifar_fs", _folder("cifar_fs", data))
    images = read_images(pictures.paths, size=image_size).x
    return _tasks("cifar_fs", images, pictures, split, n_way=n_way, n_shot=n_shot, n_query=n_query, seed=seed)


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
    pictures = _pictures("mini_imagenet", _folder("mini_imagenet", data))
    images = read_images(pictures.paths, size=image_size).x
    return _tasks(
        "mini_imagenet", images, pictures, split, n_way=n_way, n_shot=n_shot, n_query=n_query, seed=seed
    )


def folder_of(name: str, data: str | None = None) -> Path | None:
    """Where an image set lies; `None` where it is not there.

    Example:
        >>> folder_of("omniglot", "no/such/folder") is None
        True
    """
    base = data_folder(data)
    return None if base is None else next(
        (base / folder for folder in IMAGE_SETS[name].folders if _holds(base / folder, name)), None
    )  # fmt: skip


def _holds(folder: Path, name: str) -> bool:
    """The folder holds the images of this set."""
    if name == "omniglot":
        return (folder / "images_background").is_dir() and (folder / "images_evaluation").is_dir()
    return _splits_of(folder) is not None


def _folder(name: str, data: str | None) -> Path:
    """The folder of an image set, or an error that says how to get it."""
    folder = folder_of(name, data)
    if folder is not None:
        return folder
    entry, base = IMAGE_SETS[name], data_folder(data)
    places = [base / part / also for part in entry.folders for also in entry.also] if base else []
    sealed = next((path for path in places if path.exists()), None)
    why = f"; {sealed} is not read, for it holds no plain images" if sealed else ""
    raise not_here(name, data, f"{entry.where}, and name the folder above it", why=why)


def _splits_of(root: Path) -> str | None:
    """How a folder says which classes are in which split; `None` where it does not."""
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


def _pictures(name: str, root: Path) -> _Pictures:
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
    return _Pictures(paths, labels, split)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _vinyals(names: Sequence[str]) -> dict[str, list[str]]:
    split: dict[str, list[str]] = {part: [] for part in SPLITS}
    for name in names:
        alphabet = name.split("/")[0]
        is_test = alphabet in OMNIGLOT_TEST or name in OMNIGLOT_TEST_CHARACTERS
        split["valid" if alphabet in OMNIGLOT_VALID else "test" if is_test else "train"].append(name)
    return split


def _tasks(
    name: str,
    images: np.ndarray,
    pictures: _Pictures,
    split: Split | None,
    *,
    n_way: int,
    n_shot: int | str,
    n_query: int,
    seed: int,
) -> Tasks:
    """n-way episodes of the pictures, in the split of the set unless another one is given."""
    tasks = classes(
        images, np.array(pictures.labels), split=split or pictures.split,
        n_way=n_way, n_shot=n_shot, n_query=n_query, seed=seed,
    )  # fmt: skip
    return tasks.renamed(name)
