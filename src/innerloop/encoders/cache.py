"""Features that were computed before, on disk: by the encoder, its weights and the hash of each item.

A file holds the rows of one reading, sorted; a reading that finds none of its rows missing writes nothing. A damaged
file is left out. The folder is `features` in that of `INNERLOOP_CACHE`, or in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np

from ..errors import InnerloopError
from ..files import make_folder, read_bytes, write_bytes
from .encoder import Encoder

__all__ = ["Features", "hash_of"]

# bytes of the hash of an item
_HASH = 16
# value of INNERLOOP_CACHE with which nothing is kept
_OFF = "off"


def hash_of(data: bytes) -> bytes:
    """What an item is recognised by.

    Example:
        >>> len(hash_of(b"a picture"))
        16
    """
    return hashlib.sha256(data).digest()[:_HASH]


class Features:
    """The features of one encoder that are on disk.

    Arguments:
        encoder: one whose weights are recognised; of others nothing is kept.

    Example:
        >>> features = Features(Encoder("lengths", "texts", len))
        >>> features.get(hash_of(b"one")) is None
        True
    """

    def __init__(self, encoder: Encoder) -> None:
        given = os.environ.get("INNERLOOP_CACHE")
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "innerloop"
        self.folder: Path | None = None
        if encoder.weights and given != _OFF:
            name = hashlib.sha256(f"{encoder.name} {encoder.weights} {encoder.side}".encode()).hexdigest()[
                :24
            ]
            self.folder = (Path(given) if given else base) / "features" / name
        self._known: dict[bytes, np.ndarray] = {}
        self._new: dict[bytes, np.ndarray] = {}
        if self.folder is not None and self.folder.is_dir():
            for path in sorted(self.folder.glob("*.npz")):
                self._read(path)

    def get(self, item: bytes) -> np.ndarray | None:
        """The features `(F,)` of an item by its hash, if they are known."""
        return self._known.get(item)

    def put(self, item: bytes, row: np.ndarray) -> None:
        """Keep the features of an item."""
        self._known[item] = self._new[item] = row

    @property
    def width(self) -> int | None:
        """Features `F`; `None` as long as no item is known."""
        return next((len(row) for row in self._known.values()), None)

    def save(self) -> None:
        """Write what is new; where it cannot be written, it is computed again another time."""
        if self.folder is None or not self._new:
            return
        keys = sorted(self._new)
        stream = io.BytesIO()
        hashes = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _HASH)
        np.savez(stream, hashes=hashes, rows=np.stack([self._new[key] for key in keys]))
        name = hashlib.sha256(hashes.tobytes()).hexdigest()[:24]
        try:
            make_folder(self.folder)
            write_bytes(self.folder / f"{name}.npz", stream.getvalue())
        except InnerloopError:
            return
        self._new = {}

    def _read(self, path: Path) -> None:
        try:
            with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as arrays:
                hashes, rows = arrays["hashes"], arrays["rows"]
            if hashes.dtype != np.uint8 or hashes.shape != (len(rows), _HASH) or rows.dtype != np.float32:
                return
            if rows.ndim == 2 and np.isfinite(rows).all():
                self._known.update(zip(map(bytes, hashes), rows, strict=True))
        except Exception:  # a file that a crash of the machine left half written
            return
