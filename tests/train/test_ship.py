import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from flarecli.model.config_small import GAUSSIAN_PART, SIZES, FlareSmallConfig
from flarecli.model.flare_small import FlareSmall
from flarecli.train.checkpoint import TrainState, save_checkpoint
from flarecli.train.ship import export_weights, trunk_digest

SHIPPED = Path(__file__).parents[2] / "weights" / "flare-small.safetensors"
TRUNK = "330ee925d859798e192d58f7180586c91eaab872bab83f56a099a4d15c50bcbe"


def test_exported_weights_are_the_average_and_describe_themselves(tmp_path):
    network, average = FlareSmall(SIZES["tiny"]), FlareSmall(SIZES["tiny"])
    state = TrainState(step=5, samples=40, minutes=1.25, seed=0, size="tiny")
    save_checkpoint(tmp_path / "checkpoint", network.state_dict(), average.state_dict(), state)
    path = export_weights(tmp_path / "checkpoint", tmp_path / "w" / "small.safetensors", {"data": "procedural"})
    with safe_open(path, "pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    assert FlareSmallConfig.from_dict(json.loads(header["config"])) == SIZES["tiny"]
    assert (header["licence"], header["data"], header["steps"]) == ("Apache-2.0", "procedural", "5")
    restored = FlareSmall(SIZES["tiny"])
    restored.load_state_dict(tensors)
    for (name, a), b in zip(restored.named_parameters(), average.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6, msg=name)
    assert tensors["stem.coarse.1.weight"].dtype == torch.float16
    assert tensors["stem.coarse.1.bias"].dtype == torch.float32


def test_the_last_weights_can_be_exported_instead(tmp_path):
    network, average = FlareSmall(SIZES["tiny"]), FlareSmall(SIZES["tiny"])
    state = TrainState(step=5, samples=40, minutes=1.25, seed=0, size="tiny")
    save_checkpoint(tmp_path / "checkpoint", network.state_dict(), average.state_dict(), state)
    path = export_weights(tmp_path / "checkpoint", tmp_path / "last.safetensors", {}, averaged=False)
    stored = load_file(path)
    torch.testing.assert_close(stored["pool.0.weight"].float(), network.pool[0].weight, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(stored["pool.0.weight"].float(), average.pool[0].weight, rtol=1e-2)


def test_the_trunk_has_one_digest_whatever_the_head(tmp_path):
    network, state = FlareSmall(SIZES["tiny"]), TrainState(step=5, samples=40, minutes=1.25, seed=0, size="tiny")
    digests = []
    for number, changed in enumerate((None, "gaussian_head.out.bias", "pool.0.bias")):
        weights = {name: tensor + 1 if name == changed else tensor for name, tensor in network.state_dict().items()}
        save_checkpoint(tmp_path / "checkpoint", weights, weights, state)
        path = export_weights(tmp_path / "checkpoint", tmp_path / f"{number}.safetensors", {})
        digests.append(safe_open(path, "pt").metadata()["trunk_sha256"])
    assert digests[0] == digests[1] != digests[2]


def test_the_shipped_head_was_trained_on_the_shipped_trunk():
    """The digest is that of the file before it got a head: cameras, points and descriptors are the same bit by bit."""
    with safe_open(SHIPPED, "pt") as file:
        header = file.metadata()
    tensors = load_file(SHIPPED)
    assert trunk_digest(tensors) == header["trunk_sha256"] == TRUNK
    assert json.loads(header["config"])["gaussians"] and any(name.startswith(GAUSSIAN_PART) for name in tensors)
