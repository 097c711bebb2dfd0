"""Data augmentation: what changes images, rows and labels of drawn episodes.

An augmentation is a pure function `(episode, generator) -> episode` on stacked episodes. What belongs to a
class or a task is drawn once for it, so that support and query agree; padded rows stay zero and keep their
weight. Augmentations are for training: `augmented` leaves the fixed episodes of evaluation as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import UsageError
from .episodes import Batch, Episode, map_tensors, rebuilt, select, tensors
from .messages import meant
from .row_source import renumbered
from .sources import DerivedSource, Source

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "Augmented",
    "augmented",
    "chain",
    "crop",
    "flip",
    "mix",
    "named",
    "named_one",
    "noise",
    "permute",
    "rotate",
]

Named = TypeVar("Named")
Augmentation = Callable[[Episode, torch.Generator], Episode]


def rotate(episode: Episode, generator: torch.Generator) -> Episode:
    """Turn each class by its own multiple of 90 degrees: a turned class is a new class.

    Example:
        >>> image, label = torch.eye(3).reshape(1, 1, 1, 3, 3), torch.zeros(1, 1, dtype=torch.int64)
        >>> turned = rotate(Episode(Batch(image, label), Batch(image, label)), torch.Generator())
        >>> bool((turned.support.x == turned.query.x).all())
        True
    """
    turns = torch.randint(4, (episode.n_tasks, _classes(episode, "rotate")), generator=generator)
    size = _images(episode, "rotate").shape[-2:]
    if size[0] != size[1]:
        raise UsageError(f"rotate turns square images, and these are {size[0]} x {size[1]}: leave it out")

    def turned(x: Tensor, batch: Batch) -> Tensor:
        turn, out = _of_class(turns, batch), x.clone()
        for count in (1, 2, 3):
            out[turn == count] = x[turn == count].rot90(count, (-2, -1))
        return out

    return _with_images(episode, turned)


def flip(episode: Episode, generator: torch.Generator) -> Episode:
    """Mirror each class, left to right, or not: the class as one, in support and query alike."""
    mirrored = torch.randint(2, (episode.n_tasks, _classes(episode, "flip")), generator=generator)
    _images(episode, "flip")

    def flipped(x: Tensor, batch: Batch) -> Tensor:
        chosen = _of_class(mirrored, batch).reshape(*x.shape[:2], 1, 1, 1) == 1
        return torch.where(chosen, x.flip(-1), x)

    return _with_images(episode, flipped)


def crop(episode: Episode, generator: torch.Generator) -> Episode:
    """Shift each image by up to an eighth of its side in each direction; what comes in from outside is 0."""
    height, width = _images(episode, "crop").shape[-2:]
    most = max(1, min(height, width) // 8)

    def shifted(x: Tensor, _: Batch) -> Tensor:
        count = x.shape[:2]
        down, right = torch.randint(-most, most + 1, (2, *count), generator=generator)
        rows = torch.arange(height) + down.flatten()[:, None]
        columns = torch.arange(width) + right.flatten()[:, None]
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
        image = torch.arange(len(rows))[:, None, None]
        flat = x.flatten(0, 1).movedim(1, -1)
        moved = flat[image, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]]
        framed: Tensor = moved * inside[..., None].to(x.dtype)
        return framed.movedim(-1, 1).reshape(x.shape)

    return _with_images(episode, shifted)


def permute(episode: Episode, generator: torch.Generator) -> Episode:
    """Give the classes of each task other numbers: what a number means is then told by the support alone."""
    n_classes = _classes(episode, "permute")
    return renumbered(episode, torch.rand(episode.n_tasks, n_classes, generator=generator).argsort(1))


def noise(episode: Episode, generator: torch.Generator) -> Episode:
    """Add to all targets of a task one offset, in support and query alike (Rajendran et al., 2020).

    Only the support can tell the offset, so a model that ignores it cannot do well. It is drawn from a normal
    distribution with the standard deviation of the targets of these episodes.
    """
    if not episode.query.y.is_floating_point():
        raise UsageError("noise shifts the targets of regression, and these are classes: use permute")
    weight = torch.ones(episode.query.y.shape[:2]) if episode.query.weight is None else episode.query.weight
    values = episode.query.y[weight > 0]
    # of targets that are known: NaN stands for the others, and stays
    spread = (values - values.nanmean(0)).square().nanmean(0).sqrt()
    shape = (episode.n_tasks, 1, *episode.query.y.shape[2:])
    offset = torch.randn(shape, generator=generator, dtype=values.dtype) * spread

    def shifted(batch: Batch) -> Batch:
        return batch._replace(y=_without_padding(batch.y + offset, batch))

    return Episode(*(shifted(batch) for batch in episode))


def mix(episode: Episode, generator: torch.Generator) -> Episode:
    """Mix each task with another one of the stack, by one share for all its rows (Yao et al., 2022, MLTI).

    Each row is mixed with a random row of the same set of the other task: of the same class number for
    classification, where the label stays (two classes become a new one); targets are mixed like features for
    regression. A row whose class the other task does not have stays as it is. Shares are uniform between one
    half and one: the task that gives the labels weighs more.
    """
    tasks = episode.n_tasks
    if tasks < 2:
        return episode
    step = int(torch.randint(1, tasks, (1,), generator=generator))
    other = select(episode, (torch.arange(tasks) + step) % tasks)
    share = 0.5 + 0.5 * torch.rand(tasks, 1, generator=generator)

    def mixed(own: Batch, partner: Batch) -> Batch:
        has_partner, row = _partners(own, partner, generator)
        own_share = torch.where(has_partner, share, torch.ones(()))

        def blend(a: Tensor, b: Tensor) -> Tensor:
            weight = own_share.reshape(*own_share.shape, *(1 for _ in a.shape[2:])).to(a.dtype)
            task = torch.arange(tasks)[:, None]
            return weight * a + (1 - weight) * b[task, row]

        pairs = zip(tensors(own.x), tensors(partner.x), strict=True)
        x = rebuilt(own.x, [blend(a, b) if a.is_floating_point() else a for a, b in pairs])
        y = blend(own.y, partner.y) if own.y.is_floating_point() else own.y
        return Batch(map_tensors(lambda t: _without_padding(t, own), x), _without_padding(y, own), own.weight)

    return Episode(*(mixed(a, b) for a, b in zip(episode, other, strict=True)))


AUGMENTATIONS: dict[str, Augmentation] = {
    "rotate": rotate,
    "flip": flip,
    "crop": crop,
    "permute": permute,
    "noise": noise,
    "mix": mix,
}


def chain(*augmentations: Augmentation) -> Augmentation:
    """One augmentation after the other.

    Example:
        >>> chain()(Episode(Batch(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)), None), torch.Generator()).query
    """

    def apply(episode: Episode, generator: torch.Generator) -> Episode:
        for augmentation in augmentations:
            episode = augmentation(episode, generator)
        return episode

    return apply


def named(names: str | Sequence[str]) -> tuple[Augmentation, ...]:
    """Augmentations by name, separated by commas.

    Raises:
        UsageError: a name is unknown.

    Example:
        >>> named("rotate,crop") == (rotate, crop)
        True
    """
    parts = names.split(",") if isinstance(names, str) else names
    wanted = [part.strip() for part in parts if part.strip()]
    return tuple(named_one(name, AUGMENTATIONS, "augmentation") for name in wanted)


@dataclass(frozen=True, eq=False)
class Augmented(DerivedSource):
    """A source whose training episodes are augmented; its fixed episodes are not.

    Arguments:
        source: where episodes come from.
        augmentation: what is done to each stack of them.
    """

    augmentation: Augmentation

    @property
    def n_tasks(self) -> int | None:
        """Those of the source."""
        return self.source.n_tasks

    def sample(self, count: int, generator: torch.Generator) -> Episode:
        """See `Source.sample`."""
        return self.augmentation(self.source.sample(count, generator), generator)


def augmented(source: Source, *augmentations: Augmentation) -> Source:
    """The source with its training episodes augmented, one augmentation after the other.

    Example:
        >>> from innerloop.tasks.support import stream
        >>> from innerloop.tasks import sinusoid
        >>> source = augmented(sinusoid(n_support=5).train, noise, mix)
        >>> source.sample(4, stream(0)).support.x.shape
        torch.Size([4, 5, 1])
    """
    return Augmented(source, chain(*augmentations)) if augmentations else source


def named_one(name: str, registry: Mapping[str, Named], what: str) -> Named:
    """The entry of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in registry:
        raise UsageError(
            f"{what} {name!r} is unknown{meant(name, registry)}: choose among {', '.join(registry)}"
        )
    return registry[name]


def _images(episode: Episode, who: str) -> Tensor:
    x = episode.query.x
    if not isinstance(x, Tensor) or x.dim() != 5:
        shape = tuple(x.shape[2:]) if isinstance(x, Tensor) else type(x).__name__
        raise UsageError(
            f"{who} changes images (channels, height, width), and a row is {shape}: leave it out"
        )
    return x


def _classes(episode: Episode, who: str) -> int:
    if episode.query.y.is_floating_point():
        raise UsageError(f"{who} acts on classes, and these targets are numbers: leave it out")
    return 1 + max(int(batch.y.max()) if batch.y.numel() else 0 for batch in episode)


def _of_class(values: Tensor, batch: Batch) -> Tensor:
    """The value of each row's class, `(T, n)`."""
    return values.gather(1, batch.y)


def _with_images(episode: Episode, change: Callable[[Tensor, Batch], Tensor]) -> Episode:
    return Episode(*(batch._replace(x=_without_padding(change(batch.x, batch), batch)) for batch in episode))


def _without_padding(values: Tensor, batch: Batch) -> Tensor:
    """Zero where a row is padding."""
    if batch.weight is None:
        return values
    inside = (batch.weight > 0).reshape(*batch.weight.shape, *(1 for _ in values.shape[2:]))
    return torch.where(inside, values, torch.zeros((), dtype=values.dtype))


def _partners(own: Batch, partner: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Whether each row has a partner in the other task, and which one, `(T, n)` each."""
    count = own.y.shape[1]
    fits = torch.ones(len(own.y), count, count, dtype=torch.bool)
    if partner.weight is not None:
        fits &= (partner.weight > 0)[:, None, :]
    if not own.y.is_floating_point():
        fits &= own.y[:, :, None] == partner.y[:, None, :]
    keys = torch.rand(fits.shape, generator=generator).masked_fill(~fits, -1.0)
    best, row = keys.max(2) if count else (torch.zeros(len(own.y), 0), torch.zeros(len(own.y), 0).long())
    return best >= 0, row
