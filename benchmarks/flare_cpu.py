"""Time the full-size FLARE network on the CPU, stage by stage, beside the published program's figure.

Random weights do: the work does not depend on their values. Process CPU seconds with one thread are the figure to
compare, because they do not depend on what else the machine does; wall seconds are printed as well.

    python benchmarks/flare_cpu.py --views 2 --threads 1 --repeat 2
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from torch import nn

from flarecli.model.config_flare import FlareConfig
from flarecli.model.flare import Flare

# Measured once on a 2-core AMD EPYC virtual machine, float32, one thread: views -> (CPU seconds, best wall seconds).
PUBLISHED = {2: (41.2, 41.5), 4: (86.5, 143.0), 8: (183.1, 206.0)}
PUBLISHED_STAGES = {"encoder": 11.8, "pose_stage": 0.6, "local_stage": 8.3, "local_head": 4.4, "global_stage": 11.5}
PUBLISHED_STAGES["global_head"] = 4.4
STAGES: tuple[str, ...] = ("encoder", "pose_stage", "local_stage", "local_head", "global_stage", "global_head")


class StageClock:
    """Adds up the CPU seconds that named submodules take."""

    def __init__(self, network: nn.Module) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._started: dict[str, float] = {}
        for name in STAGES:
            module = network.get_submodule(name)
            module.register_forward_pre_hook(lambda *_, name=name: self._start(name))
            module.register_forward_hook(lambda *_, name=name: self._stop(name))

    def _start(self, name: str) -> None:
        self._started[name] = time.process_time()

    def _stop(self, name: str) -> None:
        self.seconds[name] += time.process_time() - self._started[name]


def random_network() -> Flare:
    """The published sizes with small random weights, allocated once."""
    with torch.device("meta"):
        network = Flare(FlareConfig())
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.uniform_(-0.02, 0.02, generator=generator)
            else:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=2, help="timed runs after one run to warm up")
    parser.add_argument("--no-local", action="store_true", help="skip the point maps in each camera's own frame")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = random_network()
    rgb = torch.rand(1, options.views, 3, 384, 512, generator=torch.Generator().manual_seed(1))
    portrait = torch.zeros(options.views, dtype=torch.bool)

    runs: list[tuple[float, float, dict[str, float]]] = []
    clock = StageClock(network)
    for _ in range(options.repeat + 1):
        clock.seconds = dict.fromkeys(STAGES, 0.0)
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            output = network(rgb, portrait, local=not options.no_local)
        runs.append((time.process_time() - cpu, time.perf_counter() - wall, dict(clock.seconds)))
        if not torch.isfinite(output.points_global).all():
            raise SystemExit("the outputs are not finite")
    report(options.views, options.threads, runs)


def report(views: int, threads: int, runs: list[tuple[float, float, dict[str, float]]]) -> None:
    """Print every run and the best one beside the published figures."""
    for index, (cpu, wall, _) in enumerate(runs):
        print(f"{'warm-up' if index == 0 else f'run {index}':8} {cpu:7.1f} CPU s {wall:7.1f} s wall")
    cpu, wall, stages = min(runs[1:] or runs, key=lambda run: run[0])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{views} views 512x384, float32, {threads} thread(s), peak memory {memory:.2f} GiB")
    print(f"{'stage':14} {'flarecli':>10} {'published':>10}   CPU s")
    for name in STAGES:
        theirs = f"{PUBLISHED_STAGES[name]:10.1f}" if views == 2 else f"{'':>10}"
        print(f"{name:14} {stages[name]:10.1f} {theirs}")
    if views in PUBLISHED:
        their_cpu, their_wall = PUBLISHED[views]
        print(f"{'all':14} {cpu:10.1f} {their_cpu:10.1f}   ratio {cpu / their_cpu:.2f}")
        print(f"{'all, wall':14} {wall:10.1f} {their_wall:10.1f}   ratio {wall / their_wall:.2f}")
    else:
        print(f"{'all':14} {cpu:10.1f}")


if __name__ == "__main__":
    main()
