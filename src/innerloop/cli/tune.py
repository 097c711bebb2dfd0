"""`innerloop tune`: find settings that suit the tasks, and leave them as a file that `train --config` takes."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from ..errors import UsageError
from .common import Notes, emit
from .compare import duration
from .encoding import encoding_told, use_encoder
from .options import (
    OUTPUT,
    DataOptions,
    Json,
    Options,
    Quiet,
    Replace,
    TrainingOptions,
    TunedAlgorithm,
    about,
)
from .pages import Report, command_line, leave, require_report
from .refusals import require_least, require_place
from .request import Request
from .text import LABELS, cell, columns, say, scored, steps_table

if TYPE_CHECKING:
    from ..report import Page
    from ..tasks.splits import Tasks
    from ..tuning import Tuning

__all__ = ["tune"]

SETTINGS = "tuned.toml"


@Parameter(name="*", group=Group("Tuning", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class TuningOptions(Options):
    """How long it is tuned."""

    trials: Annotated[int, about("Settings that are tried, those of earlier calls included.")] = 30
    minutes: Annotated[float | None, about("Begin no trial after so many minutes.")] = None


def tune(
    tasks: Annotated[str, about("As for innerloop train.")],
    /,
    *,
    data: DataOptions = DataOptions(),
    tuning: TuningOptions = TuningOptions(),
    algorithm: TunedAlgorithm = TunedAlgorithm(),
    training: TrainingOptions = TrainingOptions(),
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Folder of the trials; runs/NAME-tune unless given.")
    ] = None,
    report: Report = None,
    replace: Replace = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find settings that suit your tasks, by trials on the meta-validation tasks.

    Inner and outer step sizes, inner steps, the size of the network and the like are tuned; every option that is given
    is fixed. Each algorithm's untuned settings are tried first, then what Optuna proposes. A trial that is clearly
    worse than the best one is given up early. The meta-test tasks are scored once, with the best settings.

    It leaves tuned.toml, which innerloop train --config takes, and report.html, which shows what mattered. The same
    command goes on where it was interrupted, or up to more --trials. Ctrl-C keeps what is done, and leaves with 130. It
    needs the extra tune: pip install 'innerloop[tune]'.

    Examples:
      innerloop tune schools.csv --task school --target exam --trials 50
      innerloop tune schools.csv --task school --target exam --algorithm maml,ridge
      innerloop train schools.csv --config runs/schools-tune/tuned.toml
    """
    from ..tuning import tune as run
    from ..tuning.study import require_optuna

    require_optuna()
    notes = Notes(quiet=quiet)
    require_least(tuning.settings(), {"trials": 1})
    request = Request(tasks=tasks, data=data, algorithm=algorithm, training=training)
    _require_sense(request)
    require_report(report)
    use_encoder(data.encoder)
    with encoding_told(notes):
        read = request.read()
    folder = out or Path("runs") / f"{read.name}-tune"
    require_place(folder)
    if replace:
        _begin_anew(folder)
    for line in (repr(read), *(f"note: {note}" for note in read.notes)):
        notes(line)
    asked = training.arguments()
    options = {name: value for name, value in asked.items() if value is not None or name == "clip"}
    with _terminated() as signals:
        found = run(
            read,
            trials=tuning.trials,
            algorithm=algorithm.algorithm,
            folder=folder,
            steps=options.pop("steps", None),
            minutes=tuning.minutes,
            seed=options.pop("seed"),
            training=request.source(read),
            given=algorithm.arguments(),
            model=algorithm.network_arguments(),
            tell=_progress(notes, tuning.trials),
            **options,
        )
        _leave(_Tuned(request, tuning, read, found, folder), report, notes, json=json)
    if signals:
        sys.exit(128 + signal.SIGTERM)
    if found.interrupted:
        raise KeyboardInterrupt


def _require_sense(request: Request) -> None:
    """Refuse what can be refused before any data is read."""
    if request.data.train_way is not None:
        raise UsageError("--train-way has no meaning for tune: give it to innerloop train, beside --config")
    names = request.algorithm.algorithm.split(",")
    for name in names:
        replace(request, algorithm=replace(request.algorithm, algorithm=name.strip())).require_sense()


def _begin_anew(folder: Path) -> None:
    from ..files import remove_file
    from ..tuning.study import JOURNAL

    for name in (JOURNAL, SETTINGS):
        if (folder / name).is_file():
            remove_file(folder / name)


@contextmanager
def _terminated() -> Iterator[list[int]]:
    """SIGTERM ends the tuning as Ctrl-C does; the list tells that it came."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def interrupt(number: int, frame: object) -> None:
        came.append(number)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


def _progress(notes: Notes, trials: int) -> Callable[[str, int], None]:
    """Tells what is tried now and about how long the rest takes."""
    began, first = time.perf_counter(), -1

    def tell(what: str, done: int) -> None:
        nonlocal first
        first = done if first < 0 else first
        if done >= trials:
            notes(what)
            return
        made, taken = done - first, time.perf_counter() - began
        left = f", about {duration(taken * (trials - done) / made)} left" if made else ""
        notes(f"trial {done + 1} of {trials}{left}: {what}")

    return tell


@dataclass(frozen=True)
class _Tuned:
    """A tuning, and what it was made of."""

    request: Request
    options: TuningOptions
    tasks: Tasks
    found: Tuning
    folder: Path

    def options_of_train(self) -> dict[str, Any]:
        """Everything that `innerloop train` has to be told, besides the tasks."""
        return {
            name: "none" if value is None else value
            for name, value in (_given(self.request) | self.steps() | self.found.settings).items()
        }

    def steps(self) -> dict[str, int]:
        """The meta-updates of a trial, for algorithms that take some."""
        from ..algorithms.assemble import sound_settings

        if "meta_lr" not in self.found.settings and self.request.training.meta_lr is None:
            return {}
        sound = sound_settings(self.tasks, self.found.algorithm)
        return {"steps": self.request.training.steps or sound.steps}

    def next(self) -> str:
        """The command that trains with the settings."""
        return command_line("train", {"config": self.folder / SETTINGS}, self.request.tasks)

    def page(self) -> Page:
        """What is told of it."""
        from ..report import tuning_page

        own = _given(self.request) | self.options.given()
        return tuning_page(
            self.found,
            data=self.tasks.name,
            settings=own,
            command=command_line("tune", own, self.request.tasks),
            next=self.next(),
            notes=self.tasks.notes,
        )

    def show(self) -> None:
        """The result as text."""
        found = self.found
        metric = "log loss" if found.metric == "loss" else LABELS[found.metric]
        rows = [["settings", f"{metric}, {len(found.losses)} meta-validation tasks"]]
        for name, error in (("untuned", found.untuned), ("best of the trials", found.error)):
            rows.append([name, cell(error, found.metric)])
        states = found.trials["state"].value_counts()
        count = f"{len(found.trials)} trial{'s' * (len(found.trials) != 1)}"
        say(f"{self.tasks.name}: {count}, {states.get('given up', 0)} given up early\n")
        say(columns(rows))
        if found.scores is not None:
            say(f"\nwith the best settings, {scored(found.scores, self.tasks.test)}, looked at once:")
            say(steps_table(found.scores))


def _given(request: Request) -> dict[str, Any]:
    """The options that were given and are not the default."""
    default = Request(
        tasks="", data=DataOptions(), algorithm=TunedAlgorithm(), training=TrainingOptions()
    ).settings()
    return {
        name: value
        for name, value in request.settings().items()
        if value != default[name] and name not in ("tasks", "candidates")
    }


def _leave(tuned: _Tuned, report: str | None, notes: Notes, *, json: bool) -> None:
    """Write the settings and the page, and print."""
    from ..files import write_bytes
    from ..tuning.space import in_words

    found, path = tuned.found, tuned.folder / SETTINGS
    about_it = f"Settings found by innerloop tune in {len(found.trials)} trials on {tuned.tasks.name}."
    write_bytes(path, _toml("train", tuned.options_of_train(), about_it).encode())
    page = leave(report, tuned.folder / "report.html", tuned.page, notes)
    if json:
        emit(
            "tune", tuned.request.training.seed, notes, tuned.request.settings() | tuned.options.settings(),
            out=str(tuned.folder), chosen=found.settings, metric=found.metric,
            validation={"best": list(found.error), "untuned": list(found.untuned)},
            scores=[] if found.scores is None else found.scores.scores(found.algorithm),
            trials=found.trials.to_dict("records"), importances=found.importances,
            interrupted=found.interrupted, next=tuned.next(), report=None if page is None else str(page),
        )  # fmt: skip
        return
    tuned.show()
    say(f"\nbest: {in_words(found.settings)}")
    say(f"settings: {path}")
    if page is not None:
        say(f"page: {page}")
    say(f"to train with them: {tuned.next()}")


def _toml(table: str, values: Mapping[str, object], about_it: str) -> str:
    r"""A table of a TOML file; what is not set is left out.

    Example:
        >>> print(
        ...     _toml(
        ...         "train", {"task": 'a "b"', "hidden": [40, 40], "squares": True, "meta_lr": 1e-3}, "Found."
        ...     )
        ... )
        # Found.
        [train]
        task = "a \"b\""
        hidden = [40, 40]
        squares = true
        meta_lr = 0.001
        <BLANKLINE>
    """
    import json

    def written(value: object) -> str:
        if isinstance(value, bool | int | float):
            return json.dumps(value)
        if isinstance(value, list):
            return f"[{', '.join(map(written, value))}]"
        # what JSON escapes, TOML does too, but for the one control character that JSON leaves as it is
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")

    lines = [f"{name} = {written(value)}" for name, value in values.items()]
    return "\n".join([f"# {' '.join(about_it.split())}", f"[{table}]", *lines, ""])
