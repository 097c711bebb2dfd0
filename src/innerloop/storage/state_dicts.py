"""Plain state dicts in safetensors files: trained weights into a built-in model, and back under their own names.

A state dict holds names and tensors, not the model they belong to. A built-in architecture is found again from
the shapes; what shapes do not tell (the activation) has to be said. Names may have a prefix of the user's own class
(`layers.0.weight`), or for an mlp be any names in the order of the layers (`w1, b1, w2, b2`).
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ModelFileError, UsageError
from ..files import read_bytes, write_bytes
from ..models import builtin as models
from ..models.network import Params
from .manifest import read_sealed
from .plain_json import JsonObject
from .validation import read_tensors

_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib")
_STATISTICS = (".running_mean", ".running_var")


class Trained(NamedTuple):
    """A built-in model with the weights of a file.

    Arguments:
        module: the model, its parameters those of the file.
        statistics: BatchNorm statistics of the file, by their name in the model; empty where it has none.
        names: name in the model -> name in the file.
        state: the file.
    """

    module: nn.Module
    statistics: Params
    names: dict[str, str]
    state: Params

    def give_back(self, values: Params) -> Params:
        """The state dict of the file with other values: its names, its types.

        Example:
            >>> trained = built("mlp", {"w": torch.ones(1, 2).half(), "b": torch.zeros(1).half()})
            >>> trained.give_back({"0.weight": torch.full((1, 2), 3.0)})["w"]
            tensor([[3., 3.]], dtype=torch.float16)
        """
        found = {key: value.clone() for key, value in self.state.items()}
        for name, key in self.names.items():
            if name in values:
                found[key] = values[name].detach().cpu().to(self.state[key].dtype)
        return found


def read_state_dict(path: Path) -> Params:
    """The tensors of a safetensors file; nothing in it can run code.

    Raises:
        ModelFileError: it is none, or holds NaN or infinity.
    """
    import safetensors.torch

    if path.suffix.lower() in _PICKLES:
        raise ModelFileError(
            f"{path}: a pickle can run code when it is read, so it is not: write the weights as safetensors where "
            "you trust it: from safetensors.torch import save_model; save_model(model, 'model.safetensors')"
        )
    data = read_bytes(path, error=ModelFileError)
    try:
        state: Params = safetensors.torch.load(data)
    except Exception as error:  # a damaged file makes the reader fail in any way
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelFileError(f"{path} is no safetensors file ({first}): write it again") from None
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise ModelFileError(f"{path}: {name!r} holds NaN or infinity: train again")
    return state


def write_state_dict(path: Path, state: Params) -> None:
    """Write tensors as a safetensors file; a crash leaves the old file or the new one.

    Raises:
        ResourceError: it cannot be written.
    """
    import safetensors.torch

    # a clone, because tensors that share memory are refused
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    write_bytes(path, safetensors.torch.save(plain))


def built(name: str, state: Params, *, size: int | None = None, **settings: object) -> Trained:
    """A built-in model whose shapes are those of a state dict, with its weights.

    Arguments:
        name: one of `models.MODELS`.
        state: the state dict.
        size: side of the images in pixels, for a conv4.
        settings: of the model, where shapes do not tell them: `activation`, `output`.

    Returns:
        The model.

    Raises:
        UsageError: the name is unknown, or a setting is needed.
        ModelFileError: the state dict is not that of such a model.

    Example:
        >>> net = models.mlp(4, [3], 2)
        >>> built("mlp", net.state_dict(), activation="relu").module
        Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
          (1): ReLU()
          (2): Linear(in_features=3, out_features=2, bias=True)
        )
    """
    shapes = {"mlp": _mlp_settings, "conv4": _conv4_settings}
    if name not in shapes:
        raise UsageError(f"model {name!r} is unknown: a state dict can be that of {', '.join(shapes)}")
    if name == "conv4" and size is not None:
        settings["size"] = size
    found = shapes[name](state) | settings
    if name == "mlp" and found["hidden"] and "activation" not in found:
        raise UsageError(
            "a state dict does not say the activation of its mlp: give --activation (activation= in Python), one "
            f"of {', '.join(models.ACTIVATIONS)}"
        )
    module = models.build(name, **found)
    names = fitted(state, dict(module.named_parameters()))
    with torch.no_grad():
        for own, value in module.named_parameters():
            value.copy_(state[names[own]])
    for own in [own for own in names if own.endswith(".weight")]:
        layer, key = own.removesuffix(".weight"), names[own].removesuffix(".weight")
        names |= {f"{layer}{kind}": f"{key}{kind}" for kind in _STATISTICS if f"{key}{kind}" in state}
    statistics = {own: state[key].float() for own, key in names.items() if own.endswith(_STATISTICS)}
    return Trained(module, statistics, names, state)


def fitted(state: Params, params: Params, *, but_head: bool = False) -> dict[str, str]:
    """Which tensor of a state dict is which parameter: by name, or in the order of the layers.

    Arguments:
        state: the state dict.
        params: the parameters by name, in the order of the layers.
        but_head: the last two may have another shape; they are then left out.

    Returns:
        Name of the parameter -> name in the state dict.

    Raises:
        ModelFileError: they are not those of such a model.

    Example:
        >>> fitted({"net.0.weight": torch.zeros(2, 2)}, {"0.weight": torch.zeros(2, 2)})
        {'0.weight': 'net.0.weight'}
    """
    names = _by_name(state, params) or _in_order(state, params)
    wrong = [own for own in params if own not in names or state[names[own]].shape != params[own].shape]
    if but_head and set(wrong) <= set(list(params)[-2:]):
        return {own: key for own, key in names.items() if own not in wrong}
    if wrong:
        own = wrong[0]
        there = f"is {tuple(state[names[own]].shape)}" if own in names else "is missing"
        raise ModelFileError(
            f"the weights are not those of this model: {own!r} of shape {tuple(params[own].shape)} {there}; they "
            f"are {_listed(state)}"
        )
    return names


def _by_name(state: Params, params: Params) -> dict[str, str]:
    """The same names, or with a prefix that all of them have; empty where they are others."""
    first = next(iter(params))
    prefixes = [key.removesuffix(first) for key in state if key == first or key.endswith(f".{first}")]
    for prefix in prefixes:
        if all(f"{prefix}{own}" in state for own in list(params)[:-2]):
            return {own: f"{prefix}{own}" for own in params if f"{prefix}{own}" in state}
    return {}


def _in_order(state: Params, params: Params) -> dict[str, str]:
    """Matrices and biases of an mlp by their order; empty where it is none."""
    matrices, biases = _layers(state)
    own = list(params)
    if len(own) != 2 * len(matrices) or len(matrices) != len(biases):
        return {}
    return dict(zip(own, itertools.chain(*zip(matrices, biases, strict=True)), strict=True))


def _layers(state: Params) -> tuple[list[str], list[str]]:
    """Names of matrices and of vectors in natural order; both empty where there is anything else."""
    ordered = sorted((key for key in state if state[key].is_floating_point()), key=_natural)
    if any(state[key].dim() not in (1, 2) for key in ordered):
        return [], []
    return [k for k in ordered if state[k].dim() == 2], [k for k in ordered if state[k].dim() == 1]


def _natural(name: str) -> list[tuple[int, str]]:
    """Numbers in names count as numbers: `layer10` comes after `layer9`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _mlp_settings(state: Params) -> JsonObject:
    matrices, biases = _layers(state)
    pairs = list(zip((state[k] for k in matrices), (state[k] for k in biases), strict=False))
    chain = all(w.shape[0] == len(b) for w, b in pairs) and all(
        one.shape[0] == two.shape[1] for (one, _), (two, _) in itertools.pairwise(pairs)
    )
    if not pairs or len(matrices) != len(biases) or not chain:
        raise ModelFileError(
            "the weights are not those of an mlp (a matrix and a bias a layer, each as wide as the next one takes): "
            f"they are {_listed(state)}; pass the module itself from Python"
        )
    widths = [pairs[0][0].shape[1], *(weight.shape[0] for weight, _ in pairs)]
    return {"n_in": widths[0], "hidden": widths[1:-1], "n_out": widths[-1]}


def _conv4_settings(state: Params) -> JsonObject:
    kernels = sorted((key for key, value in state.items() if value.dim() == 4), key=_natural)
    matrices = [value for value in state.values() if value.dim() == 2]
    if len(kernels) != 4 or len(matrices) != 1 or tuple(state[kernels[0]].shape[2:]) != (3, 3):
        raise ModelFileError(
            "the weights are not those of a conv4 (four convolutions of 3 x 3, a linear layer): they are "
            f"{_listed(state)}; pass the module itself from Python"
        )
    first: Tensor = state[kernels[0]]
    width, channels = first.shape[:2]
    # with max-pooling a block has one layer more, which the numbers in the names tell
    numbers = [int(part) for part in re.findall(r"\d+", kernels[1])[-1:]]
    pool = "max" if numbers == [4] else "stride"
    side = round((matrices[0].shape[1] / width) ** 0.5)
    return {
        "channels": channels, "n_out": matrices[0].shape[0], "width": width, "pool": pool, "size": 16 * side,
    }  # fmt: skip


def _listed(state: Params) -> str:
    shown = [f"{name} {tuple(value.shape)}" for name, value in list(state.items())[:6]]
    return ", ".join(shown) + (f" and {len(state) - 6} more" if len(state) > 6 else "")


def begun(meta: Params, path: Path) -> tuple[Params, list[str]]:
    """Meta-parameters that begin with trained weights.

    Arguments:
        meta: initial meta-parameters; what an algorithm learns beside the module (`inner/...`) stays as it is.
        path: a safetensors file, or a model directory.

    Returns:
        The meta-parameters, and the names of those of the last layer that have another shape there.

    Raises:
        ModelFileError: the weights are not those of this model.
        ResourceError: the directory cannot be read.
    """
    own = {name: value for name, value in meta.items() if "/" not in name and not name.endswith(_STATISTICS)}
    if not own:
        raise UsageError(
            "this algorithm trains no network, so there is nothing that could start from weights"
        )
    state = _tensors_of(path) if path.is_dir() else read_state_dict(path)
    names = fitted(state, own, but_head=True)
    start = {name: state[key].to(meta[name].dtype) for name, key in names.items()}
    return {**meta, **start}, [name for name in own if name not in names]


def _tensors_of(directory: Path) -> Params:
    """The parameters in a model directory, verified; whatever module they belong to."""
    found = read_tensors(read_sealed(directory))
    return {name: value for name, value in found.items() if "/" not in name}
