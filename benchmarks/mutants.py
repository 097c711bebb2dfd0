"""Plant faults in the library, one at a time, and show that the test suite catches each.

    python benchmarks/mutants.py

copies the source tree to a temporary folder, replaces one passage there, runs the tests that stand for it and
expects them to fail. The faults are those that make algorithms train something else than they claim; several were
found in published libraries. Takes about five minutes on two cores.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Mutant(NamedTuple):
    """A fault: a passage of a file, what stands there instead, and the tests that must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


IDENTITIES, FORMULAS, MODULES = "test_identities.py", "test_formulas.py", "test_modules.py"
MUTANTS = [
    Mutant("first order without saying so", "learner.py", "create_graph=differentiable and not self.rule.first_order", "create_graph=False", IDENTITIES),
    Mutant("second order in first-order MAML", "inner.py", "return rule._replace(update=update, first_order=True)", "return rule", IDENTITIES),
    Mutant("query scored on the support set", "metagrad.py", "return learner.loss(meta, adapted, episode.query, key=key)", "return learner.loss(meta, adapted, episode.support, key=key)", IDENTITIES),
    Mutant("adapting on the query set", "metagrad.py", "adapted = learner.adapt(meta, episode.support, key=key)\n        return", "adapted = learner.adapt(meta, episode.query, key=key)\n        return", IDENTITIES),
    Mutant("uphill inner step", "inner.py", "moved[name] = value - rate.at(name, step, meta) * along", "moved[name] = value + rate.at(name, step, meta) * along", IDENTITIES),
    Mutant("one inner step too few", "learner.py", "range(self.inner_steps if steps is None else steps)", "range((self.inner_steps if steps is None else steps) - 1)", FORMULAS),
    Mutant("sum instead of mean over tasks", "metagrad.py", "grads = _grad(found.mean(), meta)", "grads = _grad(found.sum(), meta)", IDENTITIES),
    Mutant("ANIL adapts everything", "functional.py", '(n.rpartition(".")[0] == head) == (adapt == "head")', "True", IDENTITIES),
    Mutant("Reptile walks away", "metagrad.py", "(value - adapted[name]).mean(0)", "(adapted[name] - value).mean(0)", FORMULAS),
    Mutant("implicit solve without damping", "metagrad.py", "v[name] + h / strength", "h / strength", FORMULAS),
    Mutant("conjugate gradients with a wrong scale", "metagrad.py", "v[name] + h / strength", "v[name] + 0.1 * h / strength", FORMULAS),
    Mutant("multi-step loss divides by its weights", "metagrad.py", "weight * learner.loss(", "1 / weight * learner.loss(", FORMULAS),
    Mutant("learned rates without gradient", "inner.py", "return rate if self.steps is None", "return rate.detach() if self.steps is None", IDENTITIES),
    Mutant("BatchNorm statistics without gradient", "functional.py", "mean, var = _moments(x, self.context.weight)", "mean, var = (m.detach() for m in _moments(x, self.context.weight))", IDENTITIES),
    Mutant("query normalised with its own statistics", "learner.py", "given_statistics=self.network.needs_statistics", "given_statistics=False", MODULES),
    Mutant("padded rows in BatchNorm", "functional.py", "    if weight is None:\n        mean = x.mean(dims, keepdim=True)", "    if True:\n        mean = x.mean(dims, keepdim=True)", IDENTITIES),
    Mutant("padded rows in the loss", "losses.py", "    if weight is None:\n        return rows.sum(-1)", "    if True:\n        return rows.sum(-1)", IDENTITIES),
    Mutant("the same dropout mask for every task", "functional.py", "fold(key, self.layer)", "fold(torch.zeros_like(key), self.layer)", MODULES),
    Mutant("dropout at prediction", "functional.py", "if key is None or self.p == 0:", "key = torch.tensor(1) if key is None else key\n        if self.p == 0:", MODULES),
    Mutant("weight norm through the fused kernel", "functional.py", "elif isinstance(child, _WeightNorm):", "elif False:", MODULES),
    Mutant("eps outside the root of Adam", "inner.py", "(corrected + eps * eps).sqrt()", "(corrected.sqrt() + eps)", FORMULAS),
    Mutant("mask without a gradient", "inner.py", "+ (score - score.detach())", "", FORMULAS),
    Mutant("clipping tasks together", "inner.py", "for grad in grads.values()]).sum(0)", "for grad in grads.values()]).sum(0).sum().expand(next(iter(grads.values())).shape[0])", IDENTITIES),
    Mutant("per-step rates off by one", "inner.py", "rate[min(step, self.steps - 1)]", "rate[max(min(step, self.steps) - 1, 0)]", FORMULAS),
    Mutant("SVGD pulls where it should push", "particles.py", "(attracted - repelled / rows)", "(attracted + repelled / rows)", FORMULAS),
    Mutant("the chaser's leader gets gradients", "particles.py", "with torch.no_grad():\n                leading", "with torch.enable_grad():\n                leading", FORMULAS),
]  # fmt: skip


def caught(mutant: Mutant, tree: Path) -> bool:
    """Whether the tests fail on the mutated tree."""
    target = tree / "src" / "innerloop" / mutant.file
    original = target.read_text(encoding="utf-8")
    if mutant.old not in original:
        sys.exit(f"{mutant.name}: the passage is no longer in {mutant.file}: {mutant.old!r}")
    target.write_text(original.replace(mutant.old, mutant.new), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{mutant.tests}"]
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    target.write_text(original, encoding="utf-8")
    # 1: tests ran and failed; 2 to 5 would mean that they did not run
    if done.returncode not in (0, 1):
        sys.exit(f"{mutant.name}: the tests did not run:\n{done.stdout[-2000:]}")
    return done.returncode == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a mutant's name")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.name]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for part in ("src", "tests"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        escaped = []
        for mutant in chosen:
            found = caught(mutant, tree)
            print(f"{'caught ' if found else 'ESCAPED'}  {mutant.name}  ({mutant.tests})", flush=True)
            escaped += [] if found else [mutant.name]
    print(f"{len(chosen) - len(escaped)} of {len(chosen)} faults caught")
    sys.exit(1 if escaped else 0)


if __name__ == "__main__":
    main()
