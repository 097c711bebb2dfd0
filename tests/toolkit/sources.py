"""A task source that gives the episodes it was made with."""

from innerloop.tasks.episodes import Episode
from innerloop.tasks.support import SupportSize, Targets


class FixedSource:
    """A source whose evaluation episodes are one given stack."""

    n_tasks = None

    def __init__(self, episode: Episode, targets: Targets, support: SupportSize) -> None:
        self.episode, self.targets, self.support = episode, targets, support

    def fixed(self, seed: int):
        """The episodes that `evaluate` asks for, whatever the seed."""
        yield [f"task {t}" for t in range(self.episode.n_tasks)], self.episode
