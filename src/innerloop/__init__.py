"""Innerloop: meta-learning for people with many small related tasks.

The outer loop learns the task logic, the inner loop learns the data: a model adapts to a new task from a few
examples, with any `nn.Module`. Names are loaded when first used, so that importing the package is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from . import baselines as baselines
    from . import datasets as datasets
    from . import figures as figures
    from . import inner as inner
    from . import learned as learned
    from . import logs as logs
    from . import models as models
    from . import report as report
    from . import tasks as tasks
    from .algorithms import fomaml as fomaml
    from .algorithms import gaussian as gaussian
    from .algorithms import maml as maml
    from .algorithms import mixed as mixed
    from .algorithms import protonet as protonet
    from .algorithms import ridge as ridge
    from .checkpoint import load as load
    from .checkpoint import save as save
    from .engine import benchmark as benchmark
    from .engine import fast as fast
    from .episodes import Batch as Batch
    from .episodes import Episode as Episode
    from .evaluation import Evaluation as Evaluation
    from .evaluation import evaluate as evaluate
    from .evaluation import query_dependence as query_dependence
    from .learner import Learner as Learner
    from .learner import Model as Model
    from .refining import Refined as Refined
    from .refining import refine as refine
    from .refining import state_dict as state_dict
    from .training import Run as Run
    from .training import meta_train as meta_train

# public name -> the module it lives in; None: the name is a module itself
_HOME: dict[str, str | None] = {
    "Batch": "episodes",
    "Episode": "episodes",
    "Evaluation": "evaluation",
    "Learner": "learner",
    "Model": "learner",
    "Refined": "refining",
    "Run": "training",
    "baselines": None,
    "benchmark": "engine",
    "datasets": None,
    "evaluate": "evaluation",
    "figures": None,
    "fast": "engine",
    "fomaml": "algorithms",
    "gaussian": "algorithms",
    "inner": None,
    "learned": None,
    "load": "checkpoint",
    "logs": None,
    "maml": "algorithms",
    "meta_train": "training",
    "mixed": "algorithms",
    "models": None,
    "protonet": "algorithms",
    "report": None,
    "query_dependence": "evaluation",
    "refine": "refining",
    "ridge": "algorithms",
    "save": "checkpoint",
    "state_dict": "refining",
    "tasks": None,
}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # asking the metadata costs more time than the rest of `import innerloop`
        from importlib.metadata import version

        return version("innerloop")
    if name not in _HOME:
        raise AttributeError(f"module 'innerloop' has no attribute {name!r}")
    home = _HOME[name]
    if home is None:
        return import_module(f"innerloop.{name}")
    return getattr(import_module(f"innerloop.{home}"), name)


def __dir__() -> list[str]:
    return __all__
