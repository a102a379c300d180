import pytest
import torch

from flarecli.errors import WeightsError
from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.model.shards import MAX_SHARD, load_shards, save_shards


def test_shards_stay_small_and_come_back(tmp_path):
    tensors = {f"w{i}": torch.randn(64, 64) for i in range(5)} | {"bias": torch.randn(7)}
    paths = save_shards(tensors, tmp_path, "model", limit=20_000)
    assert [p.name for p in paths] == [f"model-0000{k}-of-00003.safetensors" for k in (1, 2, 3)]
    back = load_shards(tmp_path, "model")
    assert back.keys() == tensors.keys()
    assert torch.equal(back["bias"], tensors["bias"])  # vectors keep single precision
    for i in range(5):
        torch.testing.assert_close(back[f"w{i}"], tensors[f"w{i}"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("size", ["xs", "s"])
def test_shards_with_their_headers_are_small_enough_to_travel(tmp_path, size):
    paths = save_shards(FlareSmall(SIZES[size]).state_dict(), tmp_path, "ema")
    assert len(paths) == {"xs": 1, "s": 4}[size]
    assert max(path.stat().st_size for path in paths) <= MAX_SHARD


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


def test_a_file_that_only_looks_like_a_shard_is_an_incomplete_set(tmp_path):
    (tmp_path / "model-of-what-of-x.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="incomplete"):
        load_shards(tmp_path, "model")
