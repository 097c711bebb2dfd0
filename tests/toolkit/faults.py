"""Faults of the file system: the module `os` whose N-th change fails, or after which the process is gone."""

import os
import signal

CHANGES = {
    "open",
    "write",
    "fsync",
    "close",
    "rename",
    "replace",
    "unlink",
    "mkdir",
    "makedirs",
    "rmdir",
    "ftruncate",
}


class Killed(BaseException):
    """The process ends: nothing after it runs."""


class Faulty:
    """The module `os`, to stand in for that of `innerloop.files`.

    Arguments:
        at: number of the change that fails, from 1; 0 for none, to count them.
        error: what it raises; after `Killed` all later changes raise it, too. `None` kills the process.
    """

    def __init__(self, at: int, error: BaseException | None) -> None:
        self.at, self.error, self.calls = at, error, 0

    def __getattr__(self, name: str):
        real = getattr(os, name)
        if name not in CHANGES:
            return real

        def call(*arguments, **keywords):
            self.calls += 1
            if self.calls == self.at or (self.calls > self.at > 0 and isinstance(self.error, Killed)):
                if name == "close":  # which the system does, too, when a process ends
                    real(*arguments)
                if self.error is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise self.error
            return real(*arguments, **keywords)

        return call
