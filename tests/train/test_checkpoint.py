import json
from pathlib import Path

import pytest
import torch

from flarecli.errors import InputError
from flarecli.model.shards import load_shards
from flarecli.train.checkpoint import TrainState, load_state, save_checkpoint, take_back


def test_checkpoint_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "checkpoint"
    state = TrainState(step=3, samples=12, minutes=0.5, seed=1, size="tiny")
    save_checkpoint(folder, {"w": torch.zeros(4, 4)}, {"w": torch.ones(4, 4)}, state)
    save_checkpoint(folder, {"w": torch.full((4, 4), 2.0)}, {"w": torch.ones(4, 4)}, TrainState(4, 16, 0.7, 1, "tiny"))
    assert load_shards(folder, "model")["w"][0, 0] == 2
    assert load_shards(folder, "ema")["w"][0, 0] == 1
    assert load_state(folder).step == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint"]


@pytest.mark.parametrize(("interrupted", "step"), [("checkpoint.partial", 3), ("checkpoint", 3), (None, 4)])
def test_an_interrupted_save_leaves_a_checkpoint(tmp_path, monkeypatch, interrupted, step):
    """Both renames are tried: the old folder out of its place, and the new one into it."""
    folder, rename = tmp_path / "checkpoint", Path.rename
    save_checkpoint(folder, {"w": torch.zeros(4, 4)}, {"w": torch.ones(4, 4)}, TrainState(3, 12, 0.5, 1, "tiny"))

    def cut_short(self, target):
        if self.name == interrupted:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut_short)
        weights = {"w": torch.full((4, 4), 2.0)}
        if interrupted is None:
            save_checkpoint(folder, weights, weights, TrainState(4, 16, 0.7, 1, "tiny"))
        else:
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(folder, weights, weights, TrainState(4, 16, 0.7, 1, "tiny"))
    assert take_back(folder)
    assert load_state(folder).step == step
    save_checkpoint(folder, weights, weights, TrainState(5, 20, 0.9, 1, "tiny"))
    assert load_state(folder).step == 5 and [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_where_nothing_was_saved_there_is_nothing_to_take_back(tmp_path):
    assert not take_back(tmp_path / "checkpoint")


@pytest.mark.parametrize("text", ["{", json.dumps({"step": 1}), json.dumps([])])
def test_foreign_state_is_refused(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(InputError, match="no training checkpoint"):
        load_state(tmp_path)
