"""Photos through a network: reference choice, windows that fit in memory, retry with smaller ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from flarecli.errors import InputError, MemoryExceeded
from flarecli.images.loading import Photo
from flarecli.images.preparing import Prepared, choose_canvas, prepare
from flarecli.model.loading import LoadedModel
from flarecli.model.spec import ModelSpec
from flarecli.runtime import available_memory, inference_precision
from flarecli.scene.views import Prediction, Views

OVERLAP = 3
"""Photos that neighbouring windows share; three different places fix a similarity even when one photo is bad."""

_BYTES_PER_PIXEL = {"flare": 4200, "flare-test": 4200}
_BYTES_PER_PIXEL_DEFAULT = 6000
# Peak activation memory per pixel and view, measured on the CPU in float32 with a third to spare.


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Prediction for some of the photos.

    Attributes:
        photos: their indices; the first is the reference of the prediction.
        prediction: on the CPU, float32.
    """

    photos: tuple[int, ...]
    prediction: Prediction


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """All windows of a scene.

    Attributes:
        windows: every photo is in at least one.
        prepared: what the network saw.
    """

    windows: tuple[Window, ...]
    prepared: Prepared


def predict(
    photos: Sequence[Photo],
    model: LoadedModel,
    device: torch.device,
    *,
    c2w: Float[np.ndarray, "V 4 4"] | None = None,
    max_memory: int | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Predicted:
    """Run a network on all photos.

    Args:
        photos: two or more.
        model: the network.
        device: where it is.
        c2w: known poses, for networks that take them.
        max_memory: bytes that the activations may take; None takes half of what is free.
        on_progress: told ("network", windows done, windows).

    Raises:
        MemoryExceeded: even two photos at once do not fit.
        InputError: a model of fixed view count gets too few photos.
    """
    if len(photos) < 2:
        raise InputError("a reconstruction needs at least two photos")
    canvas = model.spec.canvas.size_hw or choose_canvas(
        [photo.size_hw for photo in photos], model.spec.canvas.long_side, model.spec.canvas.multiple
    )
    prepared = prepare(photos, canvas, c2w=c2w)
    order = _order(photos)
    size = _views_that_fit(model.spec, canvas, device, max_memory)
    while True:
        plan = plan_windows(order, size)
        try:
            return Predicted(_run(plan, prepared.views, model, device, on_progress), prepared)
        except torch.OutOfMemoryError as error:
            if size <= 2:
                raise MemoryExceeded(
                    f"two photos at once do not fit into the memory of {device}", "use --device cpu or a smaller model"
                ) from error
            size = max(2, size // 2)
            torch.cuda.empty_cache()


def _run(
    plan: list[list[int]],
    views: Views,
    model: LoadedModel,
    device: torch.device,
    on_progress: Callable[[str, int, int], None] | None,
) -> tuple[Window, ...]:
    windows = []
    for done, chosen in enumerate(plan):
        with torch.inference_mode(), inference_precision(device):
            prediction = model.network.predict(views.select(chosen).to(device))
        windows.append(Window(tuple(chosen), _to_cpu(prediction)))
        if on_progress:
            on_progress("network", done + 1, len(plan))
    return tuple(windows)


def _to_cpu(prediction: Prediction) -> Prediction:
    fields = {name: getattr(prediction, name) for name in Prediction.__dataclass_fields__}
    return replace(prediction, **{k: None if v is None else v.float().cpu() for k, v in fields.items()})


def _views_that_fit(spec: ModelSpec, canvas: tuple[int, int], device: torch.device, max_memory: int | None) -> int:
    budget = available_memory(device) // 2 if max_memory is None else max_memory
    per_view = canvas[0] * canvas[1] * _BYTES_PER_PIXEL.get(spec.name, _BYTES_PER_PIXEL_DEFAULT)
    fit = budget // per_view
    if fit < 2:
        raise MemoryExceeded(
            f"{spec.name} needs about {2 * per_view / 2**30:.1f} GiB for two photos; "
            f"{budget / 2**30:.1f} GiB are allowed",
            "raise --max-memory, or use --model flare-small",
        )
    return int(min(spec.max_views, fit))


def plan_windows(order: Sequence[int], size: int) -> list[list[int]]:
    """Windows of at most ``size`` photos over an order, neighbours sharing up to ``OVERLAP`` of them."""
    if len(order) <= size:
        return [list(order)]
    shared = min(OVERLAP, size - 1)
    starts = list(range(0, len(order) - size + 1, size - shared))
    if starts[-1] + size < len(order):
        starts.append(len(order) - size)
    return [list(order[start : start + size]) for start in starts]


def _order(photos: Sequence[Photo]) -> list[int]:
    """Reference first, the others in their given order.

    The reference is the photo whose small, blurred, contrast-normalised picture is most like those of all others: the
    middle of the set, as far as can be told without a network.
    """
    signatures = []
    for photo in photos:
        rgb = photo.decode((64, 64)).rgb.resize((16, 16), Image.Resampling.BOX)
        pixels = np.asarray(rgb, np.float64).reshape(-1, 3)
        pixels -= pixels.mean(0)
        signatures.append((pixels / max(np.linalg.norm(pixels), 1e-9)).ravel())
    likeness = np.array(signatures) @ np.array(signatures).T
    reference = int(np.argmax(likeness.sum(1)))
    return [reference, *(index for index in range(len(photos)) if index != reference)]
