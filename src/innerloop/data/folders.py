"""Folders of images: which file is of which class, and of which alphabet or task."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import Collector, DataError, Guard
from .frames import entries
from .images import SUFFIXES, read_images
from .splits import SPLITS

_SPLIT_NAMES = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}
_EXPECTED = "the layouts are class/image, alphabet/class/image, and either below train, valid and test"


class Found(NamedTuple):
    """Image files, the folders each is in, and how many other files there are."""

    files: list[Path]
    folders: list[tuple[str, ...]]
    others: int


@dataclass(frozen=True)
class ImageFolder:
    """Labelled pictures.

    Arguments:
        x: `(N, channels, side, side)` uint8.
        labels: `(N,)` class.
        groups: `(N,)` alphabet or task; `None` for `class/image`.
        split: names of the groups, or classes, in each split where folders say so.
        notes: what was done.
    """

    x: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    split: dict[str, list[str]] | None
    notes: tuple[str, ...]


def find_images(folder: Path, depth: int = 3) -> Found:
    """Image files in folders down to a depth; links back up are not followed.

    Raises:
        DataError: a folder cannot be listed.
    """
    found = Found([], [], 0)
    for entry in entries(folder):
        if entry.suffix.lower() in SUFFIXES:
            found.files.append(entry)
            found.folders.append(())
        elif entry.is_dir() and entry.resolve() in (here := folder.resolve(), *here.parents):
            continue  # a link back up
        elif depth and entry.is_dir():
            inner = find_images(entry, depth - 1)
            found.files.extend(inner.files)
            found.folders.extend((entry.name, *names) for names in inner.folders)
            found = found._replace(others=found.others + inner.others)
        else:
            found = found._replace(others=found.others + 1)
    return found


def load_images(
    folder: Path, *, size: int | None = None, skip_bad: bool = False, guard: Guard = nullcontext
) -> ImageFolder:
    """Read a folder of images, see `images` for what becomes of each.

    Arguments:
        folder: the folder.
        size: side in pixels.
        skip_bad: leave damaged files out, and count them.
        guard: what goes around each file; `check` gives one that collects the errors.

    Returns:
        The pictures with their classes.

    Raises:
        DataError: the folders are no layout of `layouts`, or a file is damaged.
    """
    found = find_images(folder)
    folders, split = _without_splits(folder, found.folders)
    depths = sorted({len(names) for names in folders})
    if depths not in ([1], [2]):
        odd = found.files[[len(names) for names in folders].index(depths[0])]
        raise DataError(f"{odd} is not in a folder of its class as others are: {_EXPECTED}", file=str(odd))
    collected = Collector()
    images = read_images(found.files, size=size, guard=collected if skip_bad else guard)
    notes = list(images.notes)
    bad = sorted({error.place.get("file", str(error)) for error in collected.found})
    if bad:
        notes.append(f"{len(bad)} damaged images were left out: {', '.join(bad[:3])}")
    if found.others:
        notes.append(f"{found.others} files in {folder.name} are no images and were left out")
    names = [folders[number] for number in images.kept]
    labels = np.array([part[-1] for part in names], dtype=object)
    groups = np.array([part[0] for part in names], dtype=object) if depths == [2] else None
    return ImageFolder(images.x, labels, groups, split, tuple(notes))


def _without_splits(
    folder: Path, folders: list[tuple[str, ...]]
) -> tuple[list[tuple[str, ...]], dict[str, list[str]] | None]:
    """Folders below `train`, `valid` and `test`, and the names in each of these."""
    tops = {names[0].lower() for names in folders if names}
    if not tops or not tops <= set(_SPLIT_NAMES):
        return folders, None
    parts = {_SPLIT_NAMES[top] for top in tops}
    if parts != set(SPLITS):
        lacks = sorted(set(SPLITS) - parts)
        raise DataError(
            f"{folder} has {', '.join(sorted(tops))} but not {', '.join(lacks)}: move some classes there, or "
            "put all classes side by side in one folder, then they are divided for you",
            file=str(folder),
        )
    if any(len(names) < 2 for names in folders):
        raise DataError(f"{folder} has images in a split but in no class: {_EXPECTED}", file=str(folder))
    split: dict[str, list[str]] = {part: [] for part in SPLITS}
    for top, name in sorted({(names[0].lower(), names[1]) for names in folders}):
        split[_SPLIT_NAMES[top]].append(name)
    return [names[1:] for names in folders], split
