"""The model card of a model directory, `README.md`: what hubs of models and people read first.

It follows from what else the directory holds, and names no task and no row. Its front matter has the fields of
Hugging Face's model cards (Mitchell et al., 2019, *Model Cards for Model Reporting*).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..evaluation.conformal import needed_tasks
from ..evaluation.scores import ScoreRow
from .privacy import holdings

if TYPE_CHECKING:
    from .contents import Contents
    from .plain_json import JsonObject
    from .validation import Config

__all__ = ["model_card", "require_licence"]

_UNKNOWN = "unknown"
_INTERVAL = 0.9
_MOST = 30  # names that a list shows
_MEANINGS = {
    "rmse": "root mean squared error, in the units of the target",
    "r2": "share of the variance of the target that is explained",
    "error_over_variance": "squared error over the variance of the target in meta-train",
    "accuracy": "share of rows with the right class",
    "auc": "area under the ROC curve",
    "calibration_error": "how far probabilities are from frequencies",
    "loss": "the loss of training",
    "log_likelihood": "log density of a row under the model's own predictive distribution",
    "coverage_90": "share of rows in the model's own 90 % interval",
    "coverage_95": "share of rows in the model's own 95 % interval",
    "interval_coverage_90": "share of rows in the 90 % conformal interval",
    "interval_width_90": "mean width of that interval, in the units of the target",
    "set_coverage_90": "share of rows in the 90 % prediction set",
    "set_size_90": "mean number of classes in that set",
}


def require_licence(name: object) -> str:
    """Refuse what is no name of a licence.

    Raises:
        UsageError: it is no line of text, or an empty one.

    Example:
        >>> require_licence("cc-by-4.0")
        'cc-by-4.0'
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise UsageError(f"license={name!r} is no name of a licence: give one line, such as cc-by-4.0")
    return name


def model_card(stored: Contents, config: Config) -> bytes:
    """The card of a model, in Markdown with a front matter in YAML.

    Arguments:
        stored: the model.
        config: what its `config.json` is going to hold.

    Returns:
        The file: front matter, what the model is, its data, its scores with intervals, limits, how to use it, and what
        the directory holds of the data.

    Example:
        >>> import innerloop as il
        >>> from innerloop.storage.save import unsaved
        >>> learner = il.mixed(2)
        >>> stored = unsaved(il.Model(learner, learner.init()))
        >>> print(model_card(stored, stored.config).decode().splitlines()[1])
        library_name: innerloop
    """
    lines = [
        "---",
        *_front_matter(stored, config),
        "---",
        "",
        f"# {_title(config)}",
        "",
        *_what(stored, config),
    ]
    for heading, body in (
        ("Data", _data(stored, config)),
        ("Scores", _scores(config)),
        ("How to use it", _usage(stored, config)),
        ("Limits", _limits(stored, config)),
        ("What the files hold of the data", _privacy(stored)),
    ):
        lines += ["", f"## {heading}", "", *body]
    return ("\n".join(lines) + "\n").encode()


def _front_matter(stored: Contents, config: Config) -> Iterator[str]:
    """The fields that hubs read."""
    algorithm, schema = config["learner"]["algorithm"], stored.schema
    yield "library_name: innerloop"
    yield f"license: {_quoted(_licence(config))}"
    if schema is not None:
        yield f"pipeline_tag: tabular-{schema.kind}"
    yield "tags:"
    yield from (f"- {_quoted(tag)}" for tag in ("innerloop", "meta-learning", "few-shot-learning", algorithm))
    final = _final(config)
    if not final:
        return
    yield "metrics:"
    yield from (f"- {row['metric']}" for row in final)
    kind = "other" if schema is None else f"tabular-{schema.kind}"
    data = _quoted(_data_name(config))
    yield "model-index:"
    yield f"- name: {_quoted(_plain_title(config))}"
    yield "  results:"
    yield f"  - task: {{type: {kind}}}"
    yield f"    dataset: {{name: {data}, type: {data}}}"
    yield "    metrics:"
    for row in final:
        low, high = row["ci95"]
        bounds = "" if None in (low, high) else f", ci95: [{low:.6g}, {high:.6g}]"
        yield f"    - {{type: {row['metric']}, value: {row['mean']:.6g}{bounds}}}"


def _what(stored: Contents, config: Config) -> Iterator[str]:
    """What the model is, in a sentence or two."""
    count = sum(value.numel() for value in stored.model.meta.values())
    schema = stored.schema
    what = "It predicts what its targets are" if schema is None else f"It predicts {_names(_targets(stored))}"
    unit = f"each {_span(schema.task)}" if schema is not None and schema.task is not None else "each task"
    enrolled = stored.enrolled
    served = f"{len(config['tasks'] or [])} tasks" if enrolled is None else f"{len(enrolled.classes)} classes"
    how = {
        "run": f"adapts to {unit} by its labelled rows, without training anew",
        "adapted": f"is adapted to {served} and serves these",
        "refined": "was refined on held-out gradients",
    }[config["kind"]]
    yield (
        f"A model of Innerloop {config['versions'].get('innerloop', '')}, a meta-learning library for PyTorch: "
        f"`{config['learner']['algorithm']}`, {count:,} meta-parameters. {what}, and {how}."
    )
    if config["best_step"]:
        yield f"The parameters are those of step {config['best_step']}, the best on meta-validation tasks."


def _data(stored: Contents, config: Config) -> Iterator[str]:
    """What it was trained on."""
    schema, splits, support = stored.schema, config["splits"], config["support"]
    yield f"- data set: {_span(_data_name(config))}"
    if splits:
        counts = ", ".join(f"{len(ids)} {name}" for name, ids in splits.items())
        yield f"- tasks: {counts}; tasks, not rows, are divided"
    if support:
        unit = "labelled rows a class" if support["per_class"] else "labelled rows a task"
        yield f"- support: {support['rows']} {unit}"
    if schema is None:
        return
    if schema.task is not None:
        yield f"- task column: {_span(schema.task)}"
    yield f"- target: {_names(_targets(stored))} ({schema.kind})"
    if schema.classes:
        yield f"- classes: {_names(schema.classes)}"
    yield f"- features: {_names([column.name for column in schema.columns])}"


def _scores(config: Config) -> Iterator[str]:
    """A table of the scores after adaptation, and the headline before it."""
    final = _final(config)
    if not final:
        yield "None are stored with this model."
        return
    first, support = final[0], config["support"]
    unit = "a class" if support is not None and support["per_class"] else "a task"
    yield (
        f"Means over {first['n_tasks']} {first['split']} tasks, every task counting equally, with 95 % intervals over "
        f"tasks, after adaptation to {first['n_support']} support rows {unit}."
    )
    yield from ("", "| metric | mean | 95 % interval | what it is |", "|---|---|---|---|")
    for row in final:
        meaning = _MEANINGS.get(row["metric"], row["metric"].replace("_", " "))
        yield f"| `{row['metric']}` | {_number(row['mean'])} | {_bounds(row)} | {meaning} |"
    for row in _scored(config):
        if row["metric"] == first["metric"] and row["inner_steps"] == 0 != first["inner_steps"]:
            yield ""
            yield f"Before adaptation `{row['metric']}` is {_number(row['mean'])} ({_bounds(row)})."


def _usage(stored: Contents, config: Config) -> Iterator[str]:
    """How to predict with it."""
    recipe, schema = config["learner"], stored.schema
    external = recipe.get("model") == "external"
    yield from ("```sh", "pip install innerloop", "```", "", "```python")
    if "defined_in" in recipe:
        yield f"import {recipe['defined_in']}  # registers the algorithm"
    if stored.inputs is not None:
        yield from ("import innerloop as il", "", 'stored = il.load("DIRECTORY")')
        yield from ('stored.predict_files("new")  # a folder, or an npz file', "```")
        return
    if schema is None or (schema.task is None and config["kind"] != "refined"):
        call = 'il.load("DIRECTORY", module=module)' if external else 'il.load("DIRECTORY")'
        yield from ("import innerloop as il", "", f"model = {call}.model")
        yield "predict = model.adapt(x_support, y_support)  # labelled rows of a new task"
        yield from ("predict(x_query)", "```")
        return
    interval = f", interval={_INTERVAL}" if _has_intervals(stored) else ""
    yield from ("from pathlib import Path", "", "import innerloop as il", "")
    yield f'stored = il.load("DIRECTORY"{", module=module" if external else ""})'
    yield 'table = stored.read_frame(Path("new.csv"))'
    yield from (f"stored.predict_frame(table{interval})", "```", "")
    rows = "rows with a target are a task's support, rows without one are predicted"
    known = "every row of the table is predicted"
    option = f" --interval {_INTERVAL}" if interval else ""
    yield f"or `innerloop predict DIRECTORY new.csv{option}`: {rows if config['kind'] == 'run' else known}."


def _limits(stored: Contents, config: Config) -> Iterator[str]:
    """What is not known of it, or does not hold."""
    if _final(config):
        yield "- The scores are of held-out tasks of the same data. Of tasks from elsewhere they say nothing."
    else:
        yield "- It comes without scores: measure it on tasks of your own with `innerloop evaluate`."
    for said in ("interrupted", "warning"):
        if words := config["settings"].get(said):
            yield f"- {_cell(str(words))}."
    calibration, least = stored.calibration, needed_tasks(_INTERVAL)
    if calibration is None or calibration.n_tasks < least:
        count = 0 if calibration is None else calibration.n_tasks
        yield f"- It gives no 90 % intervals for new tasks: they need {least} calibration tasks, and there are {count}."
    else:
        yield (
            f"- Intervals are conformal, from {calibration.n_tasks} calibration tasks: they hold on average over "
            "new tasks like those, not for every one. A `support_loss_percentile` near 100 marks one unlike them."
        )
    yield "- A task without labelled rows gets the base prediction, with `n_support` 0."
    yield "- Nothing here is differentially private: meta-parameters may tell of the tasks that made them."
    if config["kind"] == "adapted":
        yield "- It holds what was made from the rows it was adapted to: treat it as you treat these rows."
    if _licence(config) == _UNKNOWN:
        yield (
            "- No licence was named. Whoever may give one writes the directory again: "
            '`il.load("DIRECTORY").save_pretrained("NEW", license="...")`.'
        )


def _privacy(stored: Contents) -> Iterator[str]:
    """What the files hold, kind by kind; ids of tasks stand in `config.json` alone, if at all."""
    yield from ("| what | as it is | file |", "|---|---|---|")
    for each in holdings(stored):
        yield f"| {_cell(each.what)} | {'yes' if each.verbatim else 'no'} | {each.where} |"
    yield ""
    yield "`innerloop inspect DIRECTORY --privacy` says more; `--verify` compares every file with `manifest.json`."


def _final(config: Config) -> list[JsonObject]:
    """The scores after adaptation, the headline first; what is undefined is left out."""
    rows = _scored(config)
    head = next((row for row in rows if row["headline"]), None)
    if head is None:
        return []
    after = (row for row in rows if row["inner_steps"] == head["inner_steps"] and row["mean"] is not None)
    return sorted(after, key=lambda row: row is not head)


def _scored(config: Config) -> list[JsonObject]:
    """The score rows that have every field."""
    return [row for row in config["scores"] or [] if row.keys() >= ScoreRow.__annotations__.keys()]


def _has_intervals(stored: Contents) -> bool:
    return stored.calibration is not None and stored.calibration.n_tasks >= needed_tasks(_INTERVAL)


def _licence(config: Config) -> str:
    return str(config["settings"].get("license") or _UNKNOWN)


def _data_name(config: Config) -> str:
    """The name of the data set; of a path its last part, which names no home of a user."""
    name = str((config["data"] or {}).get("name") or "unnamed data")
    return PurePath(name).name or name


def _plain_title(config: Config) -> str:
    return f"{config['learner']['algorithm']} on {_data_name(config)}"


def _title(config: Config) -> str:
    return f"{config['learner']['algorithm']} on {_span(_data_name(config))}"


def _targets(stored: Contents) -> list[str]:
    return (
        []
        if stored.schema is None
        else [column.name for column in stored.schema.target_columns] or [stored.schema.target]
    )


def _names(names: list[str] | tuple[str, ...]) -> str:
    more = f", ... ({len(names)})" if len(names) > _MOST else ""
    return ", ".join(map(_span, names[:_MOST])) + more


def _visible(text: str) -> str:
    """Text on one line: what cannot be seen is written out."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def _span(text: str) -> str:
    """Text as a code span, in which no markup means anything; its fence is longer than any within."""
    shown = _visible(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " if "`" in shown else ""
    return f"{fence}{space}{shown}{space}{fence}"


def _cell(text: str) -> str:
    """Text in a cell of a table."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", _visible(text))


def _quoted(text: str) -> str:
    """A scalar of YAML; JSON's text is one, but for what cannot be seen."""
    return "".join(
        char if char.isprintable() else f"\\U{ord(char):08x}" for char in json.dumps(text, ensure_ascii=False)
    )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"


def _bounds(row: JsonObject) -> str:
    low, high = row["ci95"]
    return "undefined" if None in (low, high) else f"{low:.4g} to {high:.4g}"
