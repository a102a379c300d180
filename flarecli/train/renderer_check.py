"""Whether the renderer of a machine shows one world from all places, and how fast."""

from __future__ import annotations

import time
from dataclasses import fields

import torch

from flarecli.errors import VerificationError
from flarecli.train.cameras import RigRules
from flarecli.train.generator import Batch, Generator
from flarecli.train.primitives import Draw
from flarecli.train.renderer import RenderSize
from flarecli.train.targets import find_matches, make_targets

_VIEWS = 4
_LOOKED_AT = 16  # scenes
_COLOUR_LIMIT = 0.1  # of the range: the same point in two photos; random pixels differ about twice as much
_SAMPLES = 200


def check_renderer(generator: Generator, canvas: tuple[int, int], images: int) -> dict[str, float]:
    """Render a batch and look at the same points from two places.

    Args:
        generator: on the device that renders.
        canvas: height and width of the images.
        images: how many of them a step of the training has; as many are timed.

    Returns:
        ``images_per_second``, ``visible`` (share of pixels that the other view sees) and ``colour_difference``
        (median over those, 0 to 1).

    Raises:
        VerificationError: the colours do not agree.
    """
    scenes = max(2, images // _VIEWS)
    _rendered(generator, 2, canvas)  # compiles the kernel
    began = time.monotonic()
    batch = _rendered(generator, scenes, canvas)
    rate = scenes * _VIEWS / (time.monotonic() - began)
    few = Batch(*(getattr(batch, f.name)[:_LOOKED_AT] for f in fields(Batch)))
    difference, visible = _compare(few.to(torch.device("cpu")), canvas)
    if not difference < _COLOUR_LIMIT:
        raise VerificationError(
            f"rendered views disagree: colours of the same points differ by {difference:.2f}",
            "report it with the name of the device; nothing was trained",
        )
    return {"images_per_second": round(rate, 1), "visible": visible, "colour_difference": difference}


def _rendered(generator: Generator, scenes: int, canvas: tuple[int, int]) -> Batch:
    """A batch that is there: kernels of a GPU run on after the call that started them."""
    batch = generator.batch(scenes, RigRules(_VIEWS), RenderSize(*canvas))
    if batch.rgb.is_cuda:
        torch.cuda.synchronize(batch.rgb.device)
    return batch


def _compare(batch: Batch, canvas: tuple[int, int]) -> tuple[float, float]:
    """Median difference of the colours of the same points, and the share of points that both views see."""
    targets, (height, width) = make_targets(batch), canvas
    pixels = Draw.seeded(0).integers(height * width, len(batch.kind), 1, _SAMPLES)
    source, target = torch.zeros(len(batch.kind), 1, dtype=torch.long), torch.ones(len(batch.kind), 1, dtype=torch.long)
    matches = find_matches(targets, source, target, pixels, stride=8)
    column, row = matches.location.long().unbind(-1)
    there = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1))[:, 0]
    colours = [batch.rgb[:, view].flatten(2).transpose(1, 2) for view in (0, 1)]
    first, second = (
        values.gather(1, index[..., None].expand(-1, -1, 3))
        for values, index in zip(colours, (pixels[:, 0], there), strict=True)
    )
    difference = (first - second).abs().mean(-1)[matches.visible[:, 0]].median()
    return float(difference), float(matches.visible.float().mean())
