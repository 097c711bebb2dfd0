"""Which encoders are known, what they may give, and what is kept of it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from innerloop import encoders
from innerloop.encoders import Encoder, encode, encode_texts, use
from innerloop.encoders.cache import Features, hash_of
from innerloop.errors import Collector, DataError, UsageError


def lengths(texts):
    return [[len(text), 1] for text in texts]


def test_a_function_is_known_by_its_module_and_name_once_it_is_used() -> None:
    name = f"{__name__}:lengths"
    with pytest.raises(UsageError, match="no part of this package"):
        encoders.encoder(name)
    assert use(lengths).name == name
    assert encoders.encoder(name).run is lengths
    assert use(name).run is lengths


def test_a_name_imports_only_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_encoder.py").write_text("def embed(items):\n    return [[1.0] for _ in items]\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--encoder their_encoder:embed"):
        encoders.encoder("their_encoder:embed")
    assert "their_encoder" not in sys.modules
    before = list(sys.path)
    assert use("their_encoder:embed")(["a"]).tolist() == [[1.0]]
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet", "choose one of efficientnet-lite0"),
        ("no_such_module:embed", "ModuleNotFoundError"),
        ("innerloop.encoders:no_such_name", "AttributeError"),
        ("innerloop.encoders:encoder.__doc__", "is no function"),
        ("timm:resnet18", "name the weights behind it"),
        ("sentence-transformers:no/such/folder", "there is no such folder"),
    ],
)
def test_what_is_no_encoder_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        use(name)


@pytest.mark.parametrize(
    ("result", "message"),
    [([1.0, 2.0], "shape"), ([[1.0]], "shape"), ([[], []], "shape"), ([[1.0], [np.nan]], "NaN")],
)
def test_what_is_no_table_of_features_is_refused(result: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Encoder("odd", "any", lambda items: result)(["a", "b"])


def test_an_encoder_gives_equally_many_features_for_all() -> None:
    ragged = Encoder("ragged", "any", lambda items: np.ones((len(items), len(items))), batch=2)
    with pytest.raises(DataError, match="equally many"):
        encode(ragged, ["a", "b", "c"])


def test_rows_of_unit_encoders_have_one_length_and_the_empty_one_stays() -> None:
    rows = Encoder("unit", "any", lambda items: [[3.0, 4.0], [0.0, 0.0]], unit=True)(["a", "b"])
    np.testing.assert_allclose(rows, [[0.6 * 2**0.5, 0.8 * 2**0.5], [0, 0]], rtol=1e-6)


def test_texts_and_pictures_are_not_taken_for_each_other() -> None:
    with pytest.raises(UsageError, match="takes pictures"):
        encode_texts(["a"], Encoder("eyes", "pictures", lengths))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path))
    return tmp_path


class Counting:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, texts):
        self.seen += texts
        return lengths(texts)


def counted(weights: str = "w") -> tuple[Encoder, Counting]:
    counting = Counting()
    return Encoder("counting", "texts", counting, weights=weights, batch=2), counting


def test_each_text_is_encoded_once_for_all_times(cache: Path) -> None:
    encoder, counting = counted()
    texts = ["a", "bb", "a", "ccc", "bb"]
    first = encode(encoder, texts).rows
    assert counting.seen == ["a", "bb", "ccc"]
    assert first.tolist() == lengths(texts)
    again, counting = counted()
    np.testing.assert_array_equal(encode(again, [*texts, "dddd"]).rows[:5], first)
    assert counting.seen == ["dddd"]


def test_other_weights_and_functions_find_nothing_in_the_cache(cache: Path) -> None:
    encode(counted()[0], ["a"])
    for weights in ("other", ""):
        encoder, counting = counted(weights)
        encode(encoder, ["a"])
        assert counting.seen == ["a"]
    encoder, counting = counted("")
    encode(encoder, ["a"])
    assert counting.seen == ["a"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None])
def test_a_damaged_cache_is_no_cache(cache: Path, damage: bytes | None) -> None:
    encode(counted()[0], ["a"])
    (path,) = cache.rglob("*.npz")
    path.write_bytes(path.read_bytes()[:-30] if damage is None else damage)
    encoder, counting = counted()
    assert encode(encoder, ["a"]).rows.tolist() == [[1, 1]]
    assert counting.seen == ["a"]


def test_a_cache_can_be_turned_off(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INNERLOOP_CACHE", "off")
    encoder, _ = counted()
    encode(encoder, ["a"])
    assert Features(encoder).get(hash_of(b"a")) is None


def test_what_was_encoded_before_an_error_is_kept(cache: Path) -> None:
    def broken(texts):
        if "bad" in texts:
            raise RuntimeError("no")
        return lengths(texts)

    with pytest.raises(RuntimeError):
        encode(Encoder("counting", "texts", broken, weights="w", batch=1), ["a", "bad"])
    encoder, counting = counted()
    encode(encoder, ["a"])
    assert counting.seen == []


def test_a_guard_leaves_out_what_cannot_be_read() -> None:
    def load(item: str) -> np.ndarray:
        if item == "bad":
            raise DataError(f"{item} is bad")
        return np.full((1,), len(item))

    guard = Collector()
    doubled = Encoder("doubled", "pictures", lambda rows: rows * 2, batch=2)
    rows, positions = encode(doubled, ["a", "bad", "ccc"], load=load, guard=guard)
    assert (rows.tolist(), positions, len(guard.found)) == ([[2], [6]], [0, 2], 1)
    with pytest.raises(DataError, match="bad is bad"):
        encode(doubled, ["a", "bad"], load=load)
    with pytest.raises(DataError, match="nothing for the encoder"):
        encode(doubled, [])
