"""Time the published networks that predict Gaussians on the CPU, beside the official programs' figures.

Random weights do: the work does not depend on their values. Process CPU seconds with one thread are the figure to
compare, because they do not depend on what else the machine does; wall seconds are printed as well.

    python benchmarks/splat_cpu.py noposplat --views 2 --threads 1 --repeat 2
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from flarecli.model.config import MODELS
from flarecli.model.loading import network_builder

# Official programs on a 2-core AMD EPYC virtual machine, float32: (model, views) -> CPU seconds, threads.
PUBLISHED = {
    ("noposplat", 2): "8.3 (1 thread), 13.4 (2 threads)",
    ("noposplat", 3): "22.0 (2 threads)",
    ("spfsplat", 2): "13.6 (2 threads)",
    ("spfsplatv2", 2): "13.3 (2 threads)",
}


def random_network(name: str) -> nn.Module:
    """The published sizes with small random weights, allocated once."""
    with torch.device("meta"):
        network = network_builder(MODELS[name])()
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if value.ndim > 1:
                value.uniform_(-0.02, 0.02, generator=generator)
            else:
                value.fill_(1.0 if "norm" in key and key.endswith("weight") else 0.01)
    return network.eval()


def inputs(name: str, views: int) -> tuple[torch.Tensor, ...]:
    """Random colours and plain intrinsics of the size that the weights were trained for."""
    side = MODELS[name].canvas.long_side
    rgb = torch.rand(1, views, 3, side, side, generator=torch.Generator().manual_seed(1))
    if name == "flare-nvs":
        K = torch.tensor([[side, 0.0, side / 2], [0.0, side, side / 2], [0.0, 0.0, 1.0]]).repeat(1, views, 1, 1)
        return rgb, torch.zeros(views, dtype=torch.bool), K
    return rgb, torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]]).repeat(1, views, 1, 1)


@contextmanager
def counting(counter: FlopCounterMode) -> Iterator[None]:
    """Count operations; written-out attention, because the counter does not know the CPU's fused kernel."""
    with sdpa_kernel(SDPBackend.MATH), counter:
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=[name for name, spec in MODELS.items() if spec.canvas.long_side == 256])
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=2, help="timed runs after one run to warm up")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = random_network(options.model)
    given = inputs(options.model, options.views)
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    best, counter = float("inf"), FlopCounterMode(display=False)
    for index in range(options.repeat + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode(), counting(counter) if index == 0 else nullcontext():
            network(*given)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        best = cpu if index == 1 else min(best, cpu)
        print(f"{'warm-up' if index == 0 else f'run {index}':8} {cpu:7.1f} CPU s {wall:7.1f} s wall")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    parameters = sum(value.numel() for value in network.state_dict().values())
    size = MODELS[options.model].canvas.long_side
    print(f"{options.model}: {options.views} views {size}x{size}, {options.threads} thread(s), best {best:.1f} CPU s")
    print(f"parameters {parameters:,}; {counter.get_total_flops() / 1e9:.1f} GFLOP")
    print(
        f"memory {loaded:.2f} GiB loaded, {peak:.2f} GiB peak; official CPU s: "
        f"{PUBLISHED.get((options.model, options.views), 'not known')}"
    )


if __name__ == "__main__":
    main()
