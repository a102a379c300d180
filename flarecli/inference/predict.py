"""Photos through a network: reference choice, windows that fit in memory, retry with smaller ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from flarecli.errors import InputError, MemoryExceeded
from flarecli.geometry.projection import map_intrinsics
from flarecli.images.loading import Photo
from flarecli.images.preparing import Prepared, choose_canvas, prepare
from flarecli.model.loading import LoadedModel
from flarecli.model.spec import ModelSpec
from flarecli.runtime import available_memory, inference_precision
from flarecli.scene.views import GaussianMaps, Prediction, Views

OVERLAP = 3
"""Photos that neighbouring windows share; three different places fix a similarity even when one photo is bad."""

_BYTES_PER_PIXEL = {"flare": 4200, "flare-test": 4200, "flare-small": 2400}
_BYTES_PER_PIXEL |= dict.fromkeys(("noposplat", "noposplat-3view"), 4000)
_BYTES_PER_PIXEL |= dict.fromkeys(("spfsplat", "spfsplat-nointrin", "spfsplatv2"), 4000)
_BYTES_PER_PIXEL_DEFAULT = 6000
_ALLOCATOR = "DefaultCPUAllocator"  # how torch names memory that the CPU doesn't have
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
    K: Float[np.ndarray, "V 3 3"] | None = None,
    max_memory: int | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Predicted:
    """Run a network on all photos.

    Args:
        photos: two or more.
        model: the network.
        device: where it is.
        c2w: known poses, for networks that take them.
        K: known or guessed intrinsics in pixels of the upright photos, for networks that take them.
        max_memory: bytes that the activations may take; None takes half of what is free.
        on_progress: told ("network", windows done, windows).

    Raises:
        MemoryExceeded: even two photos at once do not fit.
        InputError: too few photos for the model, or it needs intrinsics and there are none.
    """
    _check_input(model.spec, len(photos), K is not None)
    canvas = model.spec.canvas.size_hw or choose_canvas(
        [photo.size_hw for photo in photos], model.spec.canvas.long_side, model.spec.canvas.multiple
    )
    prepared = prepare(photos, canvas, c2w=c2w)
    if K is not None:
        prepared = _with_intrinsics(prepared, K)
    likeness = _likeness(photos)
    size = min(len(photos), _views_that_fit(model.spec, canvas, device, max_memory))
    while True:
        plan = [reference_first(window, likeness) for window in plan_windows(range(len(photos)), size)]
        try:
            return Predicted(_run(plan, prepared.views, model, device, on_progress), prepared)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and _ALLOCATOR not in str(error):
                raise
            least = model.spec.min_views
            if size <= least:
                message = f"{_count(least)} photos at once do not fit into the memory of {device}"
                raise MemoryExceeded(message, _elsewhere(model.spec, device)) from error
            size = max(least, size * 3 // 4)
            torch.cuda.empty_cache()


def _elsewhere(spec: ModelSpec, device: torch.device) -> str:
    """What to do where even the smallest window does not fit."""
    ways = ["--device cpu"] if device.type != "cpu" else []
    ways += ["--model flare-small"] if spec.name != "flare-small" else []
    return "free some memory" + (", or use " + " or ".join(ways) if ways else "")


def _check_input(spec: ModelSpec, num_photos: int, has_intrinsics: bool) -> None:
    if num_photos < 2:
        raise InputError("a reconstruction needs at least two photos", "give two or more photos of the same scene")
    if num_photos < spec.min_views:
        message = f"{spec.name} takes {_count(spec.min_views)} photos at a time, and there are only {num_photos}"
        raise InputError(message, "add photos or choose another --model")
    if spec.takes_intrinsics and not has_intrinsics:
        raise InputError(f"{spec.name} needs the intrinsics of its photos", "give --intrinsics, for example 35mm=28")


def _count(number: int) -> str:
    return {2: "two", 3: "three"}.get(number, str(number))


def _with_intrinsics(prepared: Prepared, K: Float[np.ndarray, "V 3 3"]) -> Prepared:
    mapped = [map_intrinsics(each, photo_map) for each, photo_map in zip(K, prepared.prepared_from_photo, strict=True)]
    return replace(prepared, views=replace(prepared.views, K=torch.from_numpy(np.stack(mapped)).float()))


def _run(
    plan: list[list[int]],
    views: Views,
    model: LoadedModel,
    device: torch.device,
    on_progress: Callable[[str, int, int], None] | None,
) -> tuple[Window, ...]:
    windows = []
    for done, chosen in enumerate(plan):
        with torch.inference_mode(), inference_precision(device, model.spec.precision):
            prediction = model.network.predict(views.select(chosen).to(device))
        windows.append(Window(tuple(chosen), _to_cpu(prediction)))
        if on_progress:
            on_progress("network", done + 1, len(plan))
    return tuple(windows)


def _to_cpu(prediction: Prediction) -> Prediction:
    def moved(value: Tensor | GaussianMaps | None) -> Tensor | GaussianMaps | None:
        if isinstance(value, GaussianMaps):
            return value.map(lambda each: each.float().cpu())
        return None if value is None else value.float().cpu()

    return replace(prediction, **{field.name: moved(getattr(prediction, field.name)) for field in fields(prediction)})


def _views_that_fit(spec: ModelSpec, canvas: tuple[int, int], device: torch.device, max_memory: int | None) -> int:
    budget = available_memory(device) // 2 if max_memory is None else max_memory
    per_view = canvas[0] * canvas[1] * _BYTES_PER_PIXEL.get(spec.name, _BYTES_PER_PIXEL_DEFAULT)
    fit = budget // per_view
    least = spec.min_views
    if fit < least:
        raise MemoryExceeded(
            f"{spec.name} needs about {least * per_view / 2**30:.1f} GiB for {_count(least)} photos; "
            f"{budget / 2**30:.1f} GiB are allowed",
            f"raise --max-memory; or {_elsewhere(spec, device)}",
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


def reference_first(window: Sequence[int], likeness: Float[np.ndarray, "V V"]) -> list[int]:
    """A window with its reference in front: the photo most like the others of it, which keep their order."""
    reference = window[int(np.argmax(likeness[np.ix_(window, window)].sum(1)))]
    return [reference, *(photo for photo in window if photo != reference)]


def _likeness(photos: Sequence[Photo]) -> Float[np.ndarray, "V V"]:
    """Correlation of small, blurred pictures: as much as can be told of neighbours without a network."""
    signatures = []
    for photo in photos:
        rgb = photo.decode((64, 64)).rgb.resize((16, 16), Image.Resampling.BOX)
        pixels = np.asarray(rgb, np.float64).reshape(-1, 3)
        pixels -= pixels.mean(0)
        signatures.append((pixels / max(np.linalg.norm(pixels), 1e-9)).ravel())
    return np.array(signatures) @ np.array(signatures).T
