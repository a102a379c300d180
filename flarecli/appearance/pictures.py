"""Rendered quantities as 8-bit pictures: colours, depth, normals, errors."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from flarecli.render.rasterize import Rendered

Quantity = Literal["color", "depth", "normals"]
# Dark blue over green to yellow: brightness grows all the way, so the order also reads in grey.
_RAMP = np.array([[20, 8, 60], [52, 60, 140], [28, 120, 140], [60, 180, 110], [180, 215, 60], [253, 235, 120]])
_HEAT = np.array([[0, 0, 0], [90, 15, 90], [200, 50, 60], [250, 150, 40], [255, 255, 200]])
_FULL_ERROR = 0.5


def ramp(values: Float[np.ndarray, "*n"], colours: Float[np.ndarray, "S 3"] = _RAMP) -> UInt8[np.ndarray, "*n 3"]:
    """Colours of values in [0, 1]."""
    at = np.clip(values, 0, 1) * (len(colours) - 1)
    steps = np.arange(len(colours))
    return np.stack([np.interp(at, steps, colours[:, c]) for c in range(3)], -1).round().astype(np.uint8)


def color_picture(rendered: Rendered, view: int = 0) -> UInt8[np.ndarray, "H W 3"]:
    """The colours of one view."""
    return (rendered.color[view].clamp(0, 1) * 255).round().byte().cpu().numpy()


def depth_picture(rendered: Rendered, near_far: tuple[float, float], view: int = 0) -> UInt8[np.ndarray, "H W 3"]:
    """Inverse depth between two depths, near is bright; black where nothing is."""
    depth = rendered.depth[view].cpu().numpy()
    near, far = near_far
    inverse = (1 / np.maximum(depth, 1e-9) - 1 / far) / max(1 / near - 1 / far, 1e-12)
    return np.where((rendered.alpha[view].cpu().numpy() > 0.5)[..., None], ramp(inverse), 0).astype(np.uint8)


def normals_picture(rendered: Rendered, view: int = 0) -> UInt8[np.ndarray, "H W 3"]:
    """Normals in the camera's frame with x right, y up and z towards the camera as red, green, blue."""
    assert rendered.normals is not None
    turned = rendered.normals[view].cpu().numpy() * np.array([1, -1, -1])
    seen = (rendered.alpha[view].cpu().numpy() > 0.5)[..., None]
    return np.where(seen, np.round(255 * (0.5 + 0.5 * turned)), 0).clip(0, 255).astype(np.uint8)


def error_picture(picture: UInt8[np.ndarray, "H W 3"], truth: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Mean absolute difference of the channels: black is none, bright is half of the range or more."""
    difference = np.abs(picture.astype(float) - truth.astype(float)).mean(-1) / 255
    return ramp(difference / _FULL_ERROR, _HEAT)
