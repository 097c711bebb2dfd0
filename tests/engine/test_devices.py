"""Which device a step goes to: decided by counts and constants, so invented devices decide as real ones would."""

import pytest
import torch

from innerloop.engine import devices
from innerloop.engine.devices import Choice, Speed, Work, choose, counted, free_bytes, resolve_device
from innerloop.errors import UsageError

ONE_THREAD = devices.processor(1)


def card(monkeypatch, *, multiprocessors, free=80 * 2**30):
    """A GPU of so many multiprocessors, as torch describes one."""
    described = type("Properties", (), {"multi_processor_count": multiprocessors})()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: described)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2**30)


def test_small_nets_stay_on_the_cpu_and_large_ones_go_to_the_gpu(monkeypatch):
    card(monkeypatch, multiprocessors=132)
    gpu = devices.gpu()
    # a table net and a convolutional net, as in docs/performance.md
    assert choose(Work(700, 1e7, 1e7), cpu=ONE_THREAD, gpu=gpu).device.type == "cpu"
    assert choose(Work(1500, 7.6e10, 2e10), cpu=ONE_THREAD, gpu=gpu).device.type == "cuda"


def test_the_choice_follows_the_devices(monkeypatch):
    work = Work(1500, 1e10, 1e9)
    card(monkeypatch, multiprocessors=132)
    assert choose(work, cpu=ONE_THREAD, gpu=devices.gpu()).device.type == "cuda"
    assert choose(work, cpu=devices.processor(64), gpu=devices.gpu()).device.type == "cpu"
    card(monkeypatch, multiprocessors=2)
    assert choose(work, cpu=ONE_THREAD, gpu=devices.gpu()).device.type == "cpu"
    assert choose(work, cpu=ONE_THREAD, gpu=None) == Choice(torch.device("cpu"), "there is no GPU")


def test_an_estimate_is_launches_and_the_slower_of_computing_and_moving():
    speed = Speed(launch=1e-5, flops=1e12, bytes=1e11)
    assert speed.seconds(Work(100, 1e9, 0)) == pytest.approx(2e-3)
    assert speed.seconds(Work(100, 1e9, 1e9)) == pytest.approx(1.1e-2)
    assert Work(7, 2, 3).times(10) == Work(7, 20, 30)


def test_the_reason_is_one_line_with_both_estimates():
    gpu = Speed(18e-6, 4e12, 1.6e12)
    for work in (Work(700, 1e7, 1e7), Work(1500, 7.6e10, 2e10)):
        choice = choose(work, cpu=ONE_THREAD, gpu=gpu)
        assert "\n" not in str(choice)
        assert str(choice).startswith(f"{choice.device} (an update is estimated at ")
        for seconds in (ONE_THREAD.seconds(work), gpu.seconds(work)):
            assert f"{1e3 * seconds:.3g} ms" in str(choice)


def test_work_is_counted_only_where_there_is_a_choice(monkeypatch):
    def never() -> Work:
        raise AssertionError

    assert resolve_device("cpu", never).device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto", never).reason == "there is no GPU"
    card(monkeypatch, multiprocessors=132)
    assert resolve_device("auto").reason == "small work"
    assert resolve_device("auto", lambda: Work(100, 1e12, 0)).device.type == "cuda"


def test_devices_by_name():
    assert resolve_device("cpu") == Choice(torch.device("cpu"))
    with pytest.raises(UsageError, match="knows no such device"):
        resolve_device("nonsense")


def test_a_gpu_gives_a_share_of_what_is_free(monkeypatch):
    card(monkeypatch, multiprocessors=132, free=8 * 2**30)
    # what torch keeps in reserve counts as free
    assert free_bytes(torch.device("cuda")) == int(0.6 * 10 * 2**30)
    assert free_bytes(torch.device("cpu")) == 512 * 2**20


def test_operations_are_those_of_the_formula():
    x, w = torch.ones(2, 3, 8, 8), torch.ones(4, 3, 3, 3)
    work = counted(lambda: torch.conv2d(x, w).relu())
    results = 2 * 4 * 6 * 6
    assert work.operators == 2
    assert work.flops == 2 * results * 3 * 3 * 3
    assert work.bytes == 4 * (x.numel() + w.numel() + results + 2 * results)
    assert counted(lambda: x.flatten().reshape(2, -1)[0]).operators == 0
