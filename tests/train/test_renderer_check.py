import pytest
import torch

from flarecli.errors import VerificationError
from flarecli.train import renderer_check
from flarecli.train.renderer_check import check_renderer


def test_a_renderer_that_shows_two_worlds_is_caught(generator, monkeypatch):
    assert check_renderer(generator, (48, 64), 64)["colour_difference"] < 0.05
    original = type(generator).batch

    def shuffled(self, *args):
        made = original(self, *args)
        made.rgb[:, 1] = made.rgb[torch.randperm(len(made.rgb)), 1].flip(-1)
        return made

    monkeypatch.setattr(type(generator), "batch", shuffled)
    with pytest.raises(VerificationError, match="disagree"):
        check_renderer(generator, (48, 64), 64)


class _OnDevice:
    """Colours of a CUDA device, as far as waiting for it is concerned."""

    is_cuda, device = True, "cuda:0"

    def __init__(self, rgb: torch.Tensor) -> None:
        self.rgb = rgb

    def __getitem__(self, index):
        return self.rgb[index]


def test_a_whole_batch_is_timed_until_the_device_is_done(generator, monkeypatch):
    original, events = type(generator).batch, []
    clock = iter((10.0, 14.0))

    def batch(self, scenes, *args):
        events.append(scenes)
        made = original(self, scenes, *args)
        object.__setattr__(made, "rgb", _OnDevice(made.rgb))
        return made

    def monotonic():
        events.append("clock")
        return next(clock)

    monkeypatch.setattr(type(generator), "batch", batch)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("wait"))
    monkeypatch.setattr(renderer_check.time, "monotonic", monotonic)
    assert check_renderer(generator, (16, 24), 96)["images_per_second"] == 96 / 4
    assert events == [2, "wait", "clock", 24, "wait", "clock"]
