"""Folders that prove themselves whole: a manifest holds the size and sha256 of every file and of itself.

Nothing that is read from a sealed folder is parsed before all of them agree. The sha256 is no signature: it
tells damage, and says nothing about who wrote the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict

from .. import files
from ..errors import ModelFileError, ResourceError, UsageError
from .plain_json import DAMAGED, parse_json

__all__ = [
    "CARD",
    "CHECKPOINT",
    "EXTRA_FILES",
    "MANIFEST",
    "MODEL",
    "MODEL_FILES",
    "SCHEMA_VERSION",
    "Sealed",
    "Verified",
    "canonical",
    "check_version",
    "read_sealed",
    "refuse_occupied",
    "seal",
    "sha256",
    "verified",
    "write_sealed",
]

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
MODEL_FILES = frozenset({"config.json", "log.jsonl", "model.safetensors"})
EXTRA_FILES = frozenset({"report.html", "scores.csv"})
CARD = "README.md"  # follows from the rest, in the case that hubs look for

# what a sealed folder is
MODEL, CHECKPOINT = "innerloop model", "innerloop checkpoint"
_WORDS = {MODEL: "a model directory", CHECKPOINT: "a checkpoint"}
_MARK = f'"format": "{MODEL}"'.encode()
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")  # lower case only, so that no two names clash anywhere
_MANIFEST_LIMIT = 1 << 20


class Sealed(NamedTuple):
    """The files of a folder, verified against its manifest.

    Arguments:
        folder: where they were read.
        contents: bytes by name, without the manifest.
        sha256: of the manifest without its own `sha256`: it names the folder's content.
    """

    folder: Path
    contents: dict[str, bytes]
    sha256: str


class Verified(NamedTuple):
    """A file of a folder, compared with its manifest.

    Arguments:
        name: of the file.
        size: in bytes; `None` where it is missing.
        fault: what is wrong with it; empty where it is what the manifest says.
    """

    name: str
    size: int | None
    fault: str


class _Entry(TypedDict):
    """What a manifest says of a file."""

    sha256: str
    size: int


def sha256(data: bytes) -> str:
    """The sha256 of bytes, in hexadecimal.

    Example:
        >>> sha256(b"")[:8]
        'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()


def canonical(value: object) -> bytes:
    """JSON with sorted keys: equal values, equal bytes.

    Example:
        >>> canonical({"b": 1, "a": 2}) == canonical({"a": 2, "b": 1})
        True
    """
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def check_version(version: object, where: str) -> None:
    """Refuse what a newer version wrote.

    Raises:
        ModelFileError: the version is newer, or none.

    Example:
        >>> check_version(1, "config.json")
    """
    if type(version) is not int or version < 1:
        raise ModelFileError(f"{where}: schema_version is {version!r}, not a version; {DAMAGED}")
    if version > SCHEMA_VERSION:
        raise ModelFileError(
            f"{where}: made by a newer innerloop: schema_version {version}, this one reads up to "
            f"{SCHEMA_VERSION}: upgrade"
        )


def seal(contents: Mapping[str, bytes], form: str = MODEL) -> dict[str, bytes]:
    """The files and a manifest of them, which says what they are together.

    Example:
        >>> sorted(seal({"config.json": b"{}"}))
        ['config.json', 'manifest.json']
    """
    entries = {name: {"sha256": sha256(data), "size": len(data)} for name, data in contents.items()}
    manifest = {"files": entries, "format": form, "schema_version": SCHEMA_VERSION}
    return {**contents, MANIFEST: canonical({**manifest, "sha256": sha256(canonical(manifest))})}


def write_sealed(folder: Path, contents: Mapping[str, bytes], *, replace: bool) -> None:
    """Write a sealed folder; a crash leaves the old one or the new one.

    A missing or empty folder is filled. With `replace`, a model directory is replaced, and nothing but a
    model directory: a folder that holds anything else stays as it is.

    Arguments:
        folder: where.
        contents: name and content of each file.
        replace: whether a model directory that is there may go.

    Raises:
        UsageError: the folder is there and may not be replaced.
        ResourceError: it cannot be written.
    """
    refuse_occupied(folder, replace=replace)
    files.write_directory(folder, seal(contents))


def refuse_occupied(folder: Path, *, replace: bool) -> None:
    """Refuse what `write_sealed` would refuse, for asking before hours of training.

    Raises:
        UsageError: the folder is there and may not be replaced.
        ResourceError: it cannot be read.
    """
    with files.explained(folder):
        present = _settled(folder)
        if not os.path.lexists(present):
            return
        if not present.is_dir():
            raise UsageError(f"{folder} is a file: choose another folder")
        ours = {MANIFEST, CARD, *MODEL_FILES, *EXTRA_FILES}
        inside = {path.name: path.name in ours and _is_plain(path) for path in sorted(present.iterdir())}
        marked = inside.get(MANIFEST) and _MARK in files.read_bytes(present / MANIFEST, limit=_MANIFEST_LIMIT)
    foreign = [name for name, known in inside.items() if not known]
    if inside and (foreign or not marked):
        other = (foreign or [*inside])[0]
        raise UsageError(f"{folder} holds {other!r}, which no model directory does: choose another folder")
    if inside and not replace:
        raise UsageError(f"{folder} holds a model already: choose another folder, or replace it (--replace)")


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _settled(folder: Path) -> Path:
    """The folder, or what was set aside for its successor where that is under way or was cut short."""
    target = Path(os.path.realpath(folder))
    if os.path.lexists(target):
        return target
    whole = [old for old in files.set_aside(target) if (old / MANIFEST).is_file()]
    return whole[-1] if whole else target


def read_sealed(folder: Path, form: str = MODEL) -> Sealed:
    """Read a sealed folder; nothing but the manifest is parsed.

    Raises:
        ModelFileError: it is no such folder, or not what its manifest says.
        ResourceError: it cannot be read.
    """
    with files.explained(folder):
        try:
            return _read_sealed(folder, _settled(folder), form)
        except (ModelFileError, ResourceError, OSError):
            # it may have been replaced while it was being read: then the new one is whole
            return _read_sealed(folder, _settled(folder), form)


def _read_sealed(named: Path, folder: Path, form: str) -> Sealed:
    """Read `folder`, which messages call `named`."""
    if form == MODEL or not os.path.lexists(folder / MANIFEST):
        _require_model_directory(named, folder)
    paths = {path.name: path for path in folder.iterdir()}
    data = _read_entry(named, folder / MANIFEST, limit=_MANIFEST_LIMIT)
    entries, own = _manifest(data, named / MANIFEST, form)
    names = sorted(
        {*paths, *entries} - {MANIFEST}, key=lambda name: (name in paths and name in entries, name)
    )
    contents = {name: _whole(named, name, paths, entries) for name in names}
    return Sealed(named, contents, own)


def _whole(named: Path, name: str, paths: Mapping[str, Path], entries: Mapping[str, _Entry]) -> bytes:
    """The content of a file that is what the manifest says."""
    if name not in paths:
        raise ModelFileError(f"{named / name}: the file is missing; {DAMAGED}")
    if name not in entries:
        raise ModelFileError(f"{named / name}: the manifest does not name it: remove it from the folder")
    content = _read_entry(named, paths[name], size=entries[name]["size"])
    if sha256(content) != entries[name]["sha256"]:
        raise ModelFileError(f"{named / name}: its sha256 is not that of the manifest; {DAMAGED}")
    return content


def verified(folder: Path) -> list[Verified]:
    """Every file of a sealed folder, compared with the manifest: all that is wrong, where `read_sealed` stops.

    Raises:
        ModelFileError: it is not a model directory, or its manifest is not one.
        ResourceError: it cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "run"
        >>> write_sealed(folder, {"config.json": b"{}"}, replace=False)
        >>> _ = (folder / "config.json").write_bytes(b"[]")
        >>> [(each.name, each.fault) for each in verified(folder)]
        [('config.json', 'its sha256 is not that of the manifest'), ('manifest.json', '')]
    """
    with files.explained(folder):
        here = _settled(folder)
        _require_model_directory(folder, here)
        paths = {path.name: path for path in here.iterdir()}
        data = _read_entry(folder, here / MANIFEST, limit=_MANIFEST_LIMIT)
        entries, _ = _manifest(data, folder / MANIFEST, MODEL)
        found = []
        for name in sorted({*paths, *entries} - {MANIFEST}):
            fault = ""
            try:
                _whole(folder, name, paths, entries)
            except (ModelFileError, ResourceError) as error:
                fault = str(error).removeprefix(f"{folder / name}: ").removesuffix(f"; {DAMAGED}")
            size = os.lstat(paths[name]).st_size if name in paths else None
            found.append(Verified(name, size, fault))
        return [*found, Verified(MANIFEST, len(data), "")]


def _read_entry(named: Path, path: Path, *, limit: int | None = None, size: int | None = None) -> bytes:
    """Read a regular file of at most `limit` or exactly `size` bytes."""
    if not _is_plain(path):
        raise ModelFileError(f"{named / path.name}: not a regular file; {DAMAGED}")
    there = os.lstat(path).st_size
    if size is not None and there != size:
        raise ModelFileError(f"{named / path.name}: {there} bytes, not {size}; {DAMAGED}")
    if limit is not None and there > limit:
        raise ModelFileError(f"{named / path.name}: larger than the {limit} bytes it may have; {DAMAGED}")
    return files.read_bytes(path, limit=there)


def _require_model_directory(named: Path, folder: Path) -> None:
    wanted = "give a folder that `innerloop train --out` or `innerloop.save` wrote"
    if not folder.exists():
        raise ModelFileError(f"{named}: there is no such folder: {wanted}")
    if not folder.is_dir():
        raise ModelFileError(f"{named}: a file, not a model directory: {wanted}")
    if not os.path.lexists(folder / MANIFEST):
        inside = sorted(path.parent.name for path in folder.glob(f"[!.]*/{MANIFEST}"))
        hint = f", such as {named / inside[0]}" if inside else ""
        raise ModelFileError(f"{named}: not a model directory (it has no {MANIFEST}): {wanted}{hint}")


def _manifest(data: bytes, path: Path, form: str) -> tuple[dict[str, _Entry], str]:
    """Entries and own sha256 of a manifest that is exactly what `seal` writes."""
    manifest = parse_json(data, str(path))
    if not isinstance(manifest, dict) or manifest.get("format") != form:
        raise ModelFileError(f"{path}: not the manifest of {_WORDS[form]}; {DAMAGED}")
    check_version(manifest.get("schema_version"), str(path))
    own, entries = manifest.pop("sha256", None), manifest.get("files")
    if set(manifest) != {"files", "format", "schema_version"} or not isinstance(entries, dict):
        raise ModelFileError(f"{path}: its keys are not those of a manifest; {DAMAGED}")
    if own != sha256(canonical(manifest)) or data != canonical({**manifest, "sha256": own}):
        raise ModelFileError(f"{path}: its sha256 is not its own; {DAMAGED}")
    for name, entry in entries.items():
        if (name != CARD and not _NAME.fullmatch(name)) or name == MANIFEST:
            raise ModelFileError(f"{path}: {name[:100]!r} is not a name of a file in this folder; {DAMAGED}")
        types = {key: type(value) for key, value in entry.items()} if isinstance(entry, dict) else {}
        if types != {"sha256": str, "size": int}:
            raise ModelFileError(f"{path}: {name!r} has no size and sha256; {DAMAGED}")
    return entries, own
