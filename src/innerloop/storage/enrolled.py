"""Classes that a model was adapted to, by name: enrolled, added to, forgotten, kept in a model directory.

Of each class there is what says all of it: a mean and a number of rows, where that suffices (prototypes, two
covariances), else its rows. Everything else is computed from these, so that forgetting a class leaves what would be
there had it never been enrolled.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..engine.threads import threads_for
from ..errors import DataError, UsageError
from ..evaluation.none_of_these import NONE_OF_THESE
from ..inner.model import Adapted, Model
from ..models.network import Params, reference
from ..tasks.class_rows import ClassRows
from ..tasks.episodes import Batch
from ..tasks.messages import listed, meant
from .plain_types import require
from .validation import ClassEntry

__all__ = ["ENROLLED", "Enrolled", "enrolled_of"]

ENROLLED = "enrolled/"  # before the names of what classes are known by
_X, _CLASS = f"{ENROLLED}x", f"{ENROLLED}class"
# rows that are predicted, and whose features are found, at once
_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Enrolled:
    """Classes that a model was adapted to.

    Arguments:
        model: as it was trained.
        classes: their names, in order.
        counts: rows that each was given by.
        x: rows `(n, *feature)`, bytes for pictures; or one mean `(C, F)` a class.
        number: the class of each row, `(n,)`.
        means: `x` are means, each for as many rows as `counts` says.
        n_outputs: classes of an episode in training.
    """

    model: Model
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    x: Tensor
    number: Tensor
    means: bool
    n_outputs: int

    @staticmethod
    def of(model: Model, rows: ClassRows, n_outputs: int, *, beside: Enrolled | None = None) -> Enrolled:
        """Enrol the classes of labelled rows, beside others where there are some.

        Raises:
            DataError: there are fewer than two classes.
            UsageError: the model has outputs for fewer classes.
        """
        kept = rows.some(rows.labelled)
        names = sorted({str(label) for label in kept.labels})
        if len({*names, *(beside.classes if beside else ())}) < 2:
            found = listed(names) if names else "none"
            raise DataError(
                f"{len(names)} classes are there ({found}), and two or more are needed: give a folder for each class, "
                "or rows with the name of their class"
            )
        if NONE_OF_THESE in names:
            raise DataError(
                f"a class is called {NONE_OF_THESE!r}, as rows of no class are: give it another name"
            )
        place = {name: number for number, name in enumerate(names)}
        number = torch.tensor([place[str(label)] for label in kept.labels], device="cpu")
        counts = tuple(torch.bincount(number, minlength=len(names)).tolist())
        parts = [_mean(model, kept.x[number == each]) for each in range(len(names))]
        means = [part for part in parts if part is not None]
        if len(means) == len(names):
            x, number = torch.cat(means), torch.arange(len(names), device="cpu")
        else:
            order = torch.argsort(number, stable=True)
            x, number = kept.x[order], number[order]
        enrolled = Enrolled(model, tuple(names), counts, x, number, len(means) == len(names), n_outputs)
        enrolled = enrolled if beside is None else beside._adding(enrolled)
        enrolled.task  # noqa: B018  too many classes are refused here
        return enrolled

    def _adding(self, more: Enrolled) -> Enrolled:
        """These classes and more; rows of a class that is known already are added to it."""
        names = tuple(sorted({*self.classes, *more.classes}))
        pairs = [(part.rows_of(name), part.count_of(name)) for name in names for part in (self, more)]
        counts, x, number = [], [], []
        for each, (one, other) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
            counts.append(one[1] + other[1])
            # the values of a class that one of them has stay what they are, to the bit
            together = torch.cat([one[0], other[0]])
            if self.means and one[1] and other[1]:
                together = (one[0] * one[1] + other[0] * other[1]) / counts[-1]
            x.append(together)
            number += [each] * len(together)
        return replace(
            self,
            classes=names,
            counts=tuple(counts),
            x=torch.cat(x),
            number=torch.tensor(number, device="cpu"),
        )

    def rows_of(self, name: str) -> Tensor:
        """What a class is known by; no row where it is none of these."""
        place = self.classes.index(name) if name in self.classes else -1
        return self.x[self.number == place]

    def count_of(self, name: str) -> int:
        """Rows that a class was given by."""
        return self.counts[self.classes.index(name)] if name in self.classes else 0

    def forgetting(self, names: Collection[str]) -> Enrolled:
        """The other classes, as if these had never been enrolled.

        Raises:
            UsageError: a name is none of a class, or fewer than two classes would be left.
        """
        if unknown := sorted({*names} - {*self.classes}):
            raise UsageError(
                f"{unknown[0]!r} is no class here{meant(unknown[0], self.classes)}: there are {listed(self.classes)}"
            )
        left = [number for number, name in enumerate(self.classes) if name not in names]
        if len(left) < 2:
            raise UsageError(f"{len(left)} class would be left, and two are needed: enrol another one before")
        place = torch.full((len(self.classes),), -1, device="cpu")
        place[left] = torch.arange(len(left), device="cpu")
        kept = place[self.number] >= 0
        return replace(
            self,
            classes=tuple(self.classes[number] for number in left),
            counts=tuple(self.counts[number] for number in left),
            x=self.x[kept],
            number=place[self.number[kept]],
        )

    @cached_property
    def task(self) -> Adapted:
        """The model adapted to these classes.

        Raises:
            UsageError: the model has outputs for fewer classes.
        """
        model = _for_classes(self.model, len(self.classes), self.n_outputs)
        like = reference(self.model.meta)
        number = self.number.to(like.device).unsqueeze(0)
        with torch.no_grad(), threads_for(model.meta):
            if self.means:
                weight = torch.tensor([self.counts], dtype=like.dtype, device=like.device)
                batch = Batch(self.x.to(like).unsqueeze(0), number, weight)
                return Adapted(model, model.learner.adapt_to_means(model.meta, batch))
            batch = Batch(_floating(self.x).to(like).unsqueeze(0), number)
            return Adapted(model, model.learner.adapt(model.meta, batch))

    def logits(self, x: Tensor) -> Tensor:
        """Logits of the classes for rows `(n, *feature)`, bytes or floating numbers: `(n, C)`, in double precision."""
        task = self.task
        parts = [task(_floating(part)) for part in torch.split(x, _AT_ONCE)]
        # a network with a fixed output layer has outputs of no class behind those of the classes
        return torch.cat(parts)[:, : len(self.classes)].double().cpu()

    def entries(self) -> list[ClassEntry]:
        """What the configuration says of them."""
        pairs = zip(self.classes, self.counts, strict=True)
        return [{"id": name, "n_support": count} for name, count in pairs]

    def tensors(self) -> Params:
        """What the tensors of the directory hold of them."""
        number = {_CLASS: self.number}
        return {_X: self.x, **({} if self.means else number)}


def enrolled_of(
    model: Model, entries: Sequence[ClassEntry], tensors: Params, *, shape: tuple[int, ...], n_outputs: int
) -> Enrolled:
    """The classes of a directory.

    Arguments:
        model: as it was trained.
        entries: of the configuration, checked.
        tensors: of the directory; they may come from anyone.
        shape: of a row of features.
        n_outputs: classes of an episode in training.

    Raises:
        ValueError: they are not those of these classes.
    """
    own = {name: value for name, value in tensors.items() if name.startswith(ENROLLED)}
    names, counts = tuple(entry["id"] for entry in entries), tuple(entry["n_support"] for entry in entries)
    means = _CLASS not in own
    require(set(own) == ({_X} if means else {_X, _CLASS}), f"{sorted(own)} are not what classes are known by")
    x = own[_X].cpu()
    number = torch.arange(len(names), device="cpu") if means else own[_CLASS].cpu()
    require(number.dtype == torch.int64 and number.shape == x.shape[:1], "a row of a class has no class")
    if means:
        like = model.learner.class_means(model.meta, reference(model.meta).new_zeros(1, 2, *shape))
        if like is None:
            raise ValueError("this learner keeps no means of classes")
        require(x.dtype == like.dtype and x.shape == (len(names), like.shape[-1]), "a mean has another size")
    else:
        found = torch.bincount(number, minlength=len(names)) if len(number) and number.min() >= 0 else number
        require(tuple(found.tolist()) == counts, "the rows of the classes are not as many as is said")
        require(bool((number.diff() >= 0).all()), "the rows of the classes are in no order")
        require(tuple(x.shape[1:]) == shape, "a row of a class has another shape than in training")
        require(x.dtype in (torch.uint8, torch.float32), "a row of a class has another type")
    return Enrolled(model, names, counts, x, number, means, n_outputs)


def _mean(model: Model, x: Tensor) -> Tensor | None:
    """What says all of a class, `(1, F)`, from its own rows alone; `None` where its rows have to be kept.

    A class is computed by itself, so that its values are the same whatever other classes there are.
    """
    like = reference(model.meta)
    total: Tensor | None = None
    with torch.no_grad(), threads_for(model.meta):
        for part in torch.split(x, _AT_ONCE):
            mean = model.learner.class_means(model.meta, _floating(part).to(like).unsqueeze(0))
            if mean is None:
                return None
            total = mean * len(part) if total is None else total + mean * len(part)
    return None if total is None else (total[0] / len(x)).cpu()


def _for_classes(model: Model, count: int, n_outputs: int) -> Model:
    """The model for so many classes; a fixed output layer serves up to its own number."""
    try:
        return Model(*model.learner.for_classes(model.meta, count))
    except UsageError as error:
        if count <= n_outputs:
            return model
        raise UsageError(
            f"{count} classes are given, and this model has outputs for {n_outputs}: {error}"
        ) from None


def _floating(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x
