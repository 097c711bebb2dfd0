"""What augmentations and compositions must keep: classes turned as one, labels, padding, and evaluation."""

import numpy as np
import pytest
import torch
from torch import nn

from innerloop import tasks as il_tasks
from innerloop.algorithms import maml
from innerloop.errors import UsageError
from innerloop.tasks.augment import (
    AUGMENTATIONS,
    augmented,
    chain,
    crop,
    flip,
    mix,
    named,
    noise,
    permute,
    rotate,
)
from innerloop.tasks.compose import COMPOSITIONS, composed
from innerloop.tasks.episodes import Batch, Episode, select, stack
from innerloop.tasks.sources import RowSource, SupportSize, Targets, stream
from toolkit.oracles import doubled, largest_error

IMAGES = ("rotate", "flip", "crop", "mix", "permute")


def pictures(n_classes=12, rows=8, side=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n_classes * rows, 2, side, side, generator=generator) + 0.5
    return x, np.arange(n_classes * rows) // rows


def n_way():
    x, label = pictures()
    return il_tasks.classes(x, label, n_way=4, n_shot=2, n_query=3, split=(0.5, 0.25, 0.25)).train


def ragged():
    """Images and vectors with padding in support and query alike."""
    generator = torch.Generator().manual_seed(1)

    def batch(rows, y):
        return Batch(torch.rand(rows, 1, 8, 8, generator=generator) + 0.5, y)

    sizes = [(3, 5), (6, 2), (4, 4), (1, 6)]
    return stack(
        [Episode(*(batch(n, torch.randint(3, (n,), generator=generator)) for n in size)) for size in sizes]
    )


def numbers(sizes=((3, 5), (6, 2), (4, 4))):
    generator = torch.Generator().manual_seed(2)
    return stack(
        [
            Episode(
                *(
                    Batch(
                        torch.randn(n, 2, generator=generator, dtype=torch.float64),
                        torch.randn(n, 1, generator=generator, dtype=torch.float64),
                    )
                    for n in size
                )
            )
            for size in sizes
        ]
    )


def tensors_of(episode):
    return [t for batch in episode for t in (batch.x, batch.y)]


# all of them


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_equal_generators_give_equal_episodes_and_the_input_stays(name):
    episode = numbers() if name == "noise" else ragged()
    kept = [t.clone() for t in tensors_of(episode)]
    one, same = (AUGMENTATIONS[name](episode, stream(3)) for _ in range(2))
    others = [AUGMENTATIONS[name](episode, stream(seed)) for seed in range(4, 9)]
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(one), tensors_of(same), strict=True))
    assert any(
        not torch.equal(a, b) for o in others for a, b in zip(tensors_of(one), tensors_of(o), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(episode), kept, strict=True))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_padding_stays_padding(name):
    for episode in [numbers()] if name == "noise" else [numbers(), ragged()] if name == "mix" else [ragged()]:
        for seed in range(5):
            found = AUGMENTATIONS[name](episode, stream(seed))
            for before, after in zip(episode, found, strict=True):
                assert torch.equal(before.weight, after.weight)
                assert before.x.shape == after.x.shape
                assert before.y.shape == after.y.shape
                assert before.y.dtype == after.y.dtype
                assert (after.x[after.weight == 0] == 0).all()
                assert (after.y[after.weight == 0] == 0).all()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_what_stands_in_padding_changes_no_gradient(name):
    episode = numbers() if name == "noise" else ragged()
    junk = Episode(
        *(
            b._replace(
                x=b.x.masked_fill((b.weight == 0).reshape(*b.weight.shape, *(1,) * (b.x.dim() - 2)), 1e30)
            )
            for b in episode
        )
    )
    torch.manual_seed(0)
    if name == "noise":
        learner = maml(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)), loss="mse", inner_lr=0.1)
    else:
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))
        learner = maml(module, loss="cross_entropy", inner_lr=0.1)
    meta = doubled(learner.init())
    clean, dirty = (
        learner.metagrad(
            learner,
            meta,
            Episode(
                *(Batch(b.x.double(), b.y.double() if name == "noise" else b.y, b.weight.double()) for b in e)
            ),
            0,
            None,
        )[0]
        for e in (AUGMENTATIONS[name](episode, stream(0)), AUGMENTATIONS[name](junk, stream(0)))
    )
    assert largest_error(dirty, clean) < 1e-12


# images


def test_a_class_is_rotated_as_one_and_each_by_its_own_angle():
    source = n_way()
    angles, differ = set(), 0
    for seed in range(12):
        episode = source.sample(3, stream(seed))
        turned = rotate(episode, stream(100 + seed))
        for task in range(3):
            found = []
            for number in range(4):
                turns = set()
                for before, after in zip(episode, turned, strict=True):
                    assert torch.equal(before.y, after.y)
                    rows = before.y[task] == number
                    for old, new in zip(before.x[task, rows], after.x[task, rows], strict=True):
                        (turn,) = [k for k in range(4) if torch.equal(old.rot90(k, (-2, -1)), new)]
                        turns.add(turn)
                assert len(turns) == 1, "support and query of a class are turned alike"
                found += turns
            angles |= set(found)
            differ += len(set(found)) > 1
    assert angles == {0, 1, 2, 3}
    assert differ > 30, "classes of a task have angles of their own"


def test_a_class_is_mirrored_as_one():
    episode = n_way().sample(5, stream(0))
    turned = flip(episode, stream(1))
    found = set()
    for task in range(5):
        for number in range(4):
            mirrored = {
                torch.equal(old.flip(-1), new)
                for before, after in zip(episode, turned, strict=True)
                for old, new in zip(
                    before.x[task, before.y[task] == number],
                    after.x[task, after.y[task] == number],
                    strict=True,
                )
            }
            assert len(mirrored) == 1
            found |= mirrored
    assert found == {True, False}


def test_an_image_is_shifted_and_what_comes_in_is_zero():
    image = torch.arange(1.0, 257).reshape(1, 1, 1, 16, 16)
    label = torch.zeros(1, 1, dtype=torch.int64)
    seen = set()
    for seed in range(200):
        found = crop(Episode(Batch(image, label), Batch(image, label)), stream(seed)).query.x[0, 0, 0]
        down, right = next(
            (d, r)
            for d in range(-2, 3)
            for r in range(-2, 3)
            if torch.equal(found, shifted(image[0, 0, 0], d, r))
        )
        seen.add((down, right))
    assert len(seen) == 25


def shifted(image, down, right):
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    return padded[2 + down : 18 + down, 2 + right : 18 + right]


def test_what_is_no_image_or_class_is_refused():
    with pytest.raises(UsageError, match="rotate acts on classes"):
        rotate(numbers(), stream(0))
    episode = Episode(*(Batch(b.x.flatten(2), b.y, b.weight) for b in ragged()))
    for change in (rotate, flip, crop):
        with pytest.raises(UsageError, match=r"changes images .* and a row is \(64,\)"):
            change(episode, stream(0))
    wide = Episode(*(b._replace(x=b.x[..., :5]) for b in ragged()))
    with pytest.raises(UsageError, match="8 x 5"):
        rotate(wide, stream(0))
    with pytest.raises(UsageError, match="use permute"):
        noise(ragged(), stream(0))
    with pytest.raises(UsageError, match=r"'rotte' is unknown \(did you mean 'rotate'"):
        named("flip,rotte")


# labels


def test_labels_are_permuted_alike_in_support_and_query():
    episode = n_way().sample(6, stream(0))
    found = permute(episode, stream(1))
    orders = set()
    for task in range(6):
        pairs = {
            (int(a), int(b))
            for before, after in zip(episode, found, strict=True)
            for a, b in zip(before.y[task], after.y[task], strict=True)
        }
        assert len(pairs) == 4
        assert {b for _, b in pairs} == set(range(4))
        orders.add(tuple(sorted(pairs)))
    assert len(orders) > 1
    assert all(torch.equal(a.x, b.x) for a, b in zip(episode, found, strict=True))


def test_noise_is_one_offset_a_task():
    episode = numbers()
    offsets = []
    for seed in range(300):
        found = noise(episode, stream(seed))
        for task in range(3):
            rows = [
                (after.y - before.y)[task][before.weight[task] > 0]
                for before, after in zip(episode, found, strict=True)
            ]
            values = torch.cat(rows)
            assert (values - values[0]).abs().max() < 1e-12
            offsets.append(values[0].item())
    weight = episode.query.weight > 0
    spread = episode.query.y[weight].var(unbiased=False).sqrt().item()
    assert np.mean(offsets) == pytest.approx(0, abs=4 * spread / 30)
    assert np.std(offsets) == pytest.approx(spread, rel=0.1)


def test_noise_is_drawn_from_the_targets_that_are_known():
    """Values that are not known stay so, and the others are moved as if the row had never had them."""
    episode = numbers()

    def partly(batch: Batch) -> Batch:
        y = batch.y.repeat(1, 1, 2)
        y[:, 0, 1] = torch.nan
        return batch._replace(y=y)

    some = Episode(*(partly(batch) for batch in episode))
    found = noise(some, stream(3))
    for before, after in zip(some, found, strict=True):
        assert torch.equal(before.y.isnan(), after.y.isnan())
        moved = (after.y - before.y)[..., 1]
        for task in range(3):
            values = moved[task][(before.weight[task] > 0) & ~before.y[task, :, 1].isnan()]
            assert values.abs().min() > 0
            assert (values - values[0]).abs().max() < 1e-12


# mixing


def test_a_mixed_row_lies_between_rows_of_the_same_class():
    """Every drawing is an axis of its own, so a mixed row names its two rows and their shares."""
    shape, labels = (3, 4, 1, 6, 6), torch.tensor([0, 0, 1, 1]).repeat(3, 1)
    axes = torch.eye(36)[: 3 * 4 * 2].reshape(2, *shape)
    episode = Episode(*(Batch(x, labels) for x in axes))
    shares = torch.zeros(2, 3, 4)
    for number, (before, after) in enumerate(zip(episode, mix(episode, stream(1)), strict=True)):
        assert torch.equal(before.y, after.y)
        for task in range(3):
            for row in range(4):
                parts = after.x[task, row].flatten()
                (first, second) = torch.nonzero(parts)[:, 0].tolist()
                assert parts.sum() == pytest.approx(1)
                tasks = {(place % 12) // 4 for place in (first, second)}
                assert task in tasks
                assert len(tasks) == 2
                assert {place // 12 for place in (first, second)} == {number}, "support with support"
                assert {int(labels[0, place % 4]) for place in (first, second)} == {int(labels[0, row])}
                shares[number, task, row] = parts[number * 12 + task * 4 + row]
    assert (shares >= 0.5).all()
    assert (shares <= 1).all()
    assert (shares - shares[:1, :, :1]).abs().max() < 1e-6, "one share for all rows of a task"
    assert len(set(shares[0, :, 0].tolist())) == 3


def test_features_and_targets_of_regression_are_mixed_alike():
    episode = numbers(((3, 5), (6, 2)))
    found = mix(episode, stream(0))
    for before, after in zip(episode, found, strict=True):
        for task, other in ((0, 1), (1, 0)):
            own = torch.cat([before.x, before.y], -1)
            new = torch.cat([after.x, after.y], -1)
            partners = own[other][before.weight[other] > 0]
            for row in torch.nonzero(before.weight[task] > 0)[:, 0]:
                direction = partners - own[task, row]
                step = ((new - own)[task, row] * direction).sum(1) / direction.square().sum(1)
                error = (own[task, row] + step[:, None] * direction - new[task, row]).abs().amax(1)
                assert error.min() < 1e-12
                assert 0 <= step[error.argmin()] <= 0.5


def test_what_has_no_partner_stays():
    one = select(ragged(), slice(0, 1))
    assert mix(one, stream(0)) is one
    x = torch.rand(2, 2, 1, 4, 4)
    y = torch.tensor([[0, 0], [1, 1]])
    lonely = Episode(Batch(x, y), Batch(x, y))
    assert torch.equal(mix(lonely, stream(0)).query.x, x)


# sources


def test_only_training_draws_are_augmented():
    source = n_way()
    changed = augmented(source, rotate, crop)
    assert (changed.targets, changed.support, changed.n_tasks) == (
        source.targets,
        source.support,
        source.n_tasks,
    )
    assert not torch.equal(changed.sample(2, stream(0)).query.x, source.sample(2, stream(0)).query.x)
    for (ids, one), (other_ids, other) in zip(source.fixed(0), changed.fixed(0), strict=True):
        assert ids == other_ids
        assert all(torch.equal(a, b) for a, b in zip(tensors_of(one), tensors_of(other), strict=True))
    assert augmented(source) is source
    plain = chain(rotate, crop)(source.sample(2, generator := stream(0)), generator)
    assert torch.equal(plain.query.x, changed.sample(2, stream(0)).query.x)


def table_source(kind="regression"):
    rows = torch.arange(60.0)[:, None]
    y = rows if kind == "regression" else torch.arange(60) % 3
    ids = tuple(f"t{number}" for number in range(6))
    size = SupportSize(2, 2) if kind == "regression" else SupportSize(1, 1, True)
    return RowSource(
        rows, y, np.arange(0, 61, 10), ids, size, Targets(kind, 1 if kind == "regression" else 3), 4
    )


def visits(source, repeats=40):
    """Rows in support and query and the labels of the query, by the classes or task they belong to."""
    found = {}
    for seed in range(repeats):
        episode = source.sample(2, stream(seed))
        for task in range(2):
            support, query = (tuple(b.x[task].flatten(1)[:, 0].tolist()) for b in episode)
            found.setdefault((frozenset(support), frozenset(query)), set()).add(
                tuple(sorted(zip(query, episode.query.y[task].flatten().tolist(), strict=True)))
            )
    return found


def numbered_classes():
    x = torch.arange(80.0)[:, None] * torch.ones(80, 2)
    return il_tasks.classes(x, np.arange(80) // 8, n_way=2, n_shot=1, n_query=2, split=(0.6, 0.2, 0.2)).train


@pytest.mark.parametrize("source", [table_source(), table_source("classification"), numbered_classes()])
def test_fixed_tasks_have_one_support_and_one_query(source):
    fixed = composed(source, "fixed", seed=3)
    found = visits(fixed)
    assert len(found) == (6 if source.n_tasks else min(80, len(found)))
    assert all(len(labels) == 1 for labels in found.values())
    again = composed(source, "fixed", seed=3).sample(2, stream(0))
    assert all(
        torch.equal(a, b)
        for a, b in zip(tensors_of(fixed.sample(2, stream(0))), tensors_of(again), strict=True)
    )
    assert fixed.sample(9, stream(0)).n_tasks == 9
    if source.n_tasks:
        assert sorted(fixed.sample(6, stream(0)).support.x[:, 0, 0].floor_divide(10).tolist()) == list(
            range(6)
        )


def test_permuted_tasks_change_their_labels_only():
    found = visits(composed(table_source("classification"), "permuted"), 200)
    assert len(found) == 6
    assert all(len(labels) == 6 for labels in found.values()), "all orders of 3 classes"
    with pytest.raises(UsageError, match="regression"):
        composed(table_source(), "permuted")


def test_recombined_rows_are_always_support_or_always_query():
    source = composed(numbered_classes(), "recombined")
    support, query, pairs = set(), set(), set()
    for seed in range(200):
        episode = source.sample(4, stream(seed))
        support |= set(episode.support.x[..., 0].flatten().tolist())
        query |= set(episode.query.x[..., 0].flatten().tolist())
        pairs |= {tuple(row) for row in episode.support.x[..., 0].div(8).floor().tolist()}
    assert not support & query
    assert len(support | query) == 6 * 8
    assert len(pairs) == 30, "any two classes, in any order"
    with pytest.raises(UsageError, match="no n-way"):
        composed(table_source(), "recombined")


def test_fresh_is_the_source_itself_and_evaluation_never_changes():
    source = numbered_classes()
    assert composed(source) is source
    wanted = list(source.fixed(5))
    for name in COMPOSITIONS:
        changed = composed(source, name)
        assert (changed.targets, changed.support) == (source.targets, source.support)
        if name == "permuted":
            assert changed.n_tasks == 1000
        for (_, one), (_, other) in zip(wanted, changed.fixed(5), strict=True):
            assert torch.equal(one.query.x, other.query.x)
    with pytest.raises(UsageError, match=r"'frsh' is unknown \(did you mean 'fresh'"):
        composed(source, "frsh")
