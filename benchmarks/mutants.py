"""Plant faults in the library, one at a time, and show that the test suite catches each.

    python benchmarks/mutants.py > docs/mutants.md

copies the source tree to a temporary folder, replaces one passage there, runs the tests that stand for it and
expects them to fail. The faults are those that make algorithms train something else than they claim; several were
found in published libraries. Takes about five minutes on one core. `tests/docs/test_mutants.py` holds that every
passage and every test named here still exists.
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
    """A fault: a passage of a file of `src/innerloop`, what stands there instead, and the tests that must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    Mutant("first order without saying so", "inner/gradient.py", "and not self.rule.first_order", "and False", "algorithms/test_identities.py::test_gradient_equals_a_plain_loop_over_tasks"),
    Mutant("second order in first-order MAML", "inner/rules.py", "return rule._replace(update=update, first_order=True)", "return rule", "algorithms/test_identities.py::test_gradient_equals_a_plain_loop_over_tasks"),
    Mutant("query scored on the support set", "outer/metagrad.py", "return learner.loss(meta, adapted, episode.query, key=key)", "return learner.loss(meta, adapted, episode.support, key=key)", "algorithms/test_identities.py::test_gradient_equals_a_plain_loop_over_tasks"),
    Mutant("adapting on the query set", "outer/metagrad.py", "adapted = learner.adapt(meta, episode.support, key=key)\n        return", "adapted = learner.adapt(meta, episode.query, key=key)\n        return", "algorithms/test_identities.py::test_gradient_equals_a_plain_loop_over_tasks"),
    Mutant("uphill inner step", "inner/rules.py", "moved[name] = value - rate.at(name, step, meta) * along", "moved[name] = value + rate.at(name, step, meta) * along", "algorithms/test_identities.py::test_gradient_equals_a_plain_loop_over_tasks"),
    Mutant("one inner step too few", "inner/gradient.py", "count = self.inner_steps if steps is None else steps", "count = (self.inner_steps if steps is None else steps) - 1", "algorithms/test_formulas.py::test_reptile_with_one_step_is_the_rate_times_the_support_gradient"),
    Mutant("sum instead of mean over tasks", "outer/metagrad.py", ".mean(), meta)", ".sum(), meta)", "algorithms/test_identities.py::test_gradient_equals_a_plain_loop_over_tasks"),
    Mutant("ANIL adapts everything", "inner/partition.py", '(n.rpartition(".")[0] == head) == (adapt == "head")', "True", "algorithms/test_identities.py::test_only_the_head_moves_and_the_body_is_trained"),
    Mutant("Reptile walks away", "outer/metagrad.py", "(value - adapted[name]).mean(0)", "(adapted[name] - value).mean(0)", "algorithms/test_formulas.py::test_reptile_with_one_step_is_the_rate_times_the_support_gradient"),
    Mutant("implicit solve without damping", "outer/implicit.py", "v[name] + h / strength", "h / strength", "algorithms/test_formulas.py::test_the_implicit_gradient_of_a_quadratic_is_the_closed_form"),
    Mutant("conjugate gradients with a wrong scale", "outer/implicit.py", "v[name] + h / strength", "v[name] + 0.1 * h / strength", "algorithms/test_formulas.py::test_the_implicit_gradient_of_a_quadratic_is_the_closed_form"),
    Mutant("multi-step loss divides by its weights", "outer/metagrad.py", "            weight * ", "            1 / weight * ", "algorithms/test_formulas.py::test_the_multi_step_loss_is_the_weighted_sum_of_the_losses_after_each_step"),
    Mutant("learned rates without gradient", "inner/rules.py", "return rate if self.steps is None", "return rate.detach() if self.steps is None", "algorithms/test_identities.py::test_learned_rates_at_a_constant_equal_maml_and_get_a_gradient"),
    Mutant("BatchNorm statistics without gradient", "models/layers.py", "seen = _moments(x, self.context.weight)", "seen = tuple(m.detach() for m in _moments(x, self.context.weight))", "algorithms/test_identities.py::test_gradient_through_normalisation_equals_finite_differences"),
    Mutant("query normalised with its own statistics", "models/network.py", "weight, key, given_statistics", "weight, key, False", "models/test_any_module.py::test_a_query_prediction_depends_on_the_other_queries_only_if_asked_for"),
    Mutant("padded rows in BatchNorm", "models/layers.py", "    if weight is None:\n        mean = x.mean(dims, keepdim=True)", "    if True:\n        mean = x.mean(dims, keepdim=True)", "algorithms/test_identities.py::test_padding_changes_nothing"),
    Mutant("padded rows in the loss", "models/losses.py", "    if weight is None:\n        return rows.sum(-1)", "    if True:\n        return rows.sum(-1)", "algorithms/test_identities.py::test_padding_changes_nothing"),
    Mutant("the same dropout mask for every task", "models/layers.py", "fold(key, self.layer)", "fold(torch.zeros_like(key), self.layer)", "models/test_any_module.py::test_dropout_draws_by_task_and_step_and_rests_without_a_key"),
    Mutant("dropout at prediction", "models/layers.py", "if key is None or self.p == 0:", "key = torch.tensor(1) if key is None else key\n        if self.p == 0:", "models/test_any_module.py::test_dropout_draws_by_task_and_step_and_rests_without_a_key"),
    Mutant("weight norm through the fused kernel", "models/layers.py", "if isinstance(child, _WeightNorm):", "if False:", "models/test_any_module.py::test_gradients_through_layers_equal_finite_differences_and_the_loop"),
    Mutant("eps outside the root of Adam", "inner/rules.py", "(corrected + eps * eps).sqrt()", "(corrected.sqrt() + eps)", "algorithms/test_formulas.py::test_a_dead_unit_gives_a_finite_meta_gradient"),
    Mutant("mask without a gradient", "inner/rules.py", "+ (score - score.detach())", "", "algorithms/test_formulas.py::test_the_mask_passes_its_gradient_straight_through"),
    Mutant("clipping tasks together", "inner/rules.py", "for grad in grads.values()]).sum(0)", "for grad in grads.values()]).sum(0).sum().expand(next(iter(grads.values())).shape[0])", "algorithms/test_contract.py::test_tasks_at_once_equal_tasks_one_by_one"),
    Mutant("per-step rates off by one", "inner/rules.py", "rate[min(step, self.steps - 1)]", "rate[max(min(step, self.steps) - 1, 0)]", "algorithms/test_formulas.py"),
    Mutant("SVGD pulls where it should push", "inner/particles.py", "(attracted - repelled / rows)", "(attracted + repelled / rows)", "algorithms/test_formulas.py::test_svgd_equals_its_double_loop"),
    Mutant("the chaser's leader gets gradients", "inner/particles.py", "with torch.no_grad():\n                leading = {name: value.detach() for", "with torch.enable_grad():\n                leading = {name: value for", "algorithms/test_formulas.py::test_the_chaser_loss_is_the_squared_way_to_the_leader"),
    Mutant("running statistics that are kept and not used", "models/layers.py", "mean, var = (mean, var) if self.context.given else seen", "mean, var = seen", "models/test_batchnorm.py::test_per_step_equals_its_formula"),
    Mutant("every step with the scales of the last", "models/network.py", "value[min(step, len(value) - 1)]", "value[-1]", "models/test_batchnorm.py::test_per_step_equals_its_formula"),
    Mutant("running statistics moved by gradients", "inner/learner.py", "grads | {n: torch.zeros_like(meta[n]) for n in state}", "grads", "models/test_batchnorm.py::test_per_step_gradient_equals_finite_differences_with_the_statistics_held"),
    Mutant("padding shown to rows that see each other", "inner/learner.py", "equal_sizes(episode) if seen(larger.x) else whole", "whole", "inner/test_rows_that_interact.py::test_tasks_of_different_sizes_are_as_each_by_itself"),
    Mutant("predictive variance without the noise", "inner/heads/gaussian.py", "mul(2).exp() * (1 + leverage)", "mul(2).exp() * leverage", "inner/test_predictive.py::test_intervals_cover_what_they_promise_where_the_model_is_true"),
    Mutant("ridge without its learned strength", "inner/heads/ridge.py", "gram = design.mT @ design + torch.diag(strength)", "gram = design.mT @ design + torch.eye(len(strength), dtype=strength.dtype)", "inner/test_heads.py::test_the_dual_ridge_equals_the_primal_and_scikit_learn"),
    Mutant("prototypes as sums instead of means", "inner/heads/base.py", "return total / rows.clamp(min=1).unsqueeze(-1), rows", "return total, rows", "inner/test_heads.py::test_prototypes_equal_a_loop_over_classes_and_rows"),
    Mutant("Matern without its linear factor", "inner/heads/kernels.py", "return (1 + root) * (-root).exp()", "return (-root).exp()", "inner/test_gaussian_process.py::test_posterior_and_likelihood_equal_scikit_learn"),
    Mutant("maximum likelihood where the mean is integrated out", "inner/heads/process_evidence.py", "freedom = self.count - 1", "freedom = self.count", "inner/test_gaussian_process.py::test_the_likelihood_that_is_maximised_is_that_of_the_dense_covariance"),
    Mutant("rows that are left out where a few stand for all", "inner/heads/inducing.py", "range(0, len(rows), _AT_ONCE)", "range(0, _AT_ONCE, _AT_ONCE)", "inner/test_gaussian_process.py::test_many_rows_by_a_few_of_them_are_the_exact_posterior_where_those_span_the_kernel"),
    Mutant("MAML++ starts with the last loss alone", "outer/metagrad.py", "if steps < 2 or (not isinstance(share, Tensor) and share >= 1):", "if True:", "algorithms/test_formulas.py::test_multi_step_weights"),
    Mutant("exp a thousandth too large, in C", "engine/c/prelude.py", "return x != x ? x : y;", "return x != x ? x : 1.001f * y;", "engine/test_engine.py::test_pointwise_operators_as_in_torch"),
    Mutant("a product that leaves out its last summand, in C", "engine/c/matmul.py", 'f"for (int64_t p = 0; p < {inner}; p += {_RUN}) {{",\n            f"const int64_t end = p + {_RUN} < {inner} ? p + {_RUN} : {inner};"', 'f"for (int64_t p = 0; p < {inner}; p += {_RUN}) {{",\n            f"const int64_t end = p + {_RUN} < {inner} ? p + {_RUN} : {inner} - 1;"', "engine/test_sums.py::test_runs_of_a_sum_end_where_they_should"),
    Mutant("a run of a sum that replaces those before it, in C", "engine/c/loops.py", "all[j] += few[j];", "all[j] = few[j];", "engine/test_sums.py::test_runs_of_a_sum_end_where_they_should"),
    Mutant("sums over tasks in single precision, in C", "engine/c/lowering.py", "wide = torch.float64 if target.dtype == torch.float32", "wide = torch.float32 if target.dtype == torch.float32", "engine/test_sums.py::test_as_exact_as_torch"),
    Mutant("a convolution that forgets the summands of earlier runs, in C", "engine/c/indirect.py", "[*added, 'f > 0']", "[*added, '0']", "engine/test_sums.py::test_as_exact_as_torch"),
    Mutant("a check that lets 1 % pass", "engine/agreement.py", "_POWER, _UNASKED = 0.75, 16", "_POWER, _UNASKED = 0.3, 16", "engine/test_planted_faults.py::test_a_kernel_that_is_a_thousandth_off_is_refused"),
    Mutant("a check to which all infinities are one", "engine/agreement.py", "    if not torch.equal(a[~finite].nan_to_num(0.0), b[~finite].nan_to_num(0.0)):", "    if False:", "engine/test_planted_faults.py::test_special_numbers_are_compared_by_index_and_sign"),
    Mutant("results in what memory held before", "engine/run.py", "            _spoil(outputs)", "            pass", "engine/test_planted_faults.py::test_what_is_never_written_is_seen"),
    Mutant("a closure whose cells are not looked at", "engine/guards.py", "cells = map(_contents, self._cells)", "cells = map(_contents, ())", "engine/test_guards.py::test_a_change_is_seen"),
    Mutant("weights that moved in memory", "engine/guards.py", "list(map(Tensor.data_ptr, self.tensors)) == self._addresses", "True", "engine/test_guards.py::test_a_change_is_seen"),
    Mutant("a library that is loaded unproved", "engine/c/library_cache.py", 'return _proof(library).read_text(encoding="ascii") == _hash(library.read_bytes())', "return library.is_file()", "engine/test_compiler.py::test_a_file_of_the_cache_that_is_not_what_was_proved_is_made_again"),
]  # fmt: skip


HEAD = """# Planted faults

Each fault was planted into a copy of the library by `python benchmarks/mutants.py`, and the tests beside it were run:
they must fail. Several of these faults were found in published libraries.

| fault | in | noticed by | |
|---|---|---|---|"""


def stale(mutant: Mutant, tree: Path = ROOT) -> str | None:
    """Why the fault cannot be planted in the tree as it is; `None` where it can."""
    source = tree / "src" / "innerloop" / mutant.file
    if not source.is_file():
        return f"{mutant.name}: there is no {mutant.file}"
    times = source.read_text(encoding="utf-8").count(mutant.old)
    if times != 1:
        return f"{mutant.name}: the passage stands {times} times in {mutant.file}, not once: {mutant.old!r}"
    file, _, test = mutant.tests.partition("::")
    if not (tree / "tests" / file).is_file():
        return f"{mutant.name}: there is no tests/{file}"
    if f"def {test}(" not in (tree / "tests" / file).read_text(encoding="utf-8") and test:
        return f"{mutant.name}: tests/{file} has no {test}"
    return None


def caught(mutant: Mutant, tree: Path) -> bool:
    """Whether the tests fail on the mutated tree."""
    target = tree / "src" / "innerloop" / mutant.file
    original = target.read_text(encoding="utf-8")
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
    if reasons := [reason for mutant in MUTANTS if (reason := stale(mutant))]:
        sys.exit("\n".join(reasons))
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for part in ("src", "tests"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        escaped = []
        print(HEAD)
        for mutant in chosen:
            noticed = caught(mutant, tree)
            verdict = "caught" if noticed else "ESCAPED"
            print(f"| {mutant.name} | `{mutant.file}` | `{mutant.tests}` | {verdict} |", flush=True)
            escaped += [] if noticed else [mutant.name]
    print(f"\n{len(chosen) - len(escaped)} of {len(chosen)} faults caught")
    sys.exit(1 if escaped else 0)


if __name__ == "__main__":
    main()
