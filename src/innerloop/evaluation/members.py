"""What a combination is made of: its members, and what each of them counts."""

from __future__ import annotations

import pandas as pd

from ..inner.combination import Combination
from ..inner.learner import Recipe
from ..inner.model import Model

__all__ = ["heaviest", "member_name", "members", "weights_frame"]


def member_name(recipe: Recipe | None) -> str:
    """The name of a member, with the settings that tell it from others of its algorithm.

    Example:
        >>> member_name({"algorithm": "boosting", "settings": {"support": False, "rounds": 200}})
        'boosting, support=False'
    """
    if recipe is None:
        return "assembled by hand"
    told = [
        f"{name}={recipe['settings'][name]}" for name in ("support", "squares") if name in recipe["settings"]
    ]
    usual = ("support=True", "squares=False")
    return ", ".join([recipe["algorithm"], *(each for each in told if each not in usual)])


def members(model: Model) -> dict[str, Model]:
    """The members of a combination as models of their own, by name; of any other model, none.

    Example:
        >>> from innerloop.algorithms import boosting, combination, mixed
        >>> learner = combination([mixed(2), boosting(2, rounds=5)], sizes=[0, 5])
        >>> list(members(Model(learner, learner.init())))
        ['mixed', 'boosting']
    """
    learner = model.learner
    if not isinstance(learner, Combination):
        return {}
    return {
        name: Model(member, learner.part(model.meta, number))
        for number, (name, member) in enumerate(zip(_names(learner), learner.members, strict=True))
    }


def weights_frame(model: Model) -> pd.DataFrame:
    """What each member of a combination counts, by number of labelled rows of a task.

    Returns:
        One row a member, the heaviest with many rows first: `member`, and a column a number of rows; no row for
        what is no combination.

    Example:
        >>> from innerloop.algorithms import boosting, combination, mixed
        >>> learner = combination([mixed(2), boosting(2, rounds=5)], sizes=[0, 5])
        >>> weights_frame(Model(learner, learner.init())).values.tolist()
        [['mixed', 0.5, 0.5], ['boosting', 0.5, 0.5]]
    """
    learner = model.learner
    if not isinstance(learner, Combination):
        return pd.DataFrame(columns=["member"])
    columns = [f"{size:.3g}" for size in learner.sizes]
    weights = model.meta["weights"].double().cpu().numpy().T
    frame = pd.DataFrame({"member": _names(learner), **dict(zip(columns, weights.T, strict=True))})
    return frame.sort_values(columns[-1], ascending=False, kind="stable", ignore_index=True)


def heaviest(model: Model) -> Model:
    """The member of a combination that counts most with many rows, one with a network if there is any."""
    every = members(model)
    if not every:
        return model
    order = weights_frame(model)["member"]
    nets = [name for name in order if every[name].learner.network.params()]
    return every[(nets or list(order))[0]]


def _names(learner: Combination) -> list[str]:
    """A name for each member; a number behind those that would be equal."""
    names: list[str] = []
    for member in learner.members:
        name = member_name(member.recipe)
        same = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(f"{name} ({same + 1})" if same else name)
    return names
