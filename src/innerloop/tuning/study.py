"""The trials of a tuning, kept by Optuna: in memory, or in a journal from which it goes on."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import files
from ..errors import ModelFileError, ResourceError, UsageError
from ..storage.fingerprints import changes
from .space import Knob, OneOf

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

__all__ = ["JOURNAL", "clearly_worse", "finished", "importances", "next_trial", "opened", "require_optuna"]

JOURNAL = "trials.jsonl"
_LOCK = "lock"
_ABOUT = "about"
# the first trials are drawn at random, so that the model of good settings has something to begin with
_RANDOM = 10
_REPEATS = 3


def require_optuna() -> None:
    """Refuse to tune without Optuna.

    Raises:
        UsageError: the extra `tune` is not installed.
    """
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise UsageError("tuning needs Optuna: pip install 'innerloop[tune]'")


@contextmanager
def opened(folder: Path | None, about: Mapping[str, Any]) -> Iterator[Study]:
    """The study of a folder, which nobody else may write to meanwhile; a new one where there is none.

    Arguments:
        folder: where its journal is; `None` keeps it in memory.
        about: what is tuned, as plain data; the study of a folder has to be of the same.

    Raises:
        UsageError: the folder holds the trials of something else.
        ModelFileError: the journal is damaged.
        ResourceError: another process has the folder, or it cannot be written.
    """
    require_optuna()
    if folder is None:
        with _quiet():
            yield _study(None)
        return
    files.make_folder(folder)
    lock = files.Lock(folder / _LOCK)
    if not lock.take(b""):
        raise ResourceError(f"another process tunes in {folder}: wait for it, or choose another folder")
    try:
        with _quiet():
            study = _of_journal(folder / JOURNAL)
            before = study.user_attrs.get(_ABOUT)
            if before is None:
                study.set_user_attr(_ABOUT, dict(about))
            elif found := list(changes(dict(about), before).values()):
                raise UsageError(
                    f"{folder} holds the trials of another tuning: {'; '.join(found)}. Give what was given then, begin "
                    "anew (--replace), or choose another folder"
                )
            yield study
    finally:
        lock.release()


@contextmanager
def _quiet() -> Iterator[None]:
    """No lines of Optuna's log below warnings, and no remarks that parts of it are experimental."""
    from optuna.exceptions import ExperimentalWarning

    log = logging.getLogger("optuna")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        log.setLevel(before)


def _of_journal(path: Path) -> Study:
    """The study in a journal; a trial that was under way when the process ended has failed."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    if path.exists():
        _drop_half_a_line(path)
    try:
        study = _study(JournalStorage(JournalFileBackend(str(path))))
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{path} is damaged ({type(error).__name__}: {error}): restore it, or begin anew (--replace)"
        ) from error
    return study


def _drop_half_a_line(path: Path) -> None:
    """Without the end of a journal that a process was writing when it was killed: the next line would join it."""
    content = files.read_bytes(path)
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        files.write_bytes(path, whole)


def _study(storage: Any) -> Study:
    import optuna

    return optuna.create_study(
        storage=storage, study_name="tuning", direction="minimize", load_if_exists=storage is not None,
        pruner=optuna.pruners.NopPruner(),
    )  # fmt: skip


def finished(study: Study) -> list[FrozenTrial]:
    """The trials that came to an end, also to an early one."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def next_trial(
    study: Study, spaces: Mapping[str, Mapping[str, Knob]], *, seed: int, attempt: int = 0
) -> tuple[Trial, dict[str, Any]]:
    """A trial and its values: first the sound ones of each algorithm, then those that Optuna's TPE sampler proposes.

    The draws of a trial follow from the seed and the number of trials before it, so that a tuning that was
    interrupted proposes what one in a single run would.

    Bergstra, Bardenet, Bengio & Kégl, 2011, *Algorithms for Hyper-Parameter Optimization*.

    Arguments:
        study: the trials so far.
        spaces: of each algorithm the knobs.
        seed: of all draws.
        attempt: how often it was proposed what was tried before.
    """
    from optuna.samplers import RandomSampler, TPESampler

    done = len(finished(study))
    draw = int(np.random.SeedSequence([seed, done, attempt]).generate_state(1)[0])
    # where the sampler is sure of what was tried already, chance finds what was not
    often = attempt > _REPEATS
    study.sampler = (
        RandomSampler(seed=draw)
        if often
        else TPESampler(seed=draw, n_startup_trials=_RANDOM, multivariate=True)
    )
    if done < len(spaces):
        algorithm = list(spaces)[done]
        sound = {_name(algorithm, name): knob.sound for name, knob in spaces[algorithm].items()}
        study.enqueue_trial({"algorithm": algorithm, **sound})
    trial = study.ask()
    algorithm = str(trial.suggest_categorical("algorithm", list(spaces)))
    values = {
        name: _suggested(trial, _name(algorithm, name), knob) for name, knob in spaces[algorithm].items()
    }
    return trial, {"algorithm": algorithm, **values}


def _name(algorithm: str, name: str) -> str:
    """The name of a knob in the study: ranges of one name differ among algorithms."""
    return f"{algorithm}.{name}"


def _suggested(trial: Trial, name: str, knob: Knob) -> Any:
    if isinstance(knob, OneOf):
        return trial.suggest_categorical(name, knob.values)
    if knob.whole:
        return trial.suggest_int(name, int(knob.low), int(knob.high), log=knob.log)
    return trial.suggest_float(name, knob.low, knob.high, log=knob.log)


def clearly_worse(losses: np.ndarray, best: np.ndarray, *, p: float) -> bool:
    """Whether a trial is worse than the best one on the same tasks, by Optuna's `WilcoxonPruner`.

    A task is an instance: the signed-rank test is over their paired differences. With few tasks nothing is clear:
    at p = 0.1 it takes four.

    Arguments:
        losses: of the trial, `(T,)`.
        best: of the best trial, on the same tasks, at the same point of its training.
        p: below which it is given up.

    Example:
        >>> clearly_worse(np.arange(8) + 1.0, np.arange(8) + 0.5, p=0.1)
        True
        >>> clearly_worse(np.arange(3) + 1.0, np.arange(3) + 0.5, p=0.1)
        False
    """
    import optuna
    from optuna.trial import TrialState, create_trial

    with _quiet():
        study = optuna.create_study(direction="minimize")
        study.add_trial(
            create_trial(value=float(best.mean()), intermediate_values=dict(enumerate(best.tolist())))
        )
        trial = create_trial(state=TrialState.PRUNED, intermediate_values=dict(enumerate(losses.tolist())))
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=p, n_startup_steps=0)
        return bool(pruner.prune(study, trial))


def importances(study: Study) -> dict[str, float]:
    """How much each knob mattered for being among the best quarter of the trials; empty for a few of them.

    The shares are those of PED-ANOVA and sum to 1. Trials that were given up rank behind the others, the later the
    better.
    Watanabe, Bansal & Hutter, 2023, *PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces*.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import create_trial

    done = sorted(finished(study), key=_rank)
    seen: dict[str, set[str]] = {}
    for one in done:
        for name, value in one.params.items():
            seen.setdefault(name, set()).add(str(value))
    varied = {name for name, values in seen.items() if len(values) > 1}
    if len(done) < 2 * _RANDOM or not varied:
        return {}
    with _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some knob was tried too seldom to matter
        ranked = optuna.create_study(direction="minimize")
        for place, one in enumerate(done):
            ranked.add_trial(create_trial(value=place, params=one.params, distributions=one.distributions))
        evaluator = PedAnovaImportanceEvaluator(target_quantile=0.25)
        found = get_param_importances(ranked, evaluator=evaluator)
    return {name: share for name, share in found.items() if name in varied}


def _rank(trial: FrozenTrial) -> tuple[bool, int, float]:
    """Where a trial stands: those that ended by their error, the others by how far they came and their loss there."""
    complete = trial.state.name == "COMPLETE"
    value = math.inf if trial.value is None else trial.value
    return (not complete, 0 if complete else -(trial.last_step or 0), value)
