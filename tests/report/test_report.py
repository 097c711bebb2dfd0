"""The page: one file that needs nothing else, whose numbers are those of what it shows, whatever names look like."""

import base64
import dataclasses
import importlib.util
import io
import itertools
import re
import subprocess
import sys
import zipfile
from functools import partial
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from conftest import ROOT
from innerloop import figures
from innerloop.compare.result import Comparison, Method
from innerloop.errors import UsageError
from innerloop.evaluation.intervals import Estimate
from innerloop.report import Page, Scored, available, comparison_page, render, scored_page
from innerloop.report.page import Picture, Section, cell, download
from innerloop.report.svg import drawn
from toolkit.commands import run_python
from toolkit.comparisons import synthetic_comparison

pytest.importorskip("matplotlib")
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """Elements, ids, links and text of a page; tags must match."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(page.decode())
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def ids(self):
        return [attrs["id"] for _, attrs in self.elements if "id" in attrs]

    @property
    def text(self):
        return "".join(data for tag, data in self.texts if tag != "style")


def csv_of(link):
    head, _, content = link.partition(",")
    assert head == "data:text/csv;charset=utf-8;base64"
    return pd.read_csv(io.BytesIO(base64.b64decode(content)), keep_default_na=True)


@pytest.fixture(scope="module")
def found():
    return synthetic_comparison()


@pytest.fixture(scope="module")
def page(found):
    return render(comparison_page(found))


@pytest.fixture(scope="module")
def run():
    tasks = il.tasks.sinusoid(n_support=5, episodes=12)
    learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_lr=0.05, learn_lr="tensor", inner_steps=2)
    model = il.Model(learner, learner.init())
    log = [{"step": n, "loss": 1 / n} for n in range(1, 30)]
    return Scored(
        "maml", "sinusoid", model, tasks.test, il.evaluate(model, tasks.test), log=log, best_step=29,
        settings={"steps": 29}, versions={"torch": "2"}, command="innerloop train sinusoid --n-support 5",
    )  # fmt: skip


def stands_alone(page):
    """Nothing is fetched, nothing runs, every anchor is there, ids are unique."""
    reader = Reader(page)
    assert not reader.all("script")
    assert not any(name.startswith("on") for _, attrs in reader.elements for name in attrs)
    for _, attrs in reader.elements:
        assert "src" not in attrs
        target = attrs.get("href", "#" if "href" not in attrs else "")
        assert target.startswith(("#", "data:")), target
        if len(target) > 1 and target.startswith("#"):
            assert target[1:] in reader.ids
    assert len(set(reader.ids)) == len(reader.ids)
    assert "url(http" not in page.decode()
    assert "@import" not in page.decode()
    references = re.findall(r"url\(#([^)]*)\)", page.decode())
    assert set(references) <= set(reader.ids)
    assert len(page) < 3_000_000
    return reader


def test_the_page_of_a_comparison_stands_alone(page):
    stands_alone(page)


def test_the_page_of_a_run_stands_alone(run):
    reader = stands_alone(render(scored_page(run)))
    assert "maml on sinusoid" in reader.text
    assert run.command in reader.text
    titles = [data for tag, data in reader.texts if tag == "h3"]
    assert titles == [
        "Scores by inner step",
        "Which tasks gain and which lose",
        "Held-out tasks",
        "How far each layer moves",
        "Whether representations change",
        "Learned step sizes",
        "Learning curves",
    ]
    mean, low, high = run.scores.metric("rmse")
    assert f"{mean:.3g} [{low:.3g}, {high:.3g}]" in reader.text


def test_the_verdict_comes_first_and_everything_else_is_there(page, found):
    reader = Reader(page)
    headings = [data for tag, data in reader.texts if tag == "h2"]
    assert headings == [
        "Verdict",
        "Ranking",
        "Curves",
        "Augmentation and dropout",
        "What was learned",
        "Learning curves",
        "Episodes",
        "Differences",
        "What was searched",
        "Settings and command",
    ]
    assert found.verdict["sentence"] in reader.text
    assert found.settings["command"] in reader.text
    for words in ("Yes.", "No.", "torch", "2.13.0", "TabICL is not installed", found.notes[0], "worthwhile"):
        assert words in reader.text, words
    assert "Above about 14 rows a task" in reader.text


def test_every_picture_has_a_title_a_text_and_its_numbers(page, found):
    reader = Reader(page)
    pictures = reader.all("svg")
    assert len(pictures) == 14
    for picture in pictures:
        assert picture["role"] == "img"
        assert set(picture["aria-labelledby"].split()) <= set(reader.ids)
    links = {attrs["download"]: attrs["href"] for attrs in reader.all("a") if "download" in attrs}
    assert len(links) == len(reader.all("figure")) == len(reader.all("details"))
    ranking = csv_of(links["ranking.csv"])
    pd.testing.assert_frame_equal(ranking, figures.ranking_numbers(found))
    # pandas before version 3 reads the last bit of some numbers wrongly
    read = partial(pytest.approx, rel=1e-15, abs=0)
    support = csv_of(links["curve-support.csv"])
    assert support["mean"].tolist() == read(figures.curve_numbers(found, "support")["mean"].tolist())
    cells = csv_of(links["factorial.csv"])
    assert cells["mean"].tolist() == read([one.score.mean for one in found.cells])


def test_structure_for_those_who_hear_the_page(page):
    reader = Reader(page)
    assert reader.all("html")[0]["lang"] == "en"
    for landmark in ("header", "main", "nav", "h1"):
        assert len(reader.all(landmark)) == 1
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all("scope" in attrs for attrs in reader.all("th"))
    for tag, attrs in reader.elements:
        if tag == "section":
            assert attrs["aria-labelledby"] in reader.ids


AWKWARD = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</svg></title></style><b>",
    "$x_1$ {{ 7*7 }} {% raw %}",
    "a\x00b\x1b[31m",
    "=cmd|' /C calc'!A0",
    "&lt;b&gt; ü 漢字",
]


@pytest.mark.parametrize("kind", ["regression", "classification", "images"])
def test_names_from_data_stay_text_everywhere(kind):
    found = synthetic_comparison(
        "regression" if kind == "regression" else "classification", images=kind == "images"
    )
    evil = AWKWARD[0]
    methods = tuple(
        dataclasses.replace(m, label=n, settings={n: n}) for m, n in zip(found.methods, AWKWARD, strict=True)
    )
    shown = tuple(
        dataclasses.replace(
            one, task=name, features=(name, name, name),
            predictions={name: one.predictions["maml"], evil: one.predictions["maml"]},
        )
        for one, name in zip(found.episodes, AWKWARD, strict=False)
    )  # fmt: skip
    odd = dataclasses.replace(
        found, tasks=(*AWKWARD, *found.tasks[len(AWKWARD) :]), methods=methods, episodes=shown, notes=tuple(AWKWARD),
        data={**found.data, "name": evil}, settings={"command": evil, evil: evil},
    )  # fmt: skip
    page = render(comparison_page(odd))
    reader = stands_alone(page)
    assert "<script" not in page.decode()
    assert not reader.all("img")
    assert not reader.all("b")
    assert evil in reader.text
    assert "{{ 7*7 }}" in reader.text
    assert "\x00" not in page.decode()
    tasks = csv_of(next(a["href"] for a in reader.all("a") if a.get("download") == "tasks.csv"))
    assert "'=cmd|' /C calc'!A0" in set(tasks["task"])


def test_text_in_pictures_is_escaped_and_colours_follow_the_page():
    def draw(ax):
        ax.set_xlabel("<b> & $x$")
        ax.plot([1, 2], [1, 2], color="#1453a3")

    text = drawn(draw, key="k", title="<t>", text="&")
    root = ElementTree.fromstring(text)
    assert "<b> & $x$" in ["".join(node.itertext()) for node in root.iter("text")]
    assert [root[0].text, root[1].text] == ["<t>", "&"]
    assert "var(--blue, #1453a3)" in text
    assert "<style" not in text
    assert "DejaVu" not in text
    assert text == drawn(draw, key="k", title="<t>", text="&")
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert all(name.startswith("k-") for name in ids)


def test_no_colour_is_left_that_does_not_follow_the_page(page):
    text = page.decode()
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        loose = re.sub(r"var\(--\w+, #\w{6}\)", "", re.sub(r"<title.*?</desc>", "", svg, flags=re.DOTALL))
        assert not re.findall(r"(?:fill|stroke): #\w{6}", loose)


def test_five_thousand_tasks_fit():
    rng = np.random.default_rng(0)
    count, names = 5000, [f"method {number}" for number in range(15)]
    methods = tuple(
        Method(
            name, name, "shared", "meta", tuple(map(tuple, rng.random((count, 3)).tolist())),
            {"error_over_variance": Estimate(0.5, 0.4, 0.6)},
            log=tuple({"step": step, "loss": 1.0} for step in range(5000)),
        )
        for name in names
    )  # fmt: skip
    big = Comparison(
        {},
        {"name": "big"},
        "error_over_variance",
        True,
        tuple(f"task {i}" for i in range(count)),
        (),
        methods,
    )
    stands_alone(render(comparison_page(big)))


def test_an_empty_comparison_has_a_page():
    found = Comparison({}, {"name": "nothing"}, "accuracy", False, (), (), ())
    assert stands_alone(render(comparison_page(found))).all("h1")


def test_what_is_undefined_is_no_number(found):
    nothing = Estimate(float("nan"), float("nan"), float("nan"))
    methods = tuple(
        dataclasses.replace(method, metrics=dict.fromkeys(method.metrics, nothing))
        for method in found.methods
    )
    stands_alone(render(comparison_page(dataclasses.replace(found, methods=methods))))


def test_long_tables_are_cut_and_the_file_is_not():
    numbers = pd.DataFrame({"task": [f"t{i}" for i in range(500)], "score": np.arange(500.0)})
    picture = Picture("many", "Many", "All.", numbers, lambda ax: ax.plot([1]))
    reader = Reader(render(Page("t", "a", "v", sections=(Section("s", (), (picture,)),))))
    assert "500 rows; the first 200 are shown" in reader.text
    assert "t199" in reader.text
    assert "t200" not in reader.text
    assert len(csv_of(next(a["href"] for a in reader.all("a") if "download" in a))) == 500


def test_cells_that_spreadsheets_would_run_are_text():
    numbers = pd.DataFrame({"name": ["=1+1", "@x", "+1", "-1", "plain"], "value": [-1.0, 2.0, 3.0, 4.0, 5.0]})
    back = csv_of(download(numbers))
    assert back["name"].tolist() == ["'=1+1", "'@x", "'+1", "'-1", "plain"]
    assert back["value"].tolist() == [-1, 2, 3, 4, 5]


def test_cells_are_short():
    assert cell(1234567.0) == "1234567"
    assert cell(np.float64("nan")) == ""
    assert cell({"a": 1, "b": (1, 2)}) == "a 1, b 1, 2"


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_without_the_extra_it_says_so(missing, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    assert not available()
    with pytest.raises(UsageError, match=r"pip install 'innerloop\[report\]'"):
        render(Page("t", "a", "v"))


def test_the_wheel_holds_the_template_and_the_style(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed here")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"innerloop/report/page.html.j2", "innerloop/report/page.css"} <= names


def test_importing_the_report_draws_nothing_yet():
    code = "import sys, innerloop.report; assert not {'matplotlib', 'jinja2'} & sys.modules.keys()"
    done = run_python(code)
    assert done.returncode == 0, done.stderr
