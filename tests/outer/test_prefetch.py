"""Blocks of updates hold what each update would draw by itself."""

import numpy as np
import pytest
import torch

from innerloop.outer.prefetch import blocks_of, task_keys
from innerloop.tasks.episodes import Batch, Episode, bucketed, tensors
from innerloop.tasks.row_source import RowSource
from innerloop.tasks.sources import ClassSource, FunctionSource, stream
from innerloop.tasks.support import SupportSize, Targets

CPU = torch.device("cpu")


def rows_of_tasks(sizes, *, fewest=1, most=4, own_classes=False):
    starts = np.concatenate([[0], np.cumsum(sizes)])
    y = torch.arange(starts[-1]) % 3
    names = tuple(map(str, sizes))
    size, targets = SupportSize(fewest, most), Targets("classification", 3)
    x = torch.arange(float(starts[-1]))[:, None]
    return RowSource(x, y, starts, names, size, targets, n_query=6, own_classes=own_classes)


def drawn_by_hand(count, generator):
    x = torch.rand(count, 4, 1, generator=generator)
    return Episode(Batch(x, x), Batch(x, x))


SOURCES = {
    "equal tasks": rows_of_tasks([12] * 9),
    "tasks of all sizes": rows_of_tasks([2, 3, 5, 8, 13, 21]),
    "no support": rows_of_tasks([5] * 9, fewest=0, most=0),
    "classes of their own": rows_of_tasks([7] * 9, own_classes=True),
    "images": ClassSource(
        torch.randint(256, (60, 1, 4, 4), dtype=torch.uint8), np.arange(60).reshape(12, 5), 3, SupportSize(1, 2), 2
    ),
    "a function": FunctionSource(drawn_by_hand, Targets("regression", 1), SupportSize(4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("name", SOURCES)
def test_a_block_holds_what_each_update_draws(name, rounded):
    source, steps, found = SOURCES[name], 70, 0
    widths = source.widths if isinstance(source, RowSource) else (None, None)
    for block in blocks_of(source, 5, 3, steps, 50, CPU, torch.float32, rounded=rounded):
        assert block.first == found
        for number in range(len(block.key)):
            generator = stream(3, 0, found)
            alone = source.sample(5, generator)
            alone = bucketed(alone, widths) if rounded else alone
            one = block.at(number)
            assert one.first == found
            pairs = zip(tensors(one.episode), tensors(alone), strict=True)
            assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
            assert torch.equal(one.key, task_keys(5, generator))
            found += 1
        assert not block.first < 50 < found  # a block ends there
    assert found == steps


@pytest.mark.parametrize("fewest", [0, 4])
@pytest.mark.parametrize("sizes", [[9, 11, 13, 9, 10, 12, 9], [5] * 9, [3, 5, 40, 200]])
def test_widths_are_those_of_the_rows_that_are_drawn(sizes, fewest):
    source = rows_of_tasks(sizes, fewest=fewest)
    drawn = [source.sample(1, stream(0, step)) for step in range(300)]
    for side, width in enumerate(source.widths):
        rows = [episode[side].target.shape[1] for episode in drawn]
        assert (width.least, width.most) == (min(rows), max(rows))


def test_a_training_on_tasks_of_about_one_size_has_one_shape():
    source = rows_of_tasks([9, 11, 13, 9, 10, 12, 9], fewest=3)

    def shapes(rounded):
        drawn = blocks_of(source, 2, 3, 200, 50, CPU, torch.float32, rounded=rounded)
        return {
            tuple(None if t is None else t.shape[1:] for b in block.episode for t in b) for block in drawn
        }

    assert len(shapes(rounded=True)) == 1
    assert len(shapes(rounded=False)) > 4
