"""Small motions of cameras as six numbers that gradient descent can move (torch)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def moved_cameras(w2c: Float[Tensor, "V 4 4"], move: Float[Tensor, "V 6"], reach: float) -> Float[Tensor, "V 4 4"]:
    """Cameras turned and shifted in their own frame: (I + small rotation) applied after ``w2c``.

    Args:
        w2c: world to camera.
        move: rotation vector in radians, then translation in multiples of ``reach``, so that all six have about the
            same effect on the picture.
        reach: typical depth of the scene in world units.
    """
    x, y, z = move[:, :3].unbind(-1)
    nothing = torch.zeros_like(x)
    skew = torch.stack([nothing, -z, y, z, nothing, -x, -y, x, nothing], -1).reshape(-1, 3, 3)
    delta = torch.zeros(len(move), 4, 4, dtype=move.dtype, device=move.device)
    delta[:, :3, :3] = torch.linalg.matrix_exp(skew)
    delta[:, :3, 3] = reach * move[:, 3:]
    delta[:, 3, 3] = 1
    return delta @ w2c
