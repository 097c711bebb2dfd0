"""Writing a model directory: weights as safetensors, everything else as JSON, and a manifest over both.

Nothing is written that could not be read again by `load`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..algorithms import ALGORITHMS
from ..errors import UsageError
from ..inner.model import Model
from ..models.network import Params
from ..tasks.sources import SupportSize, Targets
from .manifest import EXTRA_FILES, SCHEMA_VERSION
from .membership import hashed
from .plain_json import without_nan
from .stored import Stored
from .tensors import differences, frozen, outline, precision
from .validation import Config
from .versions import versions

if TYPE_CHECKING:
    from ..evaluation.conformal import Calibration
    from ..evaluation.mixed_model import MixedSummary
    from ..evaluation.none_of_these import FitCalibration
    from ..tasks.inputs import InputSchema
    from ..tasks.tables.schema import Schema

__all__ = ["save", "unsaved"]


def save(
    directory: str | Path,
    model: Model,
    *,
    kind: str = "run",
    schema: Schema | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
    support: SupportSize | None = None,
    targets: Targets | None = None,
    settings: Mapping[str, object] | None = None,
    data: Mapping[str, object] | None = None,
    scores: Sequence[Mapping[str, object]] | None = None,
    best_step: int | None = None,
    parent: Stored | None = None,
    mask: Params | None = None,
    mixed: MixedSummary | None = None,
    log: Sequence[Mapping[str, object]] = (),
    extra: Mapping[str, bytes] | None = None,
    keep_ids: bool = False,
    calibration: Calibration | None = None,
    inputs: InputSchema | None = None,
    fit: FitCalibration | None = None,
    replace: bool = False,
) -> Path:
    """Write a model directory; a crash leaves the old one or the new one.

    Arguments:
        directory: where; it must be missing or empty, or a model directory if `replace` is given.
        model: what to store.
        kind: `run` or `refined`.
        schema: what the columns mean.
        splits: ids of the tasks of each split; stored as salted hashes, see `keep_ids`.
        support: how many rows formed a support set.
        targets: what the targets are.
        settings: resolved settings of the command.
        data: where the data came from: `name` and `sha256`.
        scores: rows of `Evaluation.scores`.
        best_step: the step the parameters come from.
        parent: the model that this one was refined from.
        mask: true where refinement changed a parameter, by name.
        mixed: the statistician's numbers of a linear mixed model, see `evaluation.mixed_summary`.
        log: one dict a logged step; numbers that are not finite are stored as null.
        extra: files for people, by name: `report.html`, `scores.csv`.
        keep_ids: store the ids of tasks as they are.
        calibration: what `il.calibrate` made, for conformal intervals of new tasks.
        inputs: what a row is, `tasks.inputs`, where it is a picture or a row of an array.
        fit: what `il.calibrate_fit` made, which tells rows of no class.
        replace: replace a model directory that is there.

    Returns:
        The directory.

    Raises:
        UsageError: the model cannot be built again from names, a setting is no plain data, or the directory
            holds something else.
        DivergedError: a parameter is not finite.
        ResourceError: the directory cannot be written.

    Example:
        >>> import tempfile, torch, innerloop as il
        >>> learner = il.mixed(2)
        >>> path = il.save(Path(tempfile.mkdtemp()) / "first", il.Model(learner, learner.init()))
        >>> sorted(file.name for file in path.iterdir())
        ['README.md', 'config.json', 'log.jsonl', 'manifest.json', 'model.safetensors']
        >>> il.load(path).model.adapt(torch.zeros(3, 2), torch.ones(3, 1))(torch.zeros(1, 2)).shape
        torch.Size([1, 1])
    """
    stored = unsaved(
        model, kind=kind, schema=schema, splits=splits, support=support, targets=targets, settings=settings, data=data,
        scores=scores, best_step=best_step, parent=parent, mask=mask, mixed=mixed, log=log, extra=extra,
        keep_ids=keep_ids, calibration=calibration, inputs=inputs, fit=fit,
    )  # fmt: skip
    return stored.save(directory, replace=replace)


def unsaved(  # noqa: D417  the others are those of `save`
    model: Model,
    *,
    kind: str = "run",
    schema: Schema | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
    support: SupportSize | None = None,
    targets: Targets | None = None,
    settings: Mapping[str, object] | None = None,
    data: Mapping[str, object] | None = None,
    scores: Sequence[Mapping[str, object]] | None = None,
    best_step: int | None = None,
    parent: Stored | None = None,
    mask: Params | None = None,
    mixed: MixedSummary | None = None,
    log: Sequence[Mapping[str, object]] = (),
    extra: Mapping[str, bytes] | None = None,
    keep_ids: bool = False,
    calibration: Calibration | None = None,
    inputs: InputSchema | None = None,
    fit: FitCalibration | None = None,
) -> Stored:
    """What `save` would write, in memory: it adapts and predicts as a directory that was loaded.

    Arguments:
        model: what to store; the others are those of `save`.

    Raises:
        UsageError: as `save`.

    Example:
        >>> import innerloop as il
        >>> learner = il.mixed(2)
        >>> unsaved(il.Model(learner, learner.init())).kind
        'run'
    """
    if not isinstance(model, Model):
        raise UsageError(
            f"save(directory, model) takes a Model, not {type(model).__name__}: of a run, give run.model"
        )
    if kind not in ("run", "refined"):
        raise UsageError(f"kind={kind!r} is unknown: choose run or refined; for adapted, use with_tasks")
    if odd := sorted({*(extra or {})} - EXTRA_FILES):
        raise UsageError(f"extra={odd}: choose among {', '.join(sorted(EXTRA_FILES))}")
    expected = outline(model.learner.init(), precision(model.meta))
    if wrong := differences(outline(model.meta), expected):
        raise UsageError(f"the meta-parameters are not those of the learner: {wrong}")
    if model.learner.recipe is None:
        raise UsageError(
            f"a learner assembled by hand cannot be stored by name: make it with {', '.join(ALGORITHMS)}"
        )
    ids = None if splits is None else {name: list(ids) for name, ids in splits.items()}
    if ids is not None and (
        odd_ids := [name for part in ids.values() for name in part if type(name) is not str]
    ):
        raise UsageError(f"splits: the id {odd_ids[0]!r} is no text: give ids as text")
    known = None if keep_ids or ids is None else hashed(ids)
    config: Config = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "learner": model.learner.recipe,
        "frozen": frozen(model.learner),
        "schema": None if schema is None else schema.to_config(),
        "splits": ids if known is None else known.splits,
        "salt": None if known is None else known.salt,
        "alike": None if known is None else known.alike,
        "support": None if support is None else _support(support),
        "targets": None if targets is None else targets._asdict(),
        "settings": dict(settings or {}),
        "data": None if data is None else dict(data),
        "scores": None if scores is None else without_nan([dict(row) for row in scores]),
        "best_step": best_step,
        "parent": None if parent is None else parent.sha256,
        "mixed": None if mixed is None else mixed.plain(),
        "tasks": None,
        "inputs": None if inputs is None else inputs.to_config(),
        "enrolled": None,
        "versions": versions(),
    }
    entries, nowhere = [dict(entry) for entry in log], Path("a model that is not saved")
    stored = Stored(model, config, nowhere, "", entries, schema, mask=mask or {}, extra=extra or {})
    return dataclasses.replace(stored, calibration=calibration, inputs=inputs, fit=fit)


def _support(support: SupportSize) -> dict[str, str | bool]:
    return {"rows": str(support), "per_class": support.per_class, "choice": str(support.choice)}
