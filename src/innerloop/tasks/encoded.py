"""Files as the features of a frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from ..encoders import Encoder, encode
from ..encoders.cache import hash_of
from ..errors import DataError, Guard, UsageError
from ..files import read_bytes
from .images import ImageFolder, Images, load_images, picture

__all__ = ["encode_files", "load_encoded"]


def encode_files(paths: Sequence[Path], *, encoder: Encoder, guard: Guard = nullcontext) -> Images:
    """The features of files, of all that can be read; a `guard` that collects errors leaves damaged ones out.

    A picture is read as `images` says, in RGB and at the side of the encoder. What takes `any` item gets the paths.

    Arguments:
        paths: the files.
        encoder: of pictures, or of any items.
        guard: what goes around each file.

    Returns:
        Features `x` `(N, F)`, the position of each among the files, and a note.

    Raises:
        DataError: a file is no picture, or a damaged one.
        UsageError: the encoder takes texts.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = [(folder / name).write_bytes(b"." * size) for name, size in (("a.wav", 3), ("b.wav", 5))]
        >>> sizes = Encoder("sizes", "any", lambda paths: [[path.stat().st_size] for path in paths])
        >>> encode_files(sorted(folder.iterdir()), encoder=sizes).x.tolist()
        [[3.0], [5.0]]
    """
    if encoder.takes == "texts":
        raise UsageError(
            f"the encoder {encoder.name} takes texts, and these are files: choose efficientnet-lite0"
        )
    if encoder.takes == "any":
        found = encode(encoder, [Path(path) for path in paths], guard=guard)
    else:
        found = encode(
            encoder,
            paths,
            key=lambda path: hash_of(read_bytes(path, error=DataError)),
            load=lambda path: picture(path, encoder.side),
            guard=guard,
        )
    note = (
        f"{len(found.rows)} files became {found.rows.shape[1]} features each, by the encoder {encoder.name}"
    )
    return Images(found.rows, found.positions, (note,))


def load_encoded(
    folder: Path,
    encoder: Encoder | None,
    *,
    size: int | None = None,
    skip_bad: bool = False,
    guard: Guard = nullcontext,
) -> ImageFolder:
    """Read a folder of classes: images, or the features that an encoder makes of its files.

    An encoder that takes any item gets every file, others get images.

    Raises:
        DataError: the folders are no layout of `images`, or a file is damaged.
        UsageError: a size is given for an encoder, or it takes texts.
    """
    if encoder is None:
        return load_images(folder, size=size, skip_bad=skip_bad, guard=guard)
    if size is not None:
        raise UsageError(f"the encoder {encoder.name} has a size of its own: leave --image-size out")
    read = partial(encode_files, encoder=encoder)
    return load_images(folder, skip_bad=skip_bad, guard=guard, read=read, every=encoder.takes == "any")
