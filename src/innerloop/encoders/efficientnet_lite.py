"""EfficientNet-Lite, a small convolutional network trained on ImageNet, as a function from pictures to features.

Tan & Le, 2019, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*; the Lite networks are those
of its authors for phones: no squeeze-and-excitation, ReLU6 in place of swish.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["efficientnet_lite"]

# of the batch normalisation of the published weights
_EPS = 1e-3
_DEPTHWISE = re.compile(r"_blocks\.(\d+)\._depthwise_conv\.weight")
# of the first block of each of the seven stages, and blocks of each stage by their total (lite0 and lite2)
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_REPEATS = {16: (1, 2, 2, 3, 3, 4, 1), 21: (1, 3, 3, 4, 4, 5, 1)}


class _Convolution(NamedTuple):
    """A convolution with the batch normalisation behind it in its weights."""

    weight: Tensor
    bias: Tensor
    stride: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        """Padded as TensorFlow pads, the larger half behind."""
        kernel, groups = self.weight.shape[-1], x.shape[1] // self.weight.shape[1]
        if kernel > 1:
            missing = [
                (math.ceil(size / self.stride) - 1) * self.stride + kernel - size for size in x.shape[2:]
            ]
            height, width = (max(each, 0) for each in missing)
            x = functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return functional.conv2d(x, self.weight, self.bias, self.stride, groups=groups)


class _Block(NamedTuple):
    """An inverted bottleneck: wider (but in the first block), a filter a channel, narrower again."""

    expand: _Convolution | None
    depthwise: _Convolution
    project: _Convolution

    def __call__(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else _relu6(self.expand(x))
        out = self.project(_relu6(self.depthwise(inner)))
        return out + x if self.depthwise.stride == 1 and out.shape == x.shape else out


def efficientnet_lite(state: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """The network without its last layer, with trained weights.

    Arguments:
        state: the weights by their names in `efficientnet_lite_pytorch`.

    Returns:
        A function from pictures `(n, 3, side, side)`, bytes, to the mean of the last 1280 channels over the picture.

    Raises:
        KeyError: the weights are those of another network.
    """
    count = 1 + max(int(found[1]) for name in state if (found := _DEPTHWISE.fullmatch(name)))
    strides = [
        stride if number == 0 else 1
        for stride, repeats in zip(_STRIDES, _REPEATS[count], strict=True)
        for number in range(repeats)
    ]
    stem = _folded(state, "_conv_stem", "_bn0", 2)
    blocks = [_block(state, f"_blocks.{number}.", stride) for number, stride in enumerate(strides)]
    head = _folded(state, "_conv_head", "_bn1")

    def features(pictures: Tensor) -> Tensor:
        # with the channels last, filters of one channel each take half the time
        x = ((pictures.float() - 127) / 128).contiguous(memory_format=torch.channels_last)
        x = _relu6(stem(x))
        for block in blocks:
            x = block(x)
        return _relu6(head(x)).mean((2, 3))

    return features


def _relu6(x: Tensor) -> Tensor:
    return functional.relu6(x, inplace=True)


def _block(state: Mapping[str, Tensor], prefix: str, stride: int) -> _Block:
    wider = f"{prefix}_expand_conv.weight" in state
    return _Block(
        _folded(state, f"{prefix}_expand_conv", f"{prefix}_bn0") if wider else None,
        _folded(state, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride),
        _folded(state, f"{prefix}_project_conv", f"{prefix}_bn2"),
    )


def _folded(state: Mapping[str, Tensor], convolution: str, norm: str, stride: int = 1) -> _Convolution:
    """A convolution and its batch normalisation as one: w s and b - m s, with s = g / sqrt(v + eps)."""
    weight, mean = state[f"{convolution}.weight"].double(), state[f"{norm}.running_mean"].double()
    scale = state[f"{norm}.weight"].double() / (state[f"{norm}.running_var"].double() + _EPS).sqrt()
    bias = state[f"{norm}.bias"].double() - mean * scale
    return _Convolution((weight * scale[:, None, None, None]).float(), bias.float(), stride)
