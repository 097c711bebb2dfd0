"""What meta-gradients require of a learner and its model, refused in words where it is missing."""

from __future__ import annotations

from torch import Tensor

from ..errors import UsageError
from ..inner.gradient import GradientLearner
from ..inner.learner import Learner

__all__ = [
    "in_words",
    "require_all_adapt",
    "require_gradient_steps",
    "require_inner_rule",
    "require_nothing_learned",
    "require_twice_differentiable",
]


def require_gradient_steps(learner: Learner, name: str) -> None:
    """Refuse a learner whose inner steps follow no gradient."""
    if not learner.adapts_by_gradient:
        raise UsageError(f"{name} needs inner gradient steps: this learner has none")


def require_inner_rule(learner: Learner, name: str) -> GradientLearner:
    """The learner, if it is one of the package's own, with an inner rule."""
    require_gradient_steps(learner, name)
    if not isinstance(learner, GradientLearner):
        raise UsageError(f"{name} is for learners made by gradient_learner, not {type(learner).__name__}")
    return learner


def require_all_adapt(learner: Learner, name: str, why: str) -> None:
    """Refuse a learner whose inner gradient steps move a part of the model, or start elsewhere than at it."""
    learner = require_inner_rule(learner, name)
    rest = [param for param in learner.network.params() if param not in learner.fast]
    if rest or learner.start is not None:
        what = repr(rest[0]) if rest else "its start"
        raise UsageError(
            f"{name} with a learner that adapts only a part of the model ({what} is left): {why}"
        )


def require_nothing_learned(learner: Learner, name: str) -> None:
    """Refuse a learner with meta-parameters beside those of the module."""
    learned = [key for key in learner.init() if key.startswith(("inner/", "state/"))]
    if learned:
        what = "a rule that learns nothing"
        for part, other in {
            "/bn/": "a BatchNorm policy other than per_step",
            "/loss/": "a plain inner loss",
        }.items():
            what = other if part in learned[0] else what
        raise UsageError(f"{name} gives no gradient to {learned[0]!r}: use {what}")


def require_twice_differentiable(losses: Tensor) -> None:
    """Refuse functions marked `once_differentiable`: autograd drops their second derivative without a word."""
    stack, seen = [losses.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::Error":
            raise UsageError(
                "a function of the model is marked once_differentiable and cannot be differentiated twice: "
                "use fomaml or reptile, or a function without the mark"
            )
        stack.extend(following for following, _ in node.next_functions)


def in_words(error: RuntimeError) -> Exception:
    """The error of an operator without a second derivative, with its name and the way out; others as they are."""
    text = str(error)
    if "derivative for" not in text and "double backward" not in text and "differentiate twice" not in text:
        return error
    return UsageError(
        f"an operator of the model cannot be differentiated twice ({text.splitlines()[0]}): "
        "use fomaml, reptile or a model without it"
    )
