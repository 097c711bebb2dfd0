"""The networks of encoders against torch's own layers, and against the packages that their weights come from."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from innerloop.encoders import use
from innerloop.encoders.efficientnet_lite import efficientnet_lite
from innerloop.encoders.minilm import transformer
from innerloop.errors import UsageError


class Same(nn.Module):
    """A convolution and its batch normalisation, padded as TensorFlow pads."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride = self.convolution.kernel_size[0], self.convolution.stride[0]
        missing = max((math.ceil(x.shape[-1] / stride) - 1) * stride + kernel - x.shape[-1], 0)
        before, behind = missing // 2, missing - missing // 2
        return self.norm(self.convolution(nn.functional.pad(x, (before, behind, before, behind))))


# kernel, stride, times as wide inside, channels out, blocks: the table of the paper's first network
STAGES = [
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
]  # fmt: skip


def blocks() -> Iterator[tuple[int, int, int, int, int]]:
    """Channels in, channels inside, channels out, kernel and stride of each block."""
    inputs = 32
    for kernel, stride, times, outputs, repeats in STAGES:
        for number in range(repeats):
            yield inputs, inputs * times, outputs, kernel, stride if number == 0 else 1
            inputs = outputs


def drawn(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            positive = name.endswith("running_var") or (name.endswith("weight") and value.dim() == 1)
            noise = torch.rand(value.shape, generator=generator) + 0.5
            size = 1 if value.dim() < 4 else (2 / value[0].numel()) ** 0.5
            value.copy_(noise if positive else torch.randn(value.shape, generator=generator) * size)
    return module.eval()


def test_efficientnet_lite_is_the_network_of_its_table() -> None:
    stem, head = drawn(Same(3, 32, 3, 2)), drawn(Same(320, 1280, 1))
    state = named("_conv_stem", "_bn0", stem) | named("_conv_head", "_bn1", head)
    parts = []
    for number, (inputs, inside, outputs, kernel, stride) in enumerate(blocks()):
        expand = drawn(Same(inputs, inside, 1)) if inside != inputs else None
        depthwise, project = (
            drawn(Same(inside, inside, kernel, stride, inside)),
            drawn(Same(inside, outputs, 1)),
        )
        prefix = f"_blocks.{number}."
        if expand is not None:
            state |= named(f"{prefix}_expand_conv", f"{prefix}_bn0", expand)
        state |= named(f"{prefix}_depthwise_conv", f"{prefix}_bn1", depthwise)
        state |= named(f"{prefix}_project_conv", f"{prefix}_bn2", project)
        parts.append((expand, depthwise, project))
    # an odd side is padded on both sides, an even one behind
    pictures = torch.randint(0, 256, (2, 3, 37, 37), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        x = torch.clamp(stem((pictures.float() - 127) / 128), 0, 6)
        for expand, depthwise, project in parts:
            inner = x if expand is None else torch.clamp(expand(x), 0, 6)
            out = project(torch.clamp(depthwise(inner), 0, 6))
            x = out + x if out.shape == x.shape else out
        expected = torch.clamp(head(x), 0, 6).mean((2, 3))
        found = efficientnet_lite(state)(pictures)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def named(convolution: str, norm: str, part: nn.Module) -> dict[str, torch.Tensor]:
    values = {f"{norm}.{name}": value for name, value in part.norm.state_dict().items()}
    return {f"{convolution}.weight": part.convolution.weight.detach(), **values}


def test_the_transformer_is_that_of_torch() -> None:
    width, heads, words, eps = 12, 3, 20, 1e-12
    layers = [
        nn.TransformerEncoderLayer(width, heads, 24, 0.0, "gelu", layer_norm_eps=eps, batch_first=True).eval()
        for _ in range(2)
    ]
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"embeddings.{name}_embeddings.weight": torch.randn(count, width, generator=generator)
        for name, count in (("word", words), ("token_type", 2), ("position", 9))
    }
    norm = nn.LayerNorm(width, eps)
    weights |= {f"embeddings.LayerNorm.{name}": value for name, value in norm.state_dict().items()}
    for number, layer in enumerate(layers):
        weights |= bert_names(f"encoder.layer.{number}", layer, width)
    ids = torch.randint(0, words, (3, 7), generator=generator)
    inside = torch.arange(7) < torch.tensor([[7], [4], [1]])
    tables = [weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "token_type", "position")]
    with torch.no_grad():
        x = norm(tables[0][ids] + tables[1][0] + tables[2][:7])
        for layer in layers:
            x = layer(x, src_key_padding_mask=~inside)
        found = transformer(weights, ids, inside, heads=heads, eps=eps)
    torch.testing.assert_close(found[inside], x[inside], rtol=1e-4, atol=1e-5)


def bert_names(prefix: str, layer: nn.TransformerEncoderLayer, width: int) -> dict[str, torch.Tensor]:
    attention = layer.self_attn
    parts = {
        f"attention.self.{name}.{kind}": value
        for kind, whole in (("weight", attention.in_proj_weight), ("bias", attention.in_proj_bias))
        for name, value in zip(("query", "key", "value"), whole.detach().split(width), strict=True)
    }
    for name, module in (
        ("attention.output.dense", attention.out_proj),
        ("attention.output.LayerNorm", layer.norm1),
        ("intermediate.dense", layer.linear1),
        ("output.dense", layer.linear2),
        ("output.LayerNorm", layer.norm2),
    ):
        parts |= {f"{name}.{kind}": value.detach() for kind, value in module.state_dict().items()}
    return {f"{prefix}.{name}": value for name, value in parts.items()}


def installed(name: str):
    try:
        return use(name)
    except UsageError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite2"])
def test_published_weights_give_the_features_of_the_published_network(name: str) -> None:
    published = pytest.importorskip("efficientnet_lite_pytorch")
    encoder = installed(name)
    from innerloop.encoders.built_in import folder_of
    from innerloop.encoders.torch_file import read_state_dict

    network = published.EfficientNet.from_name(name).eval()
    network.load_state_dict(read_state_dict(next(folder_of(name).glob("*.pth"))))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, encoder.side, encoder.side), np.uint8)
    with torch.no_grad():
        rows = network.extract_features((torch.from_numpy(pictures).float() - 127) / 128).mean((2, 3)).numpy()
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True) * np.sqrt(rows.shape[1])
    np.testing.assert_allclose(encoder(pictures), expected, atol=1e-3)


def test_wordllama_is_the_mean_of_the_vectors_of_the_tokens() -> None:
    import safetensors.numpy

    encoder = installed("wordllama")
    from tokenizers import Tokenizer

    from innerloop.encoders.built_in import folder_of

    folder: Path = folder_of("wordllama")
    table = safetensors.numpy.load_file(folder / "weights" / "l2_supercat_256.safetensors")[
        "embedding.weight"
    ]
    tokens = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    for text in ("My card has not come yet.", "two words"):
        ids = tokens.encode(text, add_special_tokens=False).ids
        mean = sum(table[number].astype(np.float64) for number in ids) / len(ids)
        np.testing.assert_allclose(encoder([text])[0], mean / np.linalg.norm(mean) * 16, rtol=1e-4, atol=1e-5)
    assert not encoder([""]).any()


def test_minilm_knows_what_means_the_same() -> None:
    encoder = installed("minilm")
    rows = encoder(["My card has not come yet.", "I still wait for my credit card.", "How do bees fly?"])
    like = rows @ rows.T / rows.shape[1]
    assert like[0, 1] > like[0, 2] + 0.3
    # what else is in the batch, and how long it is, changes nothing
    np.testing.assert_allclose(encoder(["How do bees fly?"])[0], rows[2], atol=1e-4)
