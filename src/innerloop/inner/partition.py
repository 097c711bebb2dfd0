"""What adapts in the inner loop, as a value: parts of a network by name, or low-rank additions to it."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable

from ..errors import UsageError
from ..models.network import Network

__all__ = ["select_names"]


def select_names(network: Network, adapt: str | Callable[[str], bool]) -> tuple[str, ...]:
    """The trainable parameters that adapt in the inner loop.

    Arguments:
        network: the network.
        adapt: `all`; `head` (the last layer that has parameters) or `body` (all but that one); a name pattern
            such as `layer4.*`, several separated by commas; or a predicate on the name.

    Returns:
        Names in the network's order.

    Raises:
        UsageError: nothing matches.

    Example:
        >>> from torch import nn
        >>> net = Network(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))
        >>> select_names(net, "head")
        ('2.weight', '2.bias')
    """
    names = tuple(network.params())
    if callable(adapt):
        chosen = tuple(name for name in names if adapt(name))
    elif adapt == "all":
        chosen = names
    elif adapt in ("head", "body"):
        head = names[-1].rpartition(".")[0] if names else ""
        if not head:
            raise UsageError(
                f"adapt={adapt!r} needs layers, and the model's last parameter {names[-1:]} stands in none: "
                "give a name pattern, such as adapt='w2,b2'"
            )
        chosen = tuple(n for n in names if (n.rpartition(".")[0] == head) == (adapt == "head"))
    else:
        patterns = [pattern.strip() for pattern in adapt.split(",")]
        chosen = tuple(n for n in names if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns))
    if not chosen:
        raise UsageError(
            f"adapt={adapt!r} matches no trainable parameter; there are {', '.join(names) or 'none'}"
        )
    return chosen
