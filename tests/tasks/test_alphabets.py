import numpy as np
import pytest

from innerloop.errors import UsageError
from innerloop.tasks.datasets.alphabets import draw_alphabets


@pytest.fixture(scope="module")
def drawn():
    return draw_alphabets(6, 24, 20, seed=0)


def unit(pictures):
    flat = pictures.reshape(*pictures.shape[:-2], -1).astype(np.float64)
    return flat / np.linalg.norm(flat, axis=-1, keepdims=True)


def nearest_neighbour_accuracy(images, way, shot, episodes):
    rng = np.random.default_rng(0)
    vectors, hits = unit(images), []
    for _ in range(episodes):
        classes = rng.choice(len(vectors), way, replace=False)
        order = rng.permutation(vectors.shape[1])
        support = vectors[classes][:, order[:shot]].reshape(way * shot, -1)
        query = vectors[classes][:, order[shot : shot + 5]].reshape(way * 5, -1)
        hits.append((query @ support.T).argmax(1) // shot == np.repeat(np.arange(way), 5))
    return float(np.mean(hits))


def test_shapes_types_and_labels():
    images, alphabet, character = draw_alphabets(2, 3, 4, size=32, seed=5)
    assert images.shape == (6, 4, 32, 32)
    assert images.dtype == np.uint8
    assert set(np.unique(images)) == {0, 1}
    assert alphabet.dtype == character.dtype == np.int64
    assert alphabet.tolist() == [0, 0, 0, 1, 1, 1]
    assert character.tolist() == [0, 1, 2, 0, 1, 2]


def test_the_same_seed_gives_the_same_pictures_and_another_seed_gives_others():
    first, again, other = (draw_alphabets(2, 4, 3, seed=seed).images for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()
    draw_alphabets(1, 2, 2)
    assert np.array_equal(before, np.random.get_state()[1])


def test_asking_for_fewer_gives_the_first_ones(drawn):
    whole = drawn.images.reshape(6, 24, 20, 28, 28)
    for counts in ((1, 24, 20), (3, 5, 2), (2, 24, 7)):
        a, c, d = counts
        assert np.array_equal(draw_alphabets(*counts).images.reshape(a, c, d, 28, 28), whole[:a, :c, :d])


def test_more_characters_than_are_compared_at_once_change_none_of_the_first(drawn):
    more = draw_alphabets(2, 30, 2).images.reshape(2, 30, 2, 28, 28)
    assert np.array_equal(more[:, :24], drawn.images.reshape(6, 24, 20, 28, 28)[:2, :, :2])


@pytest.mark.parametrize("size", [12, 28, 64])
def test_every_drawing_has_ink_is_centred_and_stays_off_the_edge(drawn, size):
    images = drawn.images if size == 28 else draw_alphabets(2, 24, 5, size=size).images
    images = images.reshape(-1, size, size)
    assert images.sum(axis=(1, 2)).min() >= 2
    assert images.any()
    for line in (images.any(axis=1), images.any(axis=2)):
        assert not line[:, [0, -1]].any()
        first, last = line.argmax(axis=1), size - 1 - line[:, ::-1].argmax(axis=1)
        # Two pixels of shift at size 28, and half a pixel of rounding at either end.
        assert np.abs((first + last + 1) / 2 - size / 2).max() <= 2 * size / 28 + 0.75


def test_no_two_drawings_of_a_character_are_equal(drawn):
    for pictures in drawn.images:
        assert len(np.unique(pictures.reshape(20, -1), axis=0)) == 20


def test_characters_are_no_look_alikes(drawn):
    likeness = unit(drawn.images.mean(axis=1)) @ unit(drawn.images.mean(axis=1)).T
    np.fill_diagonal(likeness, 0.0)
    assert likeness.max() < 0.95


def test_drawings_are_closer_to_their_own_character_than_to_others(drawn):
    vectors = unit(drawn.images)
    own = np.mean([(v @ v.T)[np.triu_indices(20, 1)].mean() for v in vectors])
    means = vectors.mean(axis=1)
    other = (means @ means.T)[np.triu_indices(len(means), 1)].mean()
    assert own > 1.3 * other


def test_nearest_neighbours_find_it_hard_but_not_hopeless(drawn):
    assert 0.38 <= nearest_neighbour_accuracy(drawn.images, 5, 1, 600) <= 0.50
    one, five = (nearest_neighbour_accuracy(drawn.images, 5, shot, 200) for shot in (1, 5))
    assert five > one + 0.1


@pytest.mark.parametrize("name", ["n_alphabets", "n_characters", "n_drawings", "size", "seed"])
@pytest.mark.parametrize("value", [-1, 2.5, "3", True, None])
def test_wrong_arguments_are_named_with_their_value(name, value):
    with pytest.raises(UsageError, match=name) as caught:
        draw_alphabets(**{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", ["n_alphabets", "n_characters", "n_drawings", "size"])
def test_zero_of_anything_is_refused(name):
    with pytest.raises(UsageError, match=f"{name}.*got 0"):
        draw_alphabets(**{name: 0})


def test_whole_numbers_of_numpy_are_welcome():
    assert draw_alphabets(np.int64(1), np.int32(2), np.uint8(3)).images.shape == (2, 3, 28, 28)
