"""Several processes that train one network, started by torchrun: gradients are averaged, rank 0 decides and writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes of a run.

    Attributes:
        rank: number of this one; 0 leads.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes checkpoints and metrics."""
        return self.rank == 0

    def agree(self, value: float) -> float:
        """The leader's value, so that all take the same decision."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=_device())
        dist.broadcast(shared, 0)
        return float(shared)

    def average_gradients(self, network: nn.Module) -> None:
        """Replace gradients by their mean over the processes; parameters without a gradient have none anywhere."""
        if self.size == 1:
            return
        gradients = [param.grad for param in network.parameters() if param.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def same(self, tensors: Iterator[Tensor]) -> None:
        """Give all processes the leader's values."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.data, 0)

    def wait(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()


def is_first() -> bool:
    """Whether this process is the first of those that torchrun started, or the only one; also outside of a run."""
    return os.environ.get("RANK", "0") == "0"


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


@contextmanager
def workers(device: str) -> Iterator[tuple[Workers, str]]:
    """Join the processes that torchrun started; alone without them.

    Args:
        device: auto, cpu, cuda or cuda:N; of several processes each takes the GPU of its local rank.

    Yields:
        This process among its workers, and the device it should use.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Workers(), device
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Workers(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()
