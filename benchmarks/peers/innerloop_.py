"""This package beside its peers: one whole meta-update as training runs it. A part of `benchmarks/speed.py`."""

import os
import sys

sys.path.insert(0, os.environ["INNERLOOP_SOURCE"])

import torch
from tcommon import TorchImpl

import innerloop as il
from innerloop.outer.memory import bytes_of, tasks_at_once
from innerloop.outer.update import Outer, geared_update, numbers_of


class Impl(TorchImpl):
    """One implementation of the harness: `step` is one update, `grads` its first meta-gradient."""

    def __init__(self, wl, gear="auto", planned=100_000, memory="512MB"):
        self.gear, self.planned, self.memory = gear, planned, memory
        super().__init__(wl)

    def setup(self):
        """Make the update."""
        preset = il.fomaml if self.wl["first_order"] else il.maml
        loss = "mse" if self.wl["loss"] == "mse" else "cross_entropy"
        learner = preset(
            self.model,
            loss=loss,
            inner_lr=self.wl["lr"],
            inner_steps=self.wl["steps"],
            batchnorm="transductive",
        )
        self.first = self.state = Outer.start(learner.init())
        chunk = tasks_at_once(learner, self.first.meta, self.episode(0), bytes_of(self.memory))
        self.update = geared_update(learner, clip=None, chunk=chunk, gear=self.gear, planned=self.planned)
        self.key = torch.arange(self.wl["T"])

    def episode(self, number):
        """The tasks of an update."""
        xs, ys, xq, yq = self.batches[number % len(self.batches)]
        return il.Episode(il.Batch(xs, ys), il.Batch(xq, yq))

    def taken(self, state, number):
        """One update of a state."""
        return self.update(state, numbers_of(number, 1e-3), self.episode(number), self.key, 0)

    def step(self):
        """The next update; its loss."""
        self.state, figures = self.taken(self.state, self.i)
        self.i += 1
        return figures["losses"].mean().item()

    def grads(self):
        """Loss and meta-gradient at the start."""
        state, figures = self.taken(self.first, 0)
        # the first moment after one update is a tenth of the gradient
        return figures["losses"].mean().item(), [value.numpy() / 0.1 for value in state.state[0].values()]
