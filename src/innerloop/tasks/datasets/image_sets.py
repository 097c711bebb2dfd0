"""Image data sets read from the folders that people already have; nothing is downloaded or unpickled.

A set is looked for in the folder given, else in the one that the variable INNERLOOP_DATA names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import DataError
from ..images import SUFFIXES, read_images
from ..n_way import classes
from ..splits import SPLITS, Split, Tasks
from ..tables.deciding import Reading
from ..tables.reading import read_table
from .folders import data_folder, not_here

__all__ = ["IMAGE_SETS", "ImageSet"]

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


@dataclass(frozen=True)
class ImageSet:
    """An image set with a split of its own, and where it may lie.

    Arguments:
        name: its name.
        about: what it is.
        size: classes and images, for people.
        licence: of the images.
        folders: names of its folder, below the data folder.
        where: where it is found, for people.
        also: what other libraries keep it as, which is not read.
        side: of an image in pixels, unless asked for otherwise.
    """

    name: str
    about: str
    size: str
    licence: str
    folders: tuple[str, ...]
    where: str
    also: tuple[str, ...]
    side: int

    def load(
        self,
        *,
        n_way: int = 5,
        n_shot: int | str = 1,
        n_query: int = 15,
        split: Split | None = None,
        seed: int = 0,
        data: str | None = None,
        image_size: int | None = None,
    ) -> Tasks:
        """n-way episodes of the set.

        Arguments:
            n_way: classes an episode.
            n_shot: support images a class, a number or a range.
            n_query: query images a class.
            split: shares, names (`Greek/character01`) or a fold of the classes; the split of the set unless given.
            seed: of a split by shares.
            data: the folder of the set, or a folder above it; INNERLOOP_DATA unless given.
            image_size: side in pixels.

        Returns:
            The tasks; `x` is `(n, channels, side, side)`, and of Omniglot ink is 1.

        Raises:
            DataError: the set is not there.

        Example:
            >>> IMAGE_SETS["omniglot"].load(n_way=20)  # doctest: +SKIP
            Tasks(omniglot: 1623 classes = 1028 train + 172 valid + 423 test, x 1x28x28, classification, n_shot=1)
        """
        folder = self.folder(data)
        if folder is None:
            raise self._not_here(data)
        pictures = _omniglot(folder) if self.name == "omniglot" else _pictures(self.name, folder)
        x = read_images(pictures.paths, size=image_size or self.side).x
        tasks = classes(
            255 - x if self.name == "omniglot" else x, np.array(pictures.labels), n_way=n_way, n_shot=n_shot,
            n_query=n_query, split=split or pictures.split, seed=seed,
        )  # fmt: skip
        return tasks.renamed(self.name)

    def here(self) -> bool:
        """Whether it can be loaded now, without naming a folder."""
        return self.folder() is not None

    def folder(self, data: str | None = None) -> Path | None:
        """Where the set lies; `None` where it is not there."""
        base = data_folder(data)
        folders = [base / name for name in self.folders] if base else []
        return next((folder for folder in folders if self._lies_in(folder)), None)

    def _lies_in(self, folder: Path) -> bool:
        if self.name == "omniglot":
            return (folder / "images_background").is_dir() and (folder / "images_evaluation").is_dir()
        return _splits_of(folder) is not None

    def _not_here(self, data: str | None) -> DataError:
        base = data_folder(data)
        files = [base / folder / also for folder in self.folders for also in self.also] if base else []
        sealed = next((path for path in files if path.exists()), None)
        why = f"; {sealed} is not read, for it holds no plain images" if sealed else ""
        return not_here(self.name, data, f"{self.where}, and name the folder above it", why=why)


IMAGE_SETS = {
    entry.name: entry
    for entry in (
        # Lake et al., 2015, in Vinyals' split
        ImageSet(
            "omniglot",
            "handwritten characters of 50 alphabets (Lake et al., 2015), Vinyals' split; n-way classification",
            "1,623 classes x 20 drawings",
            "MIT (Lake)",
            (".", "omniglot-py", "omniglot", "omniglot/python", "omniglot/omniglot-py"),
            "unpack images_background.zip and images_evaluation.zip of github.com/brendenlake/omniglot (folder "
            "python) into omniglot-py",
            ("data.hdf5",),
            28,
        ),
        # Bertinetto et al., 2019: the 100 classes of CIFAR-100 in 64 + 16 + 20, the split of the folder
        ImageSet(
            "cifar_fs",
            "CIFAR-100 as few-shot tasks, 32 x 32 pixels (Bertinetto et al., 2019); n-way classification",
            "100 classes x 600 images",
            "not stated by its authors (CIFAR-100, Krizhevsky)",
            (".", "cifarfs/processed", "cifarfs/cifar100", "cifarfs", "cifar-fs", "cifar_fs", "cifar100"),
            "unpack CIFAR-FS of github.com/bertinetto/r2d2, which has data/CLASS/IMAGE and splits/bertinetto, into "
            "cifarfs/cifar100",
            ("cifar-100-python", "data.hdf5"),
            32,
        ),
        # Ravi & Larochelle, 2017: 100 classes of ImageNet with 600 images each in 64 + 16 + 20
        ImageSet(
            "mini_imagenet",
            "100 classes of ImageNet, 84 x 84 pixels (Vinyals et al., 2016); n-way classification",
            "100 classes x 600 images",
            "terms of ImageNet, for research only",
            (".", "miniimagenet", "mini-imagenet", "mini_imagenet", "miniImagenet", "miniImageNet"),
            "make the folders train, val and test with CLASS/IMAGE, or images and the files train.csv, val.csv and "
            "test.csv of github.com/twitter-research/meta-learning-lstm, in mini-imagenet",
            ("mini-imagenet-cache-train.pkl", "train_data.hdf5"),
            84,
        ),
    )
}


def _omniglot(folder: Path) -> _Pictures:
    paths = sorted(path for part in folder.glob("images_*") for path in part.glob("*/*/*") if _is_image(path))
    labels = [f"{path.parts[-3]}/{path.parts[-2]}" for path in paths]
    return _Pictures(paths, labels, _vinyals(sorted(set(labels))))


def _vinyals(names: Sequence[str]) -> dict[str, list[str]]:
    split: dict[str, list[str]] = {part: [] for part in SPLITS}
    for name in names:
        alphabet = name.split("/")[0]
        is_test = alphabet in OMNIGLOT_TEST or name in OMNIGLOT_TEST_CHARACTERS
        split["valid" if alphabet in OMNIGLOT_VALID else "test" if is_test else "train"].append(name)
    return split


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
            frame = read_table(root / f"{short}.csv", reading=Reading(all_ids=True))
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
