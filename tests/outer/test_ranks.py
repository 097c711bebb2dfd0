"""Processes that share a training make the updates that one process makes, to the bit."""

import json
import time

import pytest
import torch

import innerloop as il
from innerloop.cli import run
from innerloop.errors import UsageError
from innerloop.outer.prefetch import blocks_of
from innerloop.outer.ranks import Ranks, Shards, shared
from innerloop.tasks.episodes import select, tensors
from toolkit import ranked
from toolkit.ranked import TRAININGS, fingerprint, frame_of_all_sizes, kept, launch, said, tasks_of_all_sizes

pytestmark = pytest.mark.long

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def alone():
    return {name: fingerprint(name) for name in TRAININGS}


@pytest.mark.parametrize(
    ("count", "names"), [(2, tuple(TRAININGS)), (4, ("maml", "shards of two sizes", "tasks left out"))]
)
def test_any_number_of_ranks_makes_the_same_updates_to_the_bit(alone, count, names):
    with launch(count, ranked.__file__, *names) as ranks:
        printed, complaints, codes = said(ranks)
    assert codes == [0] * count, complaints
    assert json.loads(printed[0]) == {name: alone[name] for name in names}
    assert not any(printed[1:])


def test_the_trainings_are_different_and_one_leaves_tasks_out(alone):
    assert len({found["parameters"] for found in alone.values()}) == len(alone)
    assert {"compiled", "eager"} == {found["gear"] for found in alone.values()}
    assert alone["tasks left out"]["skipped"] > 0


def test_shards_give_the_update_of_the_whole_meta_batch():
    tasks, runs = tasks_of_all_sizes(), []
    for shards in (0, 1, 5):
        learner = TRAININGS["maml"].make()
        made = il.meta_train(
            learner, tasks.train, steps=4, meta_batch_size=12, gear="eager", device="cpu", shards=shards
        )
        runs.append(made)
    for made in runs[1:]:
        for name, value in runs[0].model.meta.items():
            torch.testing.assert_close(made.model.meta[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_task_is_in_one_shard_and_every_shard_is_of_one_rank(count):
    for total in (5, 8, 12, 33):
        own = torch.cat([Shards(5, Ranks(rank, count)).own(total) for rank in range(count)])
        assert sorted(own.tolist()) == list(range(total))
        sizes = [part.stop - part.start for part in Shards(5).parts(total)]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("rounded", [False, True])
def test_a_rank_reads_its_part_of_what_all_draw(rounded):
    source, own = tasks_of_all_sizes().train, Shards(4, Ranks(1, 3)).own(10)
    how = (source, 10, 3, 40, 50, CPU, torch.float32)
    for whole, part in zip(
        blocks_of(*how, rounded=rounded), blocks_of(*how, rounded=rounded, own=own), strict=True
    ):
        assert torch.equal(whole.key, part.key)
        for number in range(len(whole.key)):
            expected = tensors(select(whole.at(number).episode, own))
            found = tensors(part.at(number).episode)
            assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("shards", "ranks", "total", "message"),
    [(2, 4, 32, "start 2 or fewer"), (8, 2, 5, "meta_batch_size=8")],
)
def test_ranks_without_work_are_refused(shards, ranks, total, message):
    with pytest.raises(UsageError, match=message):
        Shards(shards, Ranks(0, ranks)).require_work(total)


def test_fewer_shards_than_none_are_refused():
    with pytest.raises(UsageError, match="shards=-1"):
        shared(-1, 8)


@pytest.fixture
def asked(tmp_path):
    """A training as a command."""
    table = tmp_path / "sites.csv"
    frame_of_all_sizes().to_csv(table, index=False)
    words = (
        f"-m innerloop train {table} --task site --target y --n-support 3 --algorithm maml --inner-steps 1"
    )
    return [*words.split(), "--meta-batch-size", "8", "--out", str(tmp_path / "run")]


def test_the_command_trains_on_ranks(asked, tmp_path):
    with launch(2, *asked, "--steps", "2") as ranks:
        printed, complaints, codes = said(ranks)
    assert codes == [0, 0], complaints
    assert "model:" in printed[0]
    assert not printed[1]
    assert not complaints[1]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["shards"] == 8


def test_a_rank_that_is_killed_ends_all(asked, tmp_path):
    live = tmp_path / "run.live.jsonl"
    with launch(2, *asked, "--steps", "100000", "--quiet") as ranks:
        until = time.monotonic() + 90
        while not live.exists() and time.monotonic() < until:
            time.sleep(0.05)
        ranks[1].kill()
        _, complaint = ranks[0].communicate(timeout=30)
    assert ranks[0].returncode == 5, complaint
    assert complaint.count("\n") == 1
    assert "another process of this training has ended" in complaint
    assert not (tmp_path / "run").exists()


def test_a_training_on_two_ranks_goes_on_in_one_process_to_the_same_bits(tmp_path):
    with launch(2, ranked.__file__, "kept", str(tmp_path)) as ranks:
        _, complaints, codes = said(ranks)
    assert codes[0] == 3, complaints
    assert il.Checkpoints(tmp_path).steps == [2, 4]
    whole, resumed = kept(None), kept(tmp_path)
    assert resumed.log == whole.log
    for name, value in whole.state.meta.items():
        assert torch.equal(resumed.state.meta[name], value)


def test_what_all_ranks_refuse_is_said_once(tmp_path):
    command = ("-m", "innerloop", "train", str(tmp_path / "no.csv"), "--task", "a", "--target", "b")
    with launch(2, *command) as ranks:
        _, complaints, codes = said(ranks)
    assert codes == [3, 3]
    assert "".join(complaints).count("\n") == 1, complaints


def test_other_verbs_work_in_one_process(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(["predict", "runs/none", "new.csv"]) == 2
    assert "start it without torchrun" in capsys.readouterr().err
