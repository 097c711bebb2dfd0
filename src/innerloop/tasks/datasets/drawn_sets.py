"""Data sets that this package draws itself: invented alphabets, kept in a cache once they are drawn."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import numpy as np

from ...errors import InnerloopError
from ...files import write_bytes
from ..n_way import classes
from ..splits import SHARES, Split, Tasks
from . import alphabets as drawing
from .folders import cache_folder

__all__ = ["alphabets"]

_ALPHABETS, _CHARACTERS, _DRAWINGS, _SIZE = 28, 24, 20, 28


def alphabets(
    *, n_way: int = 5, n_shot: int | str = 1, n_query: int = 5, split: Split = SHARES, seed: int = 0
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
        _write(path, packed)
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


def _write(path: Path | None, packed: bytes) -> None:
    """Write the cache file; a folder that cannot be written to only costs the time of drawing again."""
    if path is None:
        return
    with contextlib.suppress(OSError, InnerloopError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, hashlib.sha256(packed).digest() + packed)
