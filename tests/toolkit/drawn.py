"""Tasks without end of both kinds, for the algorithms of `cases`: every episode is drawn anew."""

import torch

from innerloop.tasks.episodes import Batch, Episode
from innerloop.tasks.sources import FunctionSource, SupportSize, Targets


def drawn_regression(count, generator):
    x = torch.randn(count, 12, 2, generator=generator)
    slope = torch.randn(count, 1, 2, generator=generator)
    y = (x * slope).sum(-1, keepdim=True)
    return Episode(Batch(x[:, :5], y[:, :5]), Batch(x[:, 5:], y[:, 5:]))


def drawn_classes(count, generator):
    y = torch.arange(3).repeat(4).expand(count, 12).contiguous()
    center = torch.randn(count, 3, 4, generator=generator)
    x = center.gather(1, y[..., None].expand(-1, -1, 4)) + torch.randn(count, 12, 4, generator=generator)
    return Episode(Batch(x[:, :6], y[:, :6]), Batch(x[:, 6:], y[:, 6:]))


SOURCES = {
    "regression": FunctionSource(drawn_regression, Targets("regression", 1), SupportSize(5, 5), episodes=20),
    "classification": FunctionSource(
        drawn_classes, Targets("classification", 3), SupportSize(6, 6), episodes=20
    ),
}
