"""Images from files and folders: which file is of which class, and what becomes of it.

Every picture becomes the same square of bytes, grey or RGB, by one stated rule.

A picture is turned as its EXIF orientation says, put on white where it is transparent, made grey if every
picture is grey (else RGB), and resized to a square of one side with an antialiased bilinear filter: the
proportions change, nothing is cut off. The side is the one asked for, else the median of the shorter sides,
between 16 and 84 pixels. Of a moving picture the first frame counts.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from ..errors import Collector, DataError, Guard
from ..files import read_bytes
from .messages import file_error, first_line
from .splits import SPLITS
from .tables.reading import entries

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = [
    "SUFFIXES",
    "ImageFiles",
    "ImageFolder",
    "Images",
    "find_images",
    "load_images",
    "picture",
    "read_images",
]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
SMALLEST, LARGEST = 16, 84

_GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
# a file of a few bytes can claim any number of pixels; this is Pillow's own limit for a warning
_MOST_PIXELS = 89_478_485

_SPLIT_NAMES = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}
_EXPECTED = "the layouts are class/image, alphabet/class/image, and either below train, valid and test"


class Images(NamedTuple):
    """Pictures `x` `(N, channels, side, side)` uint8, the position of each among the files, and notes for people.

    Of an encoder, `x` holds features `(N, F)`.
    """

    x: np.ndarray
    positions: list[int]
    notes: tuple[str, ...]


class Read(Protocol):
    """Reads files: all that it can where a guard collects errors."""

    def __call__(self, paths: Sequence[Path], *, guard: Guard) -> Images: ...


def read_images(
    paths: Sequence[Path], *, size: int | None = None, mode: str | None = None, guard: Guard = nullcontext
) -> Images:
    """Read pictures from files, all that can be read; a `guard` that collects errors leaves damaged files out.

    Arguments:
        paths: the files.
        size: side in pixels; by the pictures unless given.
        mode: `L` (grey) or `RGB`; by the pictures unless given.
        guard: what goes around each file.

    Raises:
        DataError: a file is no picture, or a damaged one; or Pillow is not installed.
    """
    heads: dict[int, tuple[int, int, bool]] = {}
    for number, path in enumerate(paths):
        with guard(), _opened(path) as image:
            width, height = _upright(image)
            heads[number] = (width, height, image.mode in _GREY)
    sides = [min(width, height) for width, height, _ in heads.values()]
    side = size or int(np.clip(np.median(sides), SMALLEST, LARGEST)) if sides else size or SMALLEST
    grey = sum(grey for _, _, grey in heads.values())
    mode = mode or ("L" if grey == len(heads) else "RGB")
    pictures: dict[int, np.ndarray] = {}
    for number in heads:
        with guard(), _opened(paths[number]) as image:
            pictures[number] = _as_pixels(image, side, mode, where=str(paths[number]))
    if not pictures:
        raise DataError("no image can be read: give PNG, JPEG, WebP, BMP, TIFF or GIF files")
    shapes = {(width, height) for width, height, _ in heads.values()}
    notes = []
    if shapes != {(side, side)}:
        notes.append(
            f"{len(pictures)} images of {len(shapes)} size(s) were resized to {side} x {side} pixels"
        )
    if mode == "L" and grey < len(heads):
        notes.append(f"{len(heads) - grey} images with colours were made grey")
    notes.append(f"images are {'grey' if mode == 'L' else 'RGB'}, bytes 0 to 255 become 0 to 1")
    return Images(np.stack(list(pictures.values())), list(pictures), tuple(notes))


def picture(path: Path, side: int, mode: str = "RGB") -> np.ndarray:
    """One picture as `(channels, side, side)` uint8, see the rule of this module; `mode` is `RGB` or `L`.

    A JPEG file with far more pixels is decoded at a smaller size, which takes a fraction of the time.

    Raises:
        DataError: the file is no picture, or a damaged one; or Pillow is not installed.
    """
    with _opened(path, 2 * side) as image:
        return _as_pixels(image, side, mode, where=str(path))


def _as_pixels(image: Picture, side: int, mode: str, *, where: str) -> np.ndarray:
    """One Pillow image as `(channels, side, side)` uint8, see the rule of this module."""
    from PIL import Image, ImageOps

    try:
        image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            image = _from_numbers(image, where)
        elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert(mode)
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, dtype=np.uint8)
    except DataError:
        raise
    except Exception as error:  # a damaged picture makes the decoders fail in any way
        raise _damaged(where, error) from None
    return pixels[None] if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _opened(path: Path, least: int | None = None) -> Picture:
    """The picture behind a file; one that is larger than `least` may be decoded at a smaller size."""
    try:
        from PIL import Image
    except ImportError:
        raise file_error(path, ": images need Pillow: pip install 'innerloop[images]'") from None
    data = read_bytes(path, error=DataError)
    if not data:
        raise file_error(path, " is empty: replace it, or leave it out (--skip-bad)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > _MOST_PIXELS:
            raise file_error(
                path, f" claims {width} x {height} pixels: make it smaller, or leave it out (--skip-bad)"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if least is not None:
                image.draft(None, (least, least))
            image.load()
    except DataError:
        raise
    except Exception as error:  # see `_as_pixels`
        raise _damaged(str(path), error) from None
    return image


def _damaged(where: str, error: Exception) -> DataError:
    first = first_line(error)
    what = "is no image that can be read" if "cannot identify" in first else f"is damaged ({first})"
    return file_error(
        where,
        f" {what}: replace it with a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file, or leave it out "
        "(--skip-bad)",
    )


def _upright(image: Picture) -> tuple[int, int]:
    """Width and height once it is turned as its orientation says."""
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    width, height = image.size
    return (height, width) if turned else (width, height)


def _from_numbers(image: Picture, where: str) -> Picture:
    """Pixels of 16 or 32 bits as bytes: 0 to 255 stays, 0 to 65535 is divided by 257."""
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        raise file_error(
            where,
            f" has pixels from {values.min():g} to {values.max():g}: save it with shades of 0 to "
            "255 or 0 to 65535",
        )
    # 16-bit files hold 16-bit shades, however dark the picture is
    wide = image.mode.startswith("I;16") or values.max() > 255
    return Image.fromarray((values / 257 if wide else values).round().astype(np.uint8))


class ImageFiles(NamedTuple):
    """Image files, the folders each is in, and how many other files there are."""

    files: list[Path]
    folders: list[tuple[str, ...]]
    others: int


@dataclass(frozen=True)
class ImageFolder:
    """Labelled pictures.

    Arguments:
        x: `(N, channels, side, side)` uint8, or features `(N, F)` of an encoder.
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


def find_images(folder: Path, depth: int = 3, *, every: bool = False) -> ImageFiles:
    """Image files, or `every` file, in folders down to a depth; links back up are not followed.

    Raises:
        DataError: a folder cannot be listed.
    """
    files: list[Path] = []
    folders: list[tuple[str, ...]] = []
    others = 0
    for entry in entries(folder):
        if entry.suffix.lower() in SUFFIXES or (every and not entry.is_dir()):
            files.append(entry)
            folders.append(())
        elif entry.is_dir() and entry.resolve() in (here := folder.resolve(), *here.parents):
            continue  # a link back up
        elif depth and entry.is_dir():
            inner = find_images(entry, depth - 1, every=every)
            files += inner.files
            folders += [(entry.name, *names) for names in inner.folders]
            others += inner.others
        else:
            others += 1
    return ImageFiles(files, folders, others)


def load_images(
    folder: Path,
    *,
    size: int | None = None,
    skip_bad: bool = False,
    guard: Guard = nullcontext,
    read: Read | None = None,
    every: bool = False,
) -> ImageFolder:
    """Read a folder of images, see this module for what becomes of each; `skip_bad` leaves damaged ones out.

    Something else may `read` the files in place of `read_images`, and take `every` file for one of its own.

    Raises:
        DataError: the folders are no layout of this module, or a file is damaged.
    """
    images = find_images(folder, every=every)
    if not images.files:
        raise file_error(folder, f" holds no file in a folder of its class: {_EXPECTED}")
    folders, split = _without_splits(folder, images.folders)
    depths = sorted({len(names) for names in folders})
    if depths not in ([1], [2]):
        odd = images.files[[len(names) for names in folders].index(depths[0])]
        raise DataError(f"{odd} is not in a folder of its class as others are: {_EXPECTED}", file=str(odd))
    collected = Collector()
    reading = partial(read_images, size=size) if read is None else read
    pictures = reading(images.files, guard=collected if skip_bad else guard)
    notes = list(pictures.notes)
    bad = sorted({error.place.get("file", str(error)) for error in collected.found})
    if bad:
        notes.append(f"{len(bad)} damaged images were left out: {', '.join(bad[:3])}")
    if images.others:
        notes.append(f"{images.others} files in {folder.name} are no images and were left out")
    names = [folders[number] for number in pictures.positions]
    labels = np.array([part[-1] for part in names], dtype=object)
    groups = np.array([part[0] for part in names], dtype=object) if depths == [2] else None
    return ImageFolder(pictures.x, labels, groups, split, tuple(notes))


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
        raise file_error(
            folder,
            f" has {', '.join(sorted(tops))} but not {', '.join(lacks)}: move some classes there, or "
            "put all classes side by side in one folder, then they are divided for you",
        )
    if any(len(names) < 2 for names in folders):
        raise file_error(folder, f" has images in a split but in no class: {_EXPECTED}")
    split: dict[str, list[str]] = {part: [] for part in SPLITS}
    for top, name in sorted({(names[0].lower(), names[1]) for names in folders}):
        split[_SPLIT_NAMES[top]].append(name)
    return [names[1:] for names in folders], split
