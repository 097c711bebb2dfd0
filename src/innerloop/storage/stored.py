"""What a model directory holds, as an object: it writes itself, and the tasks that were adapted from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import DivergedError, ModelFileError, UsageError
from ..inner.model import Adapted, Model
from ..models.network import Params
from .calibrations import calibration_of, fit_tensors, to_tensors
from .card import model_card, require_licence
from .facts import PERCENTILES
from .manifest import CARD, write_sealed
from .of_tables import OfTables
from .plain_json import parse_json, to_json, without_nan
from .reading import read
from .task_values import MASK, TASKS, packed
from .validation import Config, outputs_of, require_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

__all__ = ["Stored"]


@dataclass(frozen=True, eq=False)
class Stored(OfTables):
    """What a model directory holds; `load` reads it, `adapt_frame` makes one of adapted tasks.

    Arguments are those of `Facts`.
    """

    def forgetting(self) -> Stored:
        """The run without the tasks that it knows, and without the names of those it was trained on."""
        settings = {name: value for name, value in self.config["settings"].items() if name != PERCENTILES}
        config: Config = {**self.config, "tasks": None, "splits": None, "settings": settings}
        return replace(self, config=config, sha256="", tasks={})

    def export(self, path: str | Path, *, to: str | None = None, interval: float | None = None) -> Path:
        """Write the model as one file that adapts and predicts without this package.

        Encoding and scaling of the columns, the inner loop with its gradients, the head and the intervals are inside.
        It takes the raw columns of a task's support rows and of the rows to predict, any number of each, and gives the
        columns of `predict_frame`, in double precision. See docs/howto/export.md.

        Arguments:
            path: the file.
            to: `onnx`, which onnxruntime and others run, or `torch`, which `torch.export.load` reads; by the ending of
                the path (.onnx, .pt2) unless given.
            interval: share of the rows of new tasks that intervals, or sets of classes, shall hold; none unless given.

        Returns:
            The path.

        Raises:
            UsageError: the model was not trained on a table with a task column or is adapted already, has no graph,
                or no form in ONNX; there are no intervals of this share; the ending of the path says nothing.
            ResourceError: the file cannot be written.

        Example:
            >>> import pandas as pd, tempfile, innerloop as il
            >>> from innerloop.storage.save import unsaved
            >>> from innerloop.tasks.tables.schema import Schema
            >>> frame = pd.DataFrame(
            ...     {"site": list("aabb"), "dose": [1, 2, 3, 4], "risk": [0.1, 0.2, 0.4, 0.9]}
            ... )
            >>> schema = Schema.fit(frame, task="site", target="risk")
            >>> learner = il.mixed(schema.n_features)
            >>> run = unsaved(il.Model(learner, learner.init()), schema=schema)
            >>> path = run.export(Path(tempfile.mkdtemp()) / "risk.pt2")
            >>> program = torch.export.load(path).module()
            >>> known = {"dose": torch.tensor([1.0]).double(), "risk": torch.tensor([0.3]).double()}
            >>> program(known, {"dose": torch.tensor([1.0, 2.0]).double()})["prediction"].shape
            torch.Size([2])
        """
        from .export import export_table
        from .interval_columns import intervals_of

        schema, intervals = self.table_schema(), None
        if self.kind == "adapted":
            raise UsageError(f"{self.path} is adapted already: export the run that it was adapted from")
        if interval is not None:
            intervals = intervals_of(self.calibration, interval, where=self.path, inner_steps=None)
        export_table(Path(path), self.model, schema=schema, to=to, intervals=intervals, sha256=self.sha256)
        return Path(path)

    def save(
        self, directory: str | Path, *, settings: Mapping[str, object] | None = None, replace: bool = False
    ) -> Path:
        """Write a model directory with all of this; a crash leaves the old one or the new one.

        Arguments:
            directory: where; it must be missing or empty, or a model directory if `replace` is given.
            settings: what to add to the settings in `config.json`.
            replace: replace a model directory that is there.

        Returns:
            The directory.

        Raises:
            UsageError: it cannot be stored, or the directory holds something else.
            DivergedError: a parameter is not finite.
            ResourceError: the directory cannot be written.

        Example:
            >>> import tempfile, innerloop as il
            >>> learner, folder = il.mixed(2), Path(tempfile.mkdtemp())
            >>> stored = il.load(il.save(folder / "one", il.Model(learner, learner.init())))
            >>> il.load(stored.save(folder / "other")).sha256 == stored.sha256
            True
        """
        import safetensors.torch

        tensors = {**self.model.meta, **{f"{MASK}{name}": value for name, value in self.mask.items()}}
        tensors |= to_tensors(self.calibration) | fit_tensors(self.fit)
        tensors |= self.enrolled.tensors() if self.enrolled else {}
        _require_finite(tensors)
        config: Config = {**self.config, "settings": {**(settings or {}), **self.config["settings"]}}
        text = to_json(config, indent=1)
        try:
            require_config(parse_json(text, "config"))
            calibration_of(tensors, outputs_of(self.config, self.schema))
        except (ModelFileError, ValueError) as error:
            raise UsageError(f"this cannot be stored: {error}") from None
        # a clone, because tensors that share memory are refused
        tensors = {
            name: value.detach().cpu().contiguous().clone()
            for name, value in (tensors | _stacks(self.model, self.tasks)).items()
        }
        content = {
            "config.json": text,
            "log.jsonl": b"".join(to_json(without_nan(entry)) for entry in self.log),
            "model.safetensors": safetensors.torch.save(tensors),
        }
        card = model_card(self, config)
        write_sealed(Path(directory), {**content, CARD: card, **self.extra}, replace=replace)
        return Path(directory)

    def save_pretrained(
        self, directory: str | Path, *, license: str | None = None, replace: bool = False
    ) -> Path:
        """`save` by the name that it has in other libraries; `license` fills the field of the model card.

        Arguments:
            directory: where; it must be missing or empty, or a model directory if `replace` is given.
            license: of the weights, such as `cc-by-4.0`; as it was unless given.
            replace: replace a model directory that is there.

        Returns:
            The directory.

        Raises:
            UsageError: the licence is no line of text, or as `save`.

        Example:
            >>> import tempfile, innerloop as il
            >>> learner, folder = il.mixed(2), Path(tempfile.mkdtemp())
            >>> stored = il.load(il.save(folder / "one", il.Model(learner, learner.init())))
            >>> path = stored.save_pretrained(folder / "two", license="cc-by-4.0")
            >>> (path / "README.md").read_text().splitlines()[2]
            'license: "cc-by-4.0"'
        """
        if license is None:
            return self.save(directory, replace=replace)
        settings = {**self.config["settings"], "license": require_licence(license)}
        config: Config = {**self.config, "settings": settings}
        return dataclasses.replace(self, config=config, sha256="").save(directory, replace=replace)

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, *, module: nn.Module | None = None, device: torch.device | str = "cpu"
    ) -> Stored:
        """`load` by the name that it has in other libraries.

        Arguments:
            directory: what `innerloop train --out`, `save` or `save_pretrained` wrote.
            module: the module, where the model was trained with one of your own.
            device: where the model goes.

        Raises:
            ModelFileError: it is no model directory, or a damaged one.
            UsageError: `module` is needed, or does not fit.
        """
        return read(cls, directory, module=module, device=device)


def _stacks(model: Model, tasks: Mapping[str, Adapted]) -> Params:
    """The values that tasks own, in the order of the tasks that own something.

    Raises:
        DivergedError: a value is not finite.
    """
    own = {task: one.own for task, one in tasks.items() if one.own}
    for task, values in own.items():
        _require_finite(values, f"task {task!r}")
    return {f"{TASKS}{name}": value for name, value in packed(model, list(own.values())).items()}


def _require_finite(values: Params, who: str = "the model") -> None:
    for name, value in values.items():
        if not torch.isfinite(value).all():
            raise DivergedError(
                f"{who} diverged: {name!r} holds NaN or infinity: lower the learning rates, train again"
            )
