"""Trained weights from plain state dicts, and back under their own names and types."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from innerloop import models
from innerloop.errors import ModelFileError, UsageError
from innerloop.storage.state_dicts import built, fitted, read_state_dict, write_state_dict


class Tutorial(nn.Module):
    """The net of many tutorials."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3), nn.Sigmoid())

    def forward(self, x):
        return self.layers(x)


class ByHand(nn.Module):
    """Parameters with names of their own; two layers of equal width."""

    def __init__(self):
        super().__init__()
        for number, (rows, columns) in enumerate([(6, 5), (6, 6), (2, 6)], 9):
            setattr(self, f"w{number}", nn.Parameter(torch.randn(rows, columns)))
            setattr(self, f"b{number}", nn.Parameter(torch.randn(rows)))

    def forward(self, x):
        for number in (9, 10):
            x = torch.tanh(x @ getattr(self, f"w{number}").T + getattr(self, f"b{number}"))
        return x @ self.w11.T + self.b11


@pytest.mark.parametrize(
    ("make", "settings"),
    [(Tutorial, {"activation": "relu", "output": "sigmoid"}), (ByHand, {"activation": "tanh"})],
)
def test_an_mlp_is_found_again_from_its_shapes(make, settings, tmp_path):
    torch.manual_seed(0)
    net, x = make(), torch.randn(4, 5)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    found = built("mlp", read_state_dict(tmp_path / "net.safetensors"), **settings)
    assert torch.allclose(found.module(x), net(x), atol=1e-6)
    back = found.give_back({name: value + 1 for name, value in found.module.named_parameters()})
    assert {*back} == {*net.state_dict()}
    assert all(torch.equal(back[name], value + 1) for name, value in net.state_dict().items())


@pytest.mark.parametrize("pool", ["stride", "max"])
@pytest.mark.parametrize("tracked", [False, True])
def test_a_conv4_is_found_again_with_its_statistics(pool, tracked):
    torch.manual_seed(0)
    net = models.conv4(1, 3, size=20, width=4, pool=pool)
    for number, layer in enumerate(net):
        if tracked and isinstance(layer, nn.BatchNorm2d):
            net[number] = nn.BatchNorm2d(layer.num_features)
    net(torch.rand(8, 1, 20, 20))
    state = {f"body.{name}": value for name, value in net.state_dict().items()}
    found = built("conv4", state, size=20)
    assert all(
        torch.equal(value, net.state_dict()[name]) for name, value in found.module.state_dict().items()
    )
    assert len(found.statistics) == (8 if tracked else 0)
    if tracked:
        assert torch.equal(found.statistics["1.running_var"], net[1].running_var)
    back = found.give_back({name: value + 1 for name, value in found.module.named_parameters()})
    assert {name: value.dtype for name, value in back.items()} == {n: v.dtype for n, v in state.items()}
    assert not torch.equal(back["body.0.weight"], state["body.0.weight"])


def test_files_that_are_no_weights_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="save_model"):
        read_state_dict(tmp_path / "model.pt")
    (tmp_path / "odd.safetensors").write_bytes(b"no")
    with pytest.raises(ModelFileError, match="no safetensors file"):
        read_state_dict(tmp_path / "odd.safetensors")
    with pytest.raises(ModelFileError, match="no such file"):
        read_state_dict(tmp_path / "absent.safetensors")
    save_file({"w": torch.tensor([float("nan")])}, tmp_path / "nan.safetensors")
    with pytest.raises(ModelFileError, match="'w' holds NaN"):
        read_state_dict(tmp_path / "nan.safetensors")
    write_state_dict(tmp_path / "good.safetensors", {"w": torch.ones(2).half()})
    assert read_state_dict(tmp_path / "good.safetensors")["w"].dtype == torch.float16


def test_weights_of_another_model_are_refused():
    state = models.mlp(4, [3], 2).state_dict()
    with pytest.raises(UsageError, match="--activation"):
        built("mlp", state)
    with pytest.raises(UsageError, match="'resnet' is unknown"):
        built("resnet", state)
    with pytest.raises(ModelFileError, match="not those of a conv4"):
        built("conv4", state)
    with pytest.raises(ModelFileError, match="not those of an mlp"):
        built("mlp", models.conv4(1, 2).state_dict(), activation="relu")
    with pytest.raises(ModelFileError, match=r"'2\.weight' of shape"):
        fitted(state, dict(models.mlp(4, [3], 5).named_parameters()))
    with pytest.raises(ModelFileError, match=r"'0\.weight'"):
        fitted(state, dict(models.mlp(5, [3], 2).named_parameters()), but_head=True)
    found = fitted(state, dict(models.mlp(4, [3], 5).named_parameters()), but_head=True)
    assert found == {"0.weight": "0.weight", "0.bias": "0.bias"}
