import json

import pytest
import torch

from flarecli.errors import InputError, WeightsError
from flarecli.train.checkpoint import TrainState, load_shards, load_state, save_checkpoint, save_shards


def test_shards_stay_small_and_come_back(tmp_path):
    tensors = {f"w{i}": torch.randn(64, 64) for i in range(5)} | {"bias": torch.randn(7)}
    paths = save_shards(tensors, tmp_path, "model", limit=20_000)
    assert [p.name for p in paths] == [f"model-0000{k}-of-00003.safetensors" for k in (1, 2, 3)]
    back = load_shards(tmp_path, "model")
    assert back.keys() == tensors.keys()
    assert torch.equal(back["bias"], tensors["bias"])  # vectors keep single precision
    for i in range(5):
        torch.testing.assert_close(back[f"w{i}"], tensors[f"w{i}"], rtol=1e-3, atol=1e-6)


def test_missing_or_damaged_shards_are_named(tmp_path):
    with pytest.raises(WeightsError, match="incomplete"):
        load_shards(tmp_path, "model")
    paths = save_shards({f"w{i}": torch.randn(64, 64) for i in range(4)}, tmp_path, "model", limit=9000)
    paths[0].write_bytes(b"junk")
    with pytest.raises(WeightsError, match=paths[0].name):
        load_shards(tmp_path, "model")
    paths[0].unlink()
    with pytest.raises(WeightsError, match="incomplete"):
        load_shards(tmp_path, "model")


def test_checkpoint_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "checkpoint"
    state = TrainState(step=3, samples=12, minutes=0.5, seed=1, size="tiny")
    save_checkpoint(folder, {"w": torch.zeros(4, 4)}, {"w": torch.ones(4, 4)}, state)
    save_checkpoint(folder, {"w": torch.full((4, 4), 2.0)}, {"w": torch.ones(4, 4)}, TrainState(4, 16, 0.7, 1, "tiny"))
    assert load_shards(folder, "model")["w"][0, 0] == 2
    assert load_shards(folder, "ema")["w"][0, 0] == 1
    assert load_state(folder).step == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint"]


@pytest.mark.parametrize("text", ["{", json.dumps({"step": 1}), json.dumps([])])
def test_foreign_state_is_refused(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(InputError, match="no training checkpoint"):
        load_state(tmp_path)
