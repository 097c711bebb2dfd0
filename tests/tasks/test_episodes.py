"""Stacking: rows and masks of tasks of any size, found again as they were."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from innerloop.errors import DataError
from innerloop.tasks.episodes import Batch, Episode, map_tensors, select, stack, tensors, to, unsqueeze

sizes = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=6)


def batch(rows, seed, *, tree=False):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=generator)
    features = {"image": x[:, None, :], "parts": (x[:, 0], x[:, 1:])} if tree else x
    return Batch(features, torch.randn(rows, 2, generator=generator))


@given(sizes, st.booleans())
def test_every_row_is_found_again_and_the_rest_weighs_nothing(counts, tree):
    episodes = [
        Episode(batch(support, 2 * n, tree=tree), batch(query, 2 * n + 1, tree=tree))
        for n, (support, query) in enumerate(counts)
    ]
    stacked = stack(episodes)
    assert stacked.n_tasks == len(episodes)
    for part in (0, 1):
        whole, singles = stacked[part], [episode[part] for episode in episodes]
        longest = max(single.rows for single in singles)
        assert whole.y.shape == (len(episodes), longest, 2)
        if whole.weight is None:
            assert {single.rows for single in singles} == {longest}
        else:
            assert whole.weight.shape == (len(episodes), longest)
            assert whole.weight.sum(1).tolist() == [single.rows for single in singles]
        values = list(tensors((whole.x, whole.y)))
        for task, single in enumerate(singles):
            for value, mine in zip(values, tensors((single.x, single.y)), strict=True):
                assert torch.equal(value[task, : single.rows], mine)
                assert not value[task, single.rows :].any()
            if whole.weight is not None:
                assert whole.weight[task].tolist() == [1.0] * single.rows + [0.0] * (longest - single.rows)


def test_weights_that_are_given_stay():
    weighted = batch(2, 0)._replace(weight=torch.tensor([1.0, 0.5]))
    stacked = stack([Episode(weighted, batch(1, 1)), Episode(batch(3, 2), batch(1, 3))])
    assert stacked.support.weight.tolist() == [[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]]
    assert stacked.query.weight is None


def test_class_numbers_stay_whole_numbers():
    one = Batch(torch.ones(1, 2), torch.tensor([1]))
    two = Batch(torch.ones(2, 2), torch.tensor([0, 2]))
    assert stack([Episode(one, one), Episode(two, one)]).support.y.dtype == torch.int64


def test_select_to_and_unsqueeze():
    stacked = stack([Episode(batch(2, n), batch(2, n + 9)) for n in range(3)])
    chosen = select(stacked, torch.tensor([True, False, True]))
    assert torch.equal(chosen.query.y, stacked.query.y[[0, 2]])
    moved = to(
        Episode(*stacked)._replace(query=stacked.query._replace(y=torch.zeros(3, 2).long())),
        "cpu",
        torch.float64,
    )
    assert moved.support.x.dtype == torch.float64
    assert moved.query.y.dtype == torch.int64
    assert unsqueeze(batch(4, 0)).x.shape == (1, 4, 3)


def test_what_cannot_be_stacked_is_refused():
    with pytest.raises(DataError, match="no episode"):
        stack([])
    wide = Batch(torch.ones(2, 5), torch.ones(2, 2))
    with pytest.raises(DataError, match="different feature or target shapes"):
        stack([Episode(batch(2, 0), batch(2, 0)), Episode(wide, batch(2, 0))])
    with pytest.raises(DataError, match="not str"):
        map_tensors(lambda t: t, {"x": "text"})
