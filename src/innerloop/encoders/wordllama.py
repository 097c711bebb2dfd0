"""WordLlama: the mean of a vector a token, 256 numbers, from the token vectors of large language models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .texts import tokenizer

__all__ = ["wordllama"]


def wordllama(folder: Path) -> Callable[[Sequence[str]], np.ndarray]:
    """The encoder of the package `wordllama`, from its files alone.

    Arguments:
        folder: of the package.

    Returns:
        A function from texts to features `(n, 256)`; a text without a token has zeros.
    """
    import safetensors.numpy

    tensors = safetensors.numpy.load_file(folder / "weights" / "l2_supercat_256.safetensors")
    vectors = tensors["embedding.weight"].astype(np.float32)
    tokens = tokenizer(folder / "tokenizers" / "l2_supercat_tokenizer_config.json")

    def features(texts: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(texts), vectors.shape[1]), np.float32)
        encoded = tokens.encode_batch(list(texts), add_special_tokens=False)
        for row, each in enumerate(encoded):
            if each.ids:
                out[row] = vectors[np.minimum(each.ids, len(vectors) - 1)].mean(0)
        return out

    return features
