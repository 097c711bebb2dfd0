"""What forms a support set: how many rows, which ones, and the streams that randomness comes from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from ..errors import UsageError

__all__ = ["SupportChoice", "SupportSize", "Targets", "stream"]


def stream(seed: int, *path: int) -> torch.Generator:
    """A generator for one step of a run: equal numbers, equal stream; near numbers, unrelated streams.

    Example:
        >>> bool(torch.rand(1, generator=stream(0, 7)) == torch.rand(1, generator=stream(0, 7)))
        True
    """
    state = np.random.SeedSequence([seed, *path]).generate_state(2, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


class SupportChoice(NamedTuple):
    """Which rows of a task form its support set; the others are query rows.

    Arguments:
        how: `random` rows; in `order`, the first rows are support and later ones query, so that nothing leaks
            from the future; by `block`, support comes from one block (a session, a burst) and query from the
            others.
        column: what orders the rows or names their block. `order` without a column is the order of the table.
    """

    how: str = "random"
    column: str | None = None

    @staticmethod
    def parse(text: str | SupportChoice) -> SupportChoice:
        """`random`, `order`, `order:COL` or `block:COL`.

        Raises:
            UsageError: it is none of them.

        Example:
            >>> SupportChoice.parse("order:visit")
            SupportChoice(how='order', column='visit')
        """
        if isinstance(text, SupportChoice):
            return text
        how, colon, column = text.partition(":")
        column = column.strip()
        if how not in ("random", "order", "block") or (colon and not column):
            raise UsageError(f"support={text!r} is unknown: choose random, order:COLUMN or block:COLUMN")
        if how == "random" and column:
            raise UsageError(f"support={text!r}: random rows need no column; write random")
        if how == "block" and not column:
            raise UsageError(f"support={text!r}: name the column that says the block, block:COLUMN")
        return SupportChoice(how, column or None)

    def __str__(self) -> str:
        """As it is written."""
        return self.how if self.column is None else f"{self.how}:{self.column}"


class SupportSize(NamedTuple):
    """How many rows form a support set, and which ones.

    Arguments:
        low: smallest number of rows, a task (`n_support`) or a class (`n_shot`).
        high: largest number; one between the two is drawn anew for each episode.
        per_class: rows are counted by class.
        choice: which rows.
    """

    low: int
    high: int
    per_class: bool = False
    choice: SupportChoice = SupportChoice()

    @staticmethod
    def parse(
        n_support: int | str | None, n_shot: int | str | None, choice: str | SupportChoice = "random"
    ) -> SupportSize:
        """Exactly one of the first two, a number or a range such as `1-8`.

        Raises:
            UsageError: both or none are given, or one is not a number or range.

        Example:
            >>> SupportSize.parse(None, "1-8")[:3]
            (1, 8, True)
        """
        if (n_support is None) == (n_shot is None):
            raise UsageError("give exactly one of n_support (rows a task) and n_shot (rows a class)")
        name, value = ("n_support", n_support) if n_shot is None else ("n_shot", n_shot)
        low, dash, high = str(value).partition("-")
        which = SupportChoice.parse(choice)
        try:
            size = SupportSize(int(low), int(high if dash else low), name == "n_shot", which)
        except ValueError:
            raise UsageError(f"{name}={value!r}: give a number such as 5 or a range such as 1-8") from None
        if not 0 <= size.low <= size.high or size.high < 1:
            raise UsageError(f"{name}={value!r}: a range goes from a smaller to a larger positive number")
        if size.per_class and which.how == "order":
            raise UsageError(
                f"support={str(which)!r} takes the first rows of a task, whatever their class: give "
                "n_support (rows a task), not n_shot"
            )
        return size

    @property
    def block(self) -> str | None:
        """The column of blocks, if support comes from one of them."""
        return self.choice.column if self.choice.how == "block" else None

    def __str__(self) -> str:
        """`5` or `1-8`."""
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


class Targets(NamedTuple):
    """What the targets are, for losses and scores.

    Arguments:
        kind: `regression`, `classification`, or `structured` (several tensors, or what else a loss of one's own takes),
            of which only the loss is a score.
        n_outputs: outputs a model needs: targets, or classes.
        scale: natural units per unit of `y`, one a target (regression).
        variance: variance of the meta-train targets in units of `y`, one a target (regression).
        partial: rows may know some of several targets only: NaN stands for the others.
    """

    kind: str
    n_outputs: int
    scale: tuple[float, ...] = (1.0,)
    variance: tuple[float, ...] = (1.0,)
    partial: bool = False
