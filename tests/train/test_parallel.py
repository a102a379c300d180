"""Two processes with gloo train one network."""

import json
import os
import socket
import subprocess
import sys

import torch

from flarecli.train.checkpoint import load_shards, load_state
from flarecli.train.data import ShardPlan, prerender
from flarecli.train.parallel import Workers

TOML = """
output = "{folder}/run"
minutes = 30
max_steps = 2
size = "tiny"
device = "cpu"
warmup = 1
log_every = 1

[[phases]]
share = 1.0
shards = "{folder}/data"
images = 4
"""

CHECK = """
import sys, torch
from flarecli.train import loop
original, seen = loop._average, []

def average(slow, fast, keep):
    original(slow, fast, keep)
    seen.append(torch.cat([p.detach().flatten() for p in fast.parameters()]))

loop._average = average
loop.train_from_toml(__import__("pathlib").Path(sys.argv[1]))
torch.save(torch.stack(seen), f"{sys.argv[2]}/weights-{__import__('os').environ['RANK']}.pt")
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_stay_equal_and_one_writes(tmp_path, textures):
    prerender(textures, tmp_path / "data", ShardPlan(1, 4, ((24, 32),), seed=1))
    (tmp_path / "train.toml").write_text(TOML.format(folder=tmp_path))
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHECK, str(tmp_path / "train.toml"), str(tmp_path)]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    first, second = (torch.load(tmp_path / f"weights-{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first, second)  # after every step
    assert not torch.equal(first[0], first[1])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 2]
    state = load_state(tmp_path / "run" / "checkpoint")
    assert (state.step, state.samples) == (2, 2 * 2 * 2)  # steps x scenes x processes
    assert load_shards(tmp_path / "run" / "checkpoint", "model")


def test_a_single_process_needs_no_group():
    alone, network = Workers(), torch.nn.Linear(2, 2)
    network(torch.ones(1, 2)).sum().backward()
    assert network.weight.grad is not None
    before = network.weight.grad.clone()
    alone.average_gradients(network)
    alone.wait()
    assert alone.leads and alone.agree(1.5) == 1.5 and torch.equal(network.weight.grad, before)
