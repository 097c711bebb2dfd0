"""The verdict: two questions, answered in sentences that are never stronger than the numbers.

Does a meta-learned net pay over the best classical method (mixed model, Gaussian process, boosting), and does adapting
pay over the best model that does not adapt? A gain is the share of the opponent's error that is saved. It helps if the
whole 95 % interval is at or above the smallest gain worth having, it does not if the whole interval is below, and else
the data cannot tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..evaluation.intervals import Estimate
from .result import Difference, Method, Verdict

__all__ = ["Question", "decided", "spoken", "verdict"]

LEVEL = 0.05
TRACE = 0.001


@dataclass(frozen=True)
class Question:
    """One of the two questions.

    Arguments:
        ours: the method that should pay, chosen on meta-validation tasks.
        theirs: what it is held against, chosen there too.
        pair: their paired difference.
        worthwhile: smallest gain worth having.
        p: p value of the difference, corrected for there being two questions, however many methods ran.
        what: what is saved: `error`, or `log loss` where classes are told apart by that.
    """

    ours: Method
    theirs: Method
    pair: Difference
    worthwhile: float
    p: float
    what: str = "error"

    @property
    def answer(self) -> bool | None:
        """True, false, or `None`: the data cannot tell.

        Example:
            >>> from dataclasses import replace
            >>> method = Method("a", "a", "none", "baseline", (), {})
            >>> gain = Difference("a", "b", Estimate(-0.1, -0.2, 0), Estimate(0.2, 0.1, 0.3), 0.01, 0.01)
            >>> Question(method, method, gain, 0.05, 0.02).answer
            True
            >>> Question(method, method, gain, 0.5, 0.02).answer
            False
            >>> Question(method, method, gain, 0.15, 0.02).answer is None
            True
        """
        gain = self.pair.gain
        if not np.isfinite(gain).all():
            return None
        if gain.low >= self.worthwhile and self.real:
            return True
        return False if gain.high < self.worthwhile else None

    @property
    def real(self) -> bool:
        """The gain is not 0: by its interval, and after correction for the number of questions."""
        gain = self.pair.gain
        return (gain.low > 0 or gain.high < 0) and self.p < LEVEL

    def sentence(self, subject: str, opponent: str) -> str:
        """What the numbers allow to say of a subject, such as `adapting (MAML)`, over an opponent."""
        gain, least = self.pair.gain, _share(self.worthwhile)
        if not np.isfinite(gain).all():
            return f"Whether {subject} pays over {opponent} cannot be told: there are too few tasks."
        size = _size(gain, self.what)
        if self.answer:
            return f"{_first(subject)} pays over {opponent}: {size}."
        if self.answer is None:
            there = self.real and gain.mean > 0
            what = "a gain is there, but whether it reaches" if there else "whether it gains"
            return f"{_first(subject)} over {opponent}: {what} {least} these data cannot tell ({size})."
        if self.real and gain.mean > 0:
            return f"{_first(subject)} over {opponent}: real, {_about(gain)}, too small to matter ({size})."
        if self.real:
            return f"{_first(subject)} is worse than {opponent}: {size}."
        what = (
            "a gain is not clear, and would be too small to matter" if gain.low > 0 else "no gain was found"
        )
        return f"{_first(subject)} does not pay over {opponent}: {what} ({size})."


def decided(by_accuracy: Question, by_loss: Question) -> Question:
    """Which of two forms of a question about classes is answered: by log loss where it can tell, and says otherwise.

    The log loss sees every probability, the accuracy only which class comes first.
    """
    return by_loss if by_loss.answer not in (None, by_accuracy.answer) else by_accuracy


def verdict(
    adapting: Question | None, net: Question | None, *, single: bool = False, right: Method | None = None
) -> Verdict:
    """The answers as `--json` carries them.

    Arguments:
        adapting: the first question; `None` where it cannot be asked.
        net: the second question.
        single: the rows are one table, whose tasks were made at random.
        right: the best method of all on meta-validation tasks.
    """
    sentences = []
    if single and right is not None:
        # without tasks there is nothing to adapt to, whatever chance says
        sentences.append(
            f"This is one table without tasks: meta-learning is the wrong tool; the right one of those tried "
            f"is {right.label}."
        )
    if net is not None:
        sentences.append(_of_net(net))
    if adapting is not None:
        # where nothing but each task alone knows the targets, what may pay is to learn from other tasks
        what = "learning from other tasks" if adapting.theirs.kind == "alone" else "adapting"
        opponent = spoken(adapting.theirs.label)
        if adapting.theirs.kind == "none":
            opponent += ", which does not adapt"
        sentences.append(adapting.sentence(f"{what} ({adapting.ours.label})", opponent))
    difference = adapting.pair.difference if adapting is not None else None
    return {
        "helps": None if adapting is None else adapting.answer,
        "net_over_classical": None if net is None else net.answer,
        "best": None if adapting is None else adapting.ours.name,
        "over": None if adapting is None else adapting.theirs.name,
        "net": None if net is None else net.ours.name,
        "classical": None if net is None else net.theirs.name,
        "difference": None if difference is None else difference.mean,
        "ci95": None if difference is None else (difference.low, difference.high),
        "sentence": " ".join(sentences) or "Nothing that can be compared ran.",
    }


def _of_net(net: Question) -> str:
    subject = f"a meta-learned net ({net.ours.label})" if net.ours.name != "auto" else net.ours.label
    opponent, last = spoken(net.theirs.label), "combination" if net.ours.name == "auto" else "net"
    if net.answer is False and not net.real and np.isfinite(net.pair.gain).all():
        return f"{_first(opponent)} does as well as {subject}: {_size(net.pair.gain, f'{net.what} of the {last}')}."
    return net.sentence(subject, opponent)


def spoken(label: str) -> str:
    """The label of a method inside a sentence.

    Example:
        >>> spoken("linear mixed model"), spoken("MAML"), spoken("each task alone (ridge)")
        ('the linear mixed model', 'MAML', 'each task alone (ridge)')
    """
    bare = ("each", "one", "the", "boosting", "logistic", "ridge")
    return label if label[:1].isupper() or label.split(maxsplit=1)[0] in bare else f"the {label}"


def _size(gain: Estimate, what: str = "error") -> str:
    """The change of the error and its interval, as people read them."""
    low, high = gain.low, gain.high
    if low >= 0 or high <= 0:
        ends = sorted((abs(low), abs(high)))
        span = f"{_share(ends[0])} to {_share(ends[1])}".replace(" % to", " to")
    else:
        span = f"from {_share(high)} lower to {_share(-low)} higher"
    return f"{what} {_share(abs(gain.mean))} {'lower' if gain.mean >= 0 else 'higher'}, 95 % interval {span}"


def _about(gain: Estimate) -> str:
    low, high = max(gain.low, TRACE), gain.high
    ends = [f"{100 * value:.0f}" if value >= 0.005 else f"{100 * value:.1f}" for value in (low, high)]
    return f"about {ends[0]} %" if ends[0] == ends[1] else f"about {ends[0]}-{ends[1]} %"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %".replace(".0 %", " %")


def _first(text: str) -> str:
    return text[:1].upper() + text[1:]
