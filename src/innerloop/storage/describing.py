"""What a model directory holds in short, as plain data, and the versions that it was made with."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from .plain_json import JsonObject
from .tensors import precision

if TYPE_CHECKING:
    from .stored import Stored

__all__ = ["describe", "versions"]

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
    "enrolled",
)


def describe(stored: Stored) -> JsonObject:
    """What `innerloop inspect` prints, as plain data; what is not known is `None`.

    Example:
        >>> import tempfile, innerloop as il
        >>> learner = il.mixed(2)
        >>> path = il.save(Path(tempfile.mkdtemp()) / "run", Model(learner, learner.init()))
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
        **{name: entries[name] for name in _SHOWN},
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; that of torch names its build, as `+cpu`.

    Example:
        >>> sorted(versions())
        ['innerloop', 'numpy', 'python', 'torch']
    """
    # the metadata of a wheel may leave the build out
    build = str(torch.__version__)
    return {
        "python": platform.python_version(),
        "innerloop": version("innerloop"),
        "torch": build,
        "numpy": version("numpy"),
    }
