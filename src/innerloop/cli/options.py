"""The options that verbs share, as frozen dataclasses: cyclopts shows and reads their fields as options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Self

from cyclopts import Group, Parameter

from ..errors import UsageError

__all__ = [
    "ALGORITHM", "DATA", "FLAG", "OUTPUT", "TRAINING", "AlgorithmOptions", "Categorical", "DataOptions", "Device",
    "Encoder", "Features", "FoldedDataOptions", "Footer", "Ignore", "ImageSize", "Json", "Kind", "NetworkOptions",
    "Options", "Quiet", "Replace", "SkipBad", "Steps", "TrainingOptions", "TunedAlgorithm", "about", "option_name",
    "option_words",
]  # fmt: skip

DATA, ALGORITHM, TRAINING, OUTPUT = (
    Group(name, sort_key=number) for number, name in enumerate(("Data", "Algorithm", "Training", "Output"), 1)
)


def about(text: str) -> Parameter:
    """The help of an option."""
    return Parameter(help=text)


FLAG = Parameter(negative="", group=OUTPUT, show_default=False)
Json = Annotated[bool, FLAG, about("Print one JSON object on stdout.")]
Quiet = Annotated[bool, FLAG, about("No progress and no notes on stderr.")]
Replace = Annotated[bool, FLAG, about("Replace the model that is in the directory.")]
Device = Annotated[str, about("auto (the GPU where it is estimated faster), cpu, cuda, ...")]
Steps = Annotated[int | None, about("Inner steps; as in training unless given.")]

# what verbs that read tables and images have in common
Features = Annotated[str | None, about("Columns to use: A,B,C. All others unless given.")]
Ignore = Annotated[str | None, about("Columns not to use: A,B.")]
Categorical = Annotated[str | None, about("Columns whose values are names: A,B.")]
Kind = Annotated[str | None, about("regression or classification; found out unless given.")]
ImageSize = Annotated[int | None, about("Side of the images in pixels.")]
Encoder = Annotated[
    str | None,
    about(
        "Makes features of pictures, texts or files: efficientnet-lite0, efficientnet-lite2, wordllama, minilm, "
        "timm:NAME=FILE, sentence-transformers:FOLDER, or a function of yours, module:function."
    ),
]
Footer = Annotated[int | None, about("Lines below the rows, such as totals; as in training unless given.")]
SkipBad = Annotated[bool, Parameter(negative="", help="Leave damaged images out, and count them.")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that belong together; a field that is another one of these has its options in the same place."""

    def settings(self) -> dict[str, object]:
        """Every option by its name, as it is stored with a model."""
        flat: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            flat |= value.settings() if isinstance(value, Options) else {field.name: value}
        return flat

    def given(self) -> dict[str, object]:
        """The options that were asked for."""
        return {
            key: value for key, value in self.settings().items() if value is not None and value is not False
        }

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """The options among stored settings."""
        known = {field.name for field in fields(cls)} & settings.keys()
        return cls(**{name: settings[name] for name in known})


@Parameter(name="*", group=DATA)
@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Which tasks there are: those of `train`, `check` and `compare`; stored with the model for `evaluate`."""

    task: Annotated[str | None, about("Column that says the task of each row.")] = None
    target: Annotated[str | None, about("Column to predict; several for regression: A,B.")] = None
    n_support: Annotated[str | None, about("Support rows a task: 5, or a range such as 1-8.")] = None
    n_shot: Annotated[str | None, about("Support rows a class: 1, or a range.")] = None
    n_way: Annotated[int | None, about("Classes an episode, where classes are the tasks.")] = None
    train_way: Annotated[
        int | None, about("Classes of a training episode, if not --n-way: protonet learns more from many.")
    ] = None
    n_query: Annotated[int | None, about("Query rows of a training episode.")] = None
    features: Features = None
    ignore: Ignore = None
    categorical: Categorical = None
    kind: Kind = None
    support: Annotated[str | None, about("Which rows are support: random, order:COLUMN or block:COLUMN.")] = (
        None
    )
    split: Annotated[
        str | None, about("Shares for train, validation, test: 0.7,0.15,0.15; or hash; or a CSV file.")
    ] = None
    # where folds are an option among these, it stands here
    folds: Annotated[int | None, Parameter(parse=False)] = None
    split_by: Annotated[str | None, about("Column whose values are divided instead of tasks: clinic.")] = None
    date_format: Annotated[str | None, about("How dates are written, where it is not clear: %d/%m/%Y.")] = (
        None
    )
    decimal: Annotated[str | None, about("What numbers are written with: a point, or a comma as in 1,5.")] = (
        None
    )
    missing: Annotated[str | None, about("What stands for a gap: -,k.A. (in every column but ids).")] = None
    encoding: Annotated[str | None, about("Of text that is not UTF-8: cp1252 (Windows), latin-1.")] = None
    sheet: Annotated[str | None, about("Of an .xlsx file with several.")] = None
    skip_rows: Annotated[int | None, about("Lines above the names of the columns.")] = None
    header_rows: Annotated[int | None, about("Lines of these names: 2 where merged cells stand above.")] = (
        None
    )
    skip_footer: Annotated[int | None, about("Lines below the rows, such as totals; 0 for none.")] = None
    labels: Annotated[
        str | None, about("shared: a class is the same in every task; per_task: each task has its own.")
    ] = None
    rare: Annotated[
        int | None, about("Levels of a category that fewer tasks have are taken together; 5, 0 keeps all.")
    ] = None
    text: Annotated[str | None, about("Columns of texts, for an encoder: A,B.")] = None
    encoder: Encoder = None
    image_size: ImageSize = None
    skip_bad: SkipBad = False
    skip_small: Annotated[
        bool, Parameter(negative="", help="Leave classes out that have too few rows, and count them.")
    ] = False
    data: Annotated[str | None, about("Folder of built-in data that is not part of the package.")] = None


@dataclass(frozen=True, kw_only=True)
class FoldedDataOptions(DataOptions):
    """The data options of `train`, which can divide the tasks into folds."""

    folds: Annotated[
        int | None, about("Score by folds over tasks: 5 trains 5 times, every task is tested once.")
    ] = None


@Parameter(name="*", group=ALGORITHM)
@dataclass(frozen=True, kw_only=True)
class NetworkOptions(Options):
    """The network that is trained."""

    model: Annotated[str | None, about("mlp or conv4; by the data unless given.")] = None
    hidden: Annotated[str | None, about("Hidden widths of the mlp: 40,40.")] = None
    activation: Annotated[
        str | None, about("Of the mlp's hidden units: tanh, relu, silu, gelu, sigmoid or sine.")
    ] = None
    width: Annotated[int | None, about("Channels of the conv4.")] = None
    pool: Annotated[str | None, about("Of the conv4: stride (default) or max.")] = None

    def arguments(self) -> dict[str, Any]:
        """What was asked for, as `learner_for` takes it.

        Example:
            >>> NetworkOptions(hidden="40,40").arguments()
            {'hidden': [40, 40]}
        """
        try:
            widths = [int(width) for width in self.hidden.split(",")] if self.hidden else None
        except ValueError:
            raise UsageError(f"--hidden {self.hidden}: give widths such as 40,40") from None
        return {
            key: value for key, value in (self.settings() | {"hidden": widths}).items() if value is not None
        }


@Parameter(name="*", group=ALGORITHM)
@dataclass(frozen=True, kw_only=True)
class AlgorithmOptions(Options):
    """The algorithm and what it adapts how."""

    algorithm: Annotated[str, about("auto: the best are combined; others: innerloop list algorithms.")] = (
        "auto"
    )
    single: Annotated[bool, about("With auto: keep the best candidate alone.")] = False
    network: NetworkOptions = NetworkOptions()
    scaling: Annotated[str, about("Of numbers: shared by all tasks, or per_task, by each support.")] = (
        "shared"
    )
    inner_lr: Annotated[float | None, about("Inner step size (where it starts, if learned).")] = None
    inner_steps: Annotated[int | None, about("Inner steps.")] = None
    learn_lr: Annotated[str | None, about("Learn step sizes: none, all, tensor or weight.")] = None
    inner_clip: Annotated[float | None, about("Largest norm of an inner gradient; 0 for none.")] = None
    metagrad: Annotated[
        str | None, about("unrolled, or checkpointed: less memory for many inner steps, more time.")
    ] = None
    adapt: Annotated[str | None, about("What adapts: all, head, body or a name pattern.")] = None
    batchnorm: Annotated[
        str | None, about("BatchNorm statistics: support, frozen, transductive or per_step.")
    ] = None
    kernel: Annotated[
        str | None,
        about(
            "Of a Gaussian process, a sum: linear, squared_exponential, matern32, periodic (linear+periodic)."
        ),
    ] = None
    mean: Annotated[str | None, about("Of a Gaussian process (gp): auto, constant, line or squares.")] = None
    noise: Annotated[
        str | None, about("Of a Gaussian process: constant, or log_linear where it grows with a feature.")
    ] = None
    squares: Annotated[
        bool, Parameter(negative="", help="Of mixed: add the squares of numbers.", show_default=False)
    ] = False
    interactions: Annotated[str | None, about("Of mixed: products of columns: age:dose,age:sex.")] = None
    random: Annotated[
        str | None,
        about(
            "Of mixed: terms that differ among tasks: age,age^2; none for the constant alone; all unless given."
        ),
    ] = None
    covariance: Annotated[
        str | None, about("Of the tasks' coefficients (mixed, gaussian): full, diagonal, shared or auto.")
    ] = None
    likelihood: Annotated[str | None, about("Of mixed: ml (default) or reml.")] = None
    init: Annotated[Path | None, about("Start from trained weights: a model directory, or safetensors.")] = (
        None
    )

    def network_arguments(self) -> dict[str, Any]:
        """What was asked for of the network and the scaling of its numbers, as `learner_for` takes it."""
        scaling = {} if self.scaling == "shared" else {"scaling": self.scaling}
        return self.network.arguments() | scaling

    def arguments(self) -> dict[str, Any]:
        """What was asked for of the algorithm, as its preset takes it; 0 and `none` become `None`."""
        names = (
            "inner_lr", "inner_steps", "learn_lr", "metagrad", "adapt", "batchnorm", "kernel", "mean", "noise",
            "covariance", "likelihood",
        )  # fmt: skip
        wanted = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        wanted |= {"squares": True} if self.squares else {}
        if self.interactions is not None:
            wanted["interactions"] = self.interactions.split(",")
        if self.random is not None:
            wanted["random"] = [] if self.random == "none" else self.random.split(",")
        if wanted.get("learn_lr") == "none":
            wanted["learn_lr"] = None
        return wanted if self.inner_clip is None else wanted | {"clip": self.inner_clip or None}


@dataclass(frozen=True, kw_only=True)
class TunedAlgorithm(AlgorithmOptions):
    """The algorithms that are tuned, and what of them is fixed."""

    algorithm: Annotated[
        str, about("What is tuned: names such as maml,ridge; auto: the candidates of innerloop train.")
    ] = "auto"
    # a tuning keeps one in any case, and begins anew in every trial
    single: Annotated[bool, Parameter(parse=False)] = False
    init: Annotated[Path | None, Parameter(parse=False)] = None


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """The outer loop."""

    steps: Annotated[int | None, about("Meta-updates.")] = None
    meta_lr: Annotated[float | None, about("Outer step size (Adam).")] = None
    meta_batch_size: Annotated[int | None, about("Episodes a meta-update.")] = None
    schedule: Annotated[str, about("cosine or constant.")] = "cosine"
    clip: Annotated[float, about("Largest norm of the meta-gradient; 0 for none.")] = 10.0
    validate_every: Annotated[int | None, about("Steps between validations.")] = None
    composition: Annotated[
        str | None, about("Training tasks: fixed, permuted, recombined, fresh (default) or resplit.")
    ] = None
    augment: Annotated[str | None, about("Of training tasks: rotate, flip, crop, permute, noise, mix.")] = (
        None
    )
    gear: Annotated[
        str,
        Parameter(alias="--engine", help="auto, eager, traced, compiled or loop; the result is the same."),
    ] = "auto"
    memory: Annotated[str, about("What tasks that are worked on at once may keep: auto, 512MB.")] = "auto"
    precision: Annotated[str, about("Of the network's products in training: float32 or bfloat16.")] = (
        "float32"
    )
    seed: Annotated[int, about("Of the split, the initial parameters and the episodes.")] = 0
    device: Device = "auto"
    shards: Annotated[
        int | None, about("Parts of a meta-batch that the processes of torchrun share; 8 there.")
    ] = None

    def arguments(self) -> dict[str, Any]:
        """What `meta_train` takes."""
        ours = ("composition", "augment")
        kept = {key: value for key, value in self.settings().items() if key not in ours}
        return kept | {"clip": self.clip or None}


def option_name(key: str) -> str:
    """The name of a setting on the command line.

    Example:
        >>> option_name("n_support")
        '--n-support'
    """
    return f"--{key.replace('_', '-')}"


def option_words(settings: Mapping[str, object]) -> list[str]:
    """The words that ask for settings on the command line; those that are not set are left out.

    Example:
        >>> option_words({"n_support": "3", "skip_bad": True, "n_way": None})
        ['--n-support', '3', '--skip-bad']
    """
    words = []
    for key, value in settings.items():
        if value is not None and value is not False:
            words += [option_name(key)] if value is True else [option_name(key), str(value)]
    return words
