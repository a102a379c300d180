"""Which views learn together: a reference, others that see what it sees, and targets that the network does not get."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from flarecli.adapt.study import Study
from flarecli.train.targets import centre_pixels, find_matches, make_targets

_GRID = 24  # points along the long side that overlap is counted at
_MIN_OVERLAP = 0.15
MAX_CONTEXT = 5
MAX_TARGETS = 1


@torch.no_grad()
def overlaps(study: Study) -> Float[Tensor, "V V"]:
    """Share of the measured points of one view that another sees; the smaller of both directions."""
    count, (height, width) = len(study.names), study.size_hw
    truth = make_targets(study.batch(range(count)))
    stride = max(1, width // _GRID)
    pixels = centre_pixels(height, width, stride, study.rgb.device)
    share = torch.eye(count)
    for view in range(count):
        others = [other for other in range(count) if other != view]
        source, target = (torch.tensor([each], device=pixels.device) for each in ([view] * len(others), others))
        seen = find_matches(truth, source, target, pixels.expand(1, len(others), -1), stride).visible[0]
        measured = truth.valid[0, view].flatten()[pixels].sum().clamp_min(1)
        share[view, others] = (seen.sum(1) / measured).cpu()
    return torch.minimum(share, share.T)


def choose_set(
    shared: Float[Tensor, "V V"], learned: Sequence[int], generator: torch.Generator
) -> tuple[list[int], list[int]]:
    """Context views (2 to 5, the first is the reference) and a target (none where only two views are learned from).

    Views that overlap the reference come in random order, then the others by how little they miss. Where three or more
    views are learned from, one is always a target.

    Args:
        shared: overlap of all views.
        learned: views that may be chosen, two or more.
        generator: random source on the CPU.
    """
    most = max(2, min(MAX_CONTEXT, len(learned) - 1))
    size = int(torch.randint(2, most + 1, (), generator=generator))
    reference = learned[int(torch.randint(len(learned), (), generator=generator))]
    others = [view for view in learned if view != reference]
    overlap = shared[reference, others]
    near = overlap > _MIN_OVERLAP
    order = torch.where(near, 1 + torch.rand(len(others), generator=generator), overlap).argsort(descending=True)
    ranked = [others[i] for i in order.tolist()]
    return [reference, *ranked[: size - 1]], ranked[size - 1 : size - 1 + MAX_TARGETS]
