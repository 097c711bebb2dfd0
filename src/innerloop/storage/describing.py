"""What a model directory holds in short, as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .plain_json import JsonObject
from .tensors import precision

if TYPE_CHECKING:
    from .stored import Stored

__all__ = ["describe"]

_SHOWN = (
    "kind",
    "targets",
    "settings",
    "data",
    "versions",
    "best_step",
    "scores",
    "mixed",
    "parent",
    "tasks",
    "inputs",
)


def describe(stored: Stored) -> JsonObject:
    """What `innerloop inspect` prints, as plain data; what is not known is `None`.

    Example:
        >>> import tempfile, innerloop as il
        >>> from pathlib import Path
        >>> learner = il.mixed(2)
        >>> path = il.save(Path(tempfile.mkdtemp()) / "run", il.Model(learner, learner.init()))
        >>> description = describe(il.load(path))
        >>> description["algorithm"], description["parameters"]
        ('mixed', 13)
    """
    config, schema, entries = stored.config, stored.config["schema"] or {}, {**stored.config}
    splits, support = config["splits"], config["support"]
    targets = [column.name for column in stored.schema.target_columns] if stored.schema else []
    return {
        "path": str(stored.path),
        "sha256": stored.sha256,
        "algorithm": config["learner"]["algorithm"],
        "algorithm_settings": config["learner"]["settings"],
        "model": config["learner"].get("model"),
        "parameters": sum(value.numel() for value in stored.model.meta.values()),
        "precision": str(kind).removeprefix("torch.") if (kind := precision(stored.model.meta)) else None,
        "task": schema.get("task"),
        "target": targets if len(targets) > 1 else next(iter(targets), None),
        "columns": [column["name"] for column in schema["columns"]] if schema else None,
        "classes": schema.get("classes"),
        "tasks_per_split": splits and {name: len(ids) for name, ids in splits.items()},
        "support": support and {("n_shot" if support["per_class"] else "n_support"): support["rows"]},
        "steps": stored.log[-1].get("step") if stored.log else None,
        "calibration": stored.calibration
        and {"tasks": stored.calibration.n_tasks, "support_rows": list(stored.calibration.sizes)},
        "classes_enrolled": config["enrolled"]
        and {entry["id"]: entry["n_support"] for entry in config["enrolled"]},
        **{name: entries[name] for name in _SHOWN},
    }
