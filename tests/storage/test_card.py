"""The model card: its front matter is YAML, its numbers those of the model, and it names nobody."""

import re

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from innerloop.errors import ModelFileError, UsageError
from innerloop.storage.manifest import read_sealed, seal
from innerloop.storage.save import unsaved
from toolkit.commands import printed_by

ODD = "a`b|c<d> \"e\" \\ #f: 'g'\u2028\x7f"  # markup of Markdown, HTML and YAML, and what cannot be seen


def table(seed=0, odd=False, sites=40):
    """Sites of 6 rows with a line each."""
    draw = np.random.default_rng(seed)
    site, dose = np.repeat([f"site-{number:04d}" for number in range(sites)], 6), draw.normal(size=6 * sites)
    risk = 2 * dose + draw.normal(size=sites).repeat(6) + 0.1 * draw.normal(size=6 * sites)
    return pd.DataFrame({"site": site, ODD if odd else "dose": dose, "risk": risk})


def stored_model(*, odd=False, sites=40, **options):
    """A mixed model with scores and a calibration, as `innerloop train` stores it, not written."""
    tasks = il.tasks.table(table(odd=odd, sites=sites), task="site", target="risk", n_support=2)
    learner = il.mixed(tasks.n_features)
    model = il.meta_train(learner, tasks.train, device="cpu").model
    calibration = il.calibrate(model, tasks.valid)
    scores = il.evaluate(model, tasks.test, calibration=calibration)
    return scores, unsaved(
        model, schema=tasks.schema, splits=tasks.splits, support=tasks.train.support,
        targets=tasks.targets, scores=scores.scores("mixed"), calibration=calibration,
        data={"name": f"/home/someone/{ODD if odd else 'sites.csv'}", "sha256": None}, **options,
    )  # fmt: skip


def parts(card):
    """Front matter as a value, and the text below it."""
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the front matter")
    _, front, body = re.split(r"^---\n", card, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(front), body


@pytest.mark.parametrize("odd", [False, True])
def test_the_front_matter_is_what_hubs_read(tmp_path, odd):
    scores, stored = stored_model(odd=odd)
    card = (stored.save(tmp_path / "run") / "README.md").read_text(encoding="utf-8")
    front, _ = parts(card)
    assert front["library_name"] == "innerloop"
    assert front["license"] == "unknown"
    assert front["pipeline_tag"] == "tabular-regression"
    assert set(front["tags"]) == {"innerloop", "meta-learning", "few-shot-learning", "mixed"}
    assert front["metrics"] == list(scores.metrics)
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["name"] == (ODD if odd else "sites.csv")
    for metric in result["metrics"]:
        mean, low, high = scores.metric(metric["type"])
        assert metric["value"] == pytest.approx(mean, rel=1e-5)
        assert metric["ci95"] == pytest.approx([low, high], rel=1e-5)


def test_the_text_has_scores_before_and_after_and_the_coverage():
    scores, stored = stored_model(sites=80)
    text = card_of(stored)
    for name in ("rmse", "interval_coverage_90"):
        mean, low, high = scores.metric(name)
        assert f"| `{name}` | {mean:.4g} | {low:.4g} to {high:.4g} |" in text
    assert f"Before adaptation `rmse` is {scores.metric('rmse', 0)[0]:.4g}" in text
    assert "56 train, 12 valid, 12 test" in text
    assert "Intervals are conformal, from 12 calibration tasks" in text
    assert "interval=0.9" in text


def test_too_few_calibration_tasks_are_said():
    text = card_of(stored_model()[1])
    assert "they need 9 calibration tasks, and there are 6" in text
    assert "interval=0.9" not in text


def card_of(stored):
    """The card that a model would be written with."""
    from innerloop.storage.card import model_card

    return model_card(stored, stored.config).decode()


@pytest.mark.parametrize("keep_ids", [False, True])
def test_no_id_and_no_folder_of_a_user_stands_in_it(keep_ids):
    _, stored = stored_model(keep_ids=keep_ids)
    text = card_of(stored)
    assert "site-00" not in text
    assert "someone" not in text
    adapted = stored.adapt_frame(table())
    assert len(adapted.tasks) == 40
    assert "site-00" not in card_of(adapted)
    assert "adapted to 40 tasks" in card_of(adapted)


def test_odd_names_stay_on_their_line():
    _, stored = stored_model(odd=True)
    (line,) = (line for line in card_of(stored).splitlines() if line.startswith("- features:"))
    assert line == "- features: `` a`b|c<d> \"e\" \\ #f: 'g'\\u2028\\u007f ``"


def test_the_python_of_a_card_runs(tmp_path, monkeypatch):
    _, stored = stored_model()
    stored.save(tmp_path / "DIRECTORY")
    new = table(1).drop(columns="site").assign(site="new")
    new.loc[2:, "risk"] = None
    new.to_csv(tmp_path / "new.csv", index=False)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", card_of(stored), re.DOTALL)
    space: dict[str, object] = {}
    exec(code.replace("stored.predict_frame", "found = stored.predict_frame"), space)
    assert space["found"]["prediction"].notna().sum() == len(new) - 2


def test_the_card_is_sealed_and_follows_from_the_rest(tmp_path):
    _, stored = stored_model()
    path = stored.save(tmp_path / "run")
    again = il.load(path)
    assert il.load(again.save(tmp_path / "again")).sha256 == again.sha256
    with (path / "README.md").open("a", encoding="utf-8") as file:
        file.write("more\n")
    with pytest.raises(ModelFileError, match=r"README\.md"):
        il.load(path)


def test_a_directory_from_before_has_no_card(tmp_path):
    _, stored = stored_model()
    path = stored.save(tmp_path / "run")
    contents = dict(read_sealed(path).contents)
    (path / "README.md").unlink()
    del contents["README.md"]
    (path / "manifest.json").write_bytes(seal(contents)["manifest.json"])
    assert (il.load(path).save(tmp_path / "again") / "README.md").is_file()


def test_a_licence_is_filled_and_stays(tmp_path):
    _, stored = stored_model(settings={"license": "mit"})
    assert 'license: "mit"' in card_of(stored)
    path = stored.save_pretrained(tmp_path / "one", license="cc-by-4.0")
    again = type(stored).from_pretrained(path)
    text = (again.save_pretrained(tmp_path / "two") / "README.md").read_text(encoding="utf-8")
    assert 'license: "cc-by-4.0"' in text
    assert "No licence" not in text
    assert (tmp_path / "two" / "manifest.json").read_bytes() == (path / "manifest.json").read_bytes()
    for wrong in ("", "two\nlines", 3):
        with pytest.raises(UsageError, match="is no name of a licence"):
            stored.save_pretrained(tmp_path / "three", license=wrong)


def test_a_model_without_a_table_says_how_to_adapt(tmp_path):
    learner = il.mixed(2)
    text = card_of(unsaved(il.Model(learner, learner.init())))
    assert "predict = model.adapt(x_support, y_support)" in text
    assert "None are stored with this model." in text


def test_train_takes_a_licence(tmp_path, capsys):
    table().to_csv(tmp_path / "sites.csv", index=False)
    options = ("--task", "site", "--target", "risk", "--n-support", "2", "--algorithm", "mixed", "--out")
    train = ("train", tmp_path / "sites.csv", *options, tmp_path / "run")
    assert printed_by(capsys, *train, "--license", "")[0] == 2
    assert printed_by(capsys, *train, "--license", "cc0-1.0")[0] == 0
    assert 'license: "cc0-1.0"' in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


def test_names_of_classes_that_were_enrolled_are_not_in_it():
    """They may be people."""
    tasks = il.tasks.classes(np.zeros((36, 4)), np.arange(36) // 3, n_way=3, n_query=1)
    learner = il.two_covariance(4, 3)
    run = unsaved(il.Model(learner, learner.init()), inputs=tasks.inputs, targets=tasks.targets)
    rows = {
        "x": np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32),
        "label": ["anna", "bert"] * 3,
    }
    text = card_of(run.adapt_files(rows))
    assert "is adapted to 2 classes and serves these" in text
    assert 'stored.predict_files("new")' in text
    assert "names of classes | yes | config.json" in text
    assert "anna" not in text


def test_a_warning_of_training_is_a_limit():
    _, stored = stored_model(settings={"warning": "adaptation makes predictions worse: a_b"})
    assert "- adaptation makes predictions worse: a\\_b." in card_of(stored)
