"""Innerloop: meta-learning for people with many small related tasks.

The outer loop learns the task logic, the inner loop learns the data: a model adapts to a new task from a few
examples, with any `nn.Module`. Names are loaded when first used, so that importing the package is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from . import encoders as encoders
    from . import inner as inner
    from . import models as models
    from . import report as report
    from . import tasks as tasks
    from .algorithms import baselines as baselines
    from .algorithms import fomaml as fomaml
    from .algorithms import gaussian as gaussian
    from .algorithms import gp as gp
    from .algorithms import maml as maml
    from .algorithms import mixed as mixed
    from .algorithms import protonet as protonet
    from .algorithms import ridge as ridge
    from .algorithms import two_covariance as two_covariance
    from .engine import benchmark as benchmark
    from .engine import fast as fast
    from .estimators import MetaClassifier as MetaClassifier
    from .estimators import MetaEmbedding as MetaEmbedding
    from .estimators import MetaRegressor as MetaRegressor
    from .estimators import SupportQuerySplit as SupportQuerySplit
    from .estimators import cross_val_adapt as cross_val_adapt
    from .evaluation import Calibration as Calibration
    from .evaluation import Evaluation as Evaluation
    from .evaluation import calibrate as calibrate
    from .evaluation import calibrate_fit as calibrate_fit
    from .evaluation import evaluate as evaluate
    from .evaluation import inspection
    from .evaluation import query_dependence as query_dependence
    from .inner import Learner as Learner
    from .inner import Model as Model
    from .outer import Every as Every
    from .outer import Run as Run
    from .outer import TrainingState as TrainingState
    from .outer import logs as logs
    from .outer import meta_step as meta_step
    from .outer import meta_train as meta_train
    from .outer import optimizers as optimizers
    from .outer import schedules as schedules
    from .refining import Refined as Refined
    from .refining import refine as refine
    from .refining import state_dict as state_dict
    from .report import figures as figures
    from .storage.checkpoints import Checkpoints as Checkpoints
    from .storage.load import load as load
    from .storage.save import save as save
    from .tasks import datasets as datasets
    from .tasks.episodes import Batch as Batch
    from .tasks.episodes import Episode as Episode
    from .tuning import tune as tune

    learned = inspection

# public name -> where it lives: a module and a name in it, or a module
_HOME = {
    "Batch": "tasks.episodes:Batch",
    "Calibration": "evaluation:Calibration",
    "Checkpoints": "storage:Checkpoints",
    "Episode": "tasks.episodes:Episode",
    "Evaluation": "evaluation:Evaluation",
    "Every": "outer:Every",
    "Learner": "inner:Learner",
    "MetaClassifier": "estimators:MetaClassifier",
    "MetaEmbedding": "estimators:MetaEmbedding",
    "MetaRegressor": "estimators:MetaRegressor",
    "Model": "inner:Model",
    "Refined": "refining:Refined",
    "Run": "outer:Run",
    "SupportQuerySplit": "estimators:SupportQuerySplit",
    "TrainingState": "outer:TrainingState",
    "baselines": "algorithms.baselines",
    "benchmark": "engine:benchmark",
    "calibrate": "evaluation:calibrate",
    "calibrate_fit": "evaluation:calibrate_fit",
    "cross_val_adapt": "estimators:cross_val_adapt",
    "datasets": "tasks.datasets",
    "encoders": "encoders",
    "evaluate": "evaluation:evaluate",
    "fast": "engine:fast",
    "figures": "report.figures",
    "fomaml": "algorithms:fomaml",
    "gaussian": "algorithms:gaussian",
    "gp": "algorithms:gp",
    "inner": "inner",
    "inner_path": "evaluation:inner_path",
    "learned": "evaluation.inspection",
    "load": "storage:load",
    "logs": "outer.logs",
    "maml": "algorithms:maml",
    "meta_step": "outer:meta_step",
    "meta_train": "outer:meta_train",
    "mixed": "algorithms:mixed",
    "models": "models",
    "optimizers": "outer.optimizers",
    "protonet": "algorithms:protonet",
    "query_dependence": "evaluation:query_dependence",
    "refine": "refining:refine",
    "report": "report",
    "ridge": "algorithms:ridge",
    "save": "storage:save",
    "schedules": "outer.schedules",
    "state_dict": "refining:state_dict",
    "tasks": "tasks",
    "tune": "tuning:tune",
    "two_covariance": "algorithms:two_covariance",
}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # asking the metadata costs more time than the rest of `import innerloop`
        from importlib.metadata import version

        return version("innerloop")
    if name not in _HOME:
        raise AttributeError(f"module 'innerloop' has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    found = import_module(f"innerloop.{module}")
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return __all__
