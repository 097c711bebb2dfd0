"""Encoders of the user: networks of other libraries with weights that are there, and functions of any module."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from ..files import read_bytes

__all__ = ["Library", "imported", "of_library"]

_TIMM, _SENTENCES = "timm:", "sentence-transformers:"


class Library(NamedTuple):
    """What an `Encoder` needs of a network of another library."""

    takes: str
    run: Callable[[Any], Any]
    side: int
    weights: str
    batch: int


def of_library(name: str) -> Library | None:
    """The network that `timm:NAME=FILE` or `sentence-transformers:FOLDER` names; `None` for another name.

    Raises:
        UsageError: the library is not installed, or the weights are not there or do not fit.
    """
    if name.startswith(_TIMM):
        return _timm(name.removeprefix(_TIMM))
    if name.startswith(_SENTENCES):
        return _sentences(Path(name.removeprefix(_SENTENCES)))
    return None


def imported(name: str) -> Callable[[Any], Any]:
    """The function that `module:function` names; modules of the current folder are found too.

    Only for a name that somebody typed: importing runs the module.

    Raises:
        UsageError: there is no such function, or its module cannot be imported.
    """
    from .built_in import BUILT_IN

    module, _, function = name.partition(":")
    if not module or not function:
        raise UsageError(
            f"encoder {name!r} is unknown: choose one of {', '.join(BUILT_IN)}, timm:NAME=FILE, "
            "sentence-transformers:FOLDER, or a function of yours, module:function"
        )
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = EntryPoint("encoder", name, "innerloop.encoders").load()
    except Exception as error:  # importing runs any code
        raise UsageError(f"encoder {name!r} cannot be imported ({type(error).__name__}: {error})") from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise UsageError(
            f"encoder {name!r} is no function: name one that turns a list of items into an array"
        )
    return found  # type: ignore[no-any-return]


def _timm(name: str) -> Library:
    """A network of timm without its last layer."""
    network, _, file = name.partition("=")
    if not file.endswith(".safetensors"):
        raise UsageError(
            f"encoder timm:{name}: name the weights behind it, timm:{network}=weights.safetensors"
        )
    try:
        import timm
    except ImportError:
        raise UsageError("timm is not installed: pip install timm") from None
    import safetensors.torch

    data = read_bytes(Path(file), error=UsageError)
    try:
        model = timm.create_model(network, pretrained=False, num_classes=0).eval()
        missing = model.load_state_dict(safetensors.torch.load(data), strict=False).missing_keys
    except Exception as error:  # unknown names and weights of other shapes, in many forms
        raise UsageError(f"encoder timm:{name}: {error}") from None
    if missing:
        raise UsageError(f"encoder timm:{name}: {file} has no {missing[0]}: give the weights of {network}")
    config = timm.data.resolve_model_data_config(model)
    mean, scale = (torch.tensor(config[key], device="cpu")[:, None, None] for key in ("mean", "std"))

    def run(pictures: Tensor) -> Tensor:
        found: Tensor = model((pictures.float() / 255 - mean) / scale)
        return found

    return Library("pictures", run, int(config["input_size"][-1]), _short(data), 8)


def _sentences(folder: Path) -> Library:
    """A model of Sentence Transformers, of safetensors alone and without code of its own."""
    if not folder.is_dir():
        raise UsageError(f"encoder sentence-transformers:{folder}: there is no such folder")
    weights = sorted(folder.rglob("*.safetensors"))
    if not weights:
        raise UsageError(f"encoder sentence-transformers:{folder}: it holds no weights as safetensors")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UsageError(
            "sentence-transformers is not installed: pip install sentence-transformers"
        ) from None
    model = SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, trust_remote_code=False,
        model_kwargs={"use_safetensors": True},
    )  # fmt: skip

    def run(texts: Sequence[str]) -> Any:
        return model.encode(list(texts), show_progress_bar=False)

    return Library("texts", run, 0, _short(b"".join(map(read_bytes, weights))), 32)


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
