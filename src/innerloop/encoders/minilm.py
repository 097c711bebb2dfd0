"""MiniLM: a small transformer for sentences, all-MiniLM-L6-v2 of Sentence Transformers.

Wang et al., 2020, *MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers*;
Reimers & Gurevych, 2019, *Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks*.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..files import read_bytes
from .texts import tokenizer

__all__ = ["minilm", "transformer"]

# tokens of a text that count, the first and last mark among them: what the model was trained with
_LONGEST = 256


def minilm(folder: Path) -> Callable[[Sequence[str]], np.ndarray]:
    """The encoder of a folder with the files of the model.

    Arguments:
        folder: holds `config.json`, `model.safetensors` and `tokenizer.json`.

    Returns:
        A function from texts to features `(n, 384)`: the mean of the last layer over the first 256 tokens.
    """
    import safetensors.torch

    config = json.loads(read_bytes(folder / "config.json"))
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    tokens = tokenizer(folder / "tokenizer.json")
    tokens.enable_truncation(_LONGEST)
    heads, eps = int(config["num_attention_heads"]), float(config["layer_norm_eps"])

    def features(texts: Sequence[str]) -> np.ndarray:
        encoded = [each.ids for each in tokens.encode_batch(list(texts))]
        ids = torch.zeros(len(encoded), max(map(len, encoded)), dtype=torch.int64, device="cpu")
        inside = torch.zeros(ids.shape, dtype=torch.bool, device="cpu")
        for row, each in enumerate(encoded):
            ids[row, : len(each)], inside[row, : len(each)] = torch.tensor(each, device="cpu"), True
        hidden = transformer(weights, ids, inside, heads=heads, eps=eps)
        counts = inside.unsqueeze(-1)
        out: np.ndarray = ((hidden * counts).sum(1) / counts.sum(1)).numpy()
        return out

    return features


def transformer(
    weights: Mapping[str, Tensor], ids: Tensor, inside: Tensor, *, heads: int, eps: float
) -> Tensor:
    """The last layer of BERT for each token.

    Arguments:
        weights: by their names in Hugging Face's `BertModel`.
        ids: tokens `(n, length)`.
        inside: where a token is none of the padding `(n, length)`, bool.
        heads: of the attention.
        eps: of the normalisation of layers.

    Returns:
        Features `(n, length, width)`.
    """

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def normal(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    def attention(prefix: str, x: Tensor) -> Tensor:
        query, key, value = (
            linear(f"{prefix}.self.{part}", x).reshape(*x.shape[:2], heads, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, inside[:, None, None])
        return linear(f"{prefix}.output.dense", mixed.transpose(1, 2).flatten(2))

    words, kinds, places = (
        weights[f"embeddings.{part}_embeddings.weight"] for part in ("word", "token_type", "position")
    )
    x = normal("embeddings.LayerNorm", words[ids] + kinds[0] + places[: ids.shape[1]])
    layer = 0
    while (prefix := f"encoder.layer.{layer}") + ".output.dense.weight" in weights:
        x = normal(f"{prefix}.attention.output.LayerNorm", x + attention(f"{prefix}.attention", x))
        inner = functional.gelu(linear(f"{prefix}.intermediate.dense", x))
        x = normal(f"{prefix}.output.LayerNorm", x + linear(f"{prefix}.output.dense", inner))
        layer += 1
    return x
