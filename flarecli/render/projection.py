"""From Gaussians in the world to ellipses and colours in one picture (torch, differentiable).

Source: Zwicker et al. 2001, EWA Volume Splatting, section 4 (local affine approximation); Kerbl et al. 2023, 3D
Gaussian Splatting, section 4; Yu et al. 2024, Mip-Splatting, section 4.2 (opacity factor of the antialiased mode);
Sloan 2008, Stupid Spherical Harmonics Tricks, appendix A2 (the real basis, here with the signs of 3DGS).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flarecli.render.splats import Splats

BLUR_PX2 = 0.3  # variance added to both axes of every footprint
MIN_ALPHA = 1 / 255
_FRUSTUM_MARGIN = 0.3  # of half the picture: beyond it the affine approximation of a projection means nothing
_MAX_SIGMAS = 3.33  # exp(-3.33^2 / 2) = 1/255: an opaque Gaussian ends there


@dataclass(frozen=True, slots=True, eq=False)
class Footprints:
    """What N Gaussians look like in one picture.

    Attributes:
        means2d: centres in pixels.
        conics: inverse covariances (xx, xy, yy) in 1 / pixels^2.
        depths: z-depths of the centres.
        opacities: with the factor of the antialiased mode, where it is on.
        radii: half sizes of the bounding boxes in pixels, 0 for what can't be seen.
    """

    means2d: Float[Tensor, "N 2"]
    conics: Float[Tensor, "N 3"]
    depths: Float[Tensor, "N"]
    opacities: Float[Tensor, "N"]
    radii: Int[Tensor, "N 2"]


def rotation_matrices(quats_wxyz: Float[Tensor, "N 4"]) -> Float[Tensor, "N 3 3"]:
    """Rotation matrices of quaternions of any length but zero."""
    w, x, y, z = torch.nn.functional.normalize(quats_wxyz, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def project(
    splats: Splats,
    w2c: Float[Tensor, "4 4"],
    K: Float[Tensor, "3 3"],
    size_hw: tuple[int, int],
    *,
    antialiased: bool = False,
    near: float = 0.01,
) -> Footprints:
    """Project Gaussians into a picture; differentiable in everything but ``K`` and ``radii``.

    Args:
        splats: the Gaussians.
        w2c: world to camera, OpenCV axes.
        K: intrinsics in pixels of the picture, no skew.
        size_hw: its size.
        antialiased: keep the energy of Gaussians smaller than a pixel instead of letting the blur swell them.
        near: what is closer, in world units, is not shown.
    """
    height, width = size_hw
    fx, fy, cx, cy = (float(K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    camera = splats.means @ w2c[:3, :3].T + w2c[:3, 3]
    depth = camera[:, 2]
    shown = depth.detach() > near
    # What is behind the camera gets a harmless depth: its gradient is never used, but must not be NaN.
    z = torch.where(shown, depth, torch.ones_like(depth))
    x, y = camera[:, 0] / z, camera[:, 1] / z
    means2d = torch.stack([fx * x + cx, fy * y + cy], -1)
    margin_x, margin_y = _FRUSTUM_MARGIN * 0.5 * width / fx, _FRUSTUM_MARGIN * 0.5 * height / fy
    x = x.clamp(-cx / fx - margin_x, (width - cx) / fx + margin_x)
    y = y.clamp(-cy / fy - margin_y, (height - cy) / fy + margin_y)
    # Rows of the Jacobian of the projection times the rotation into the camera, then times the Gaussian's own axes.
    axes = rotation_matrices(splats.quats_wxyz)
    to_x = (fx / z)[:, None] * (w2c[0, :3] - x[:, None] * w2c[2, :3])
    to_y = (fy / z)[:, None] * (w2c[1, :3] - y[:, None] * w2c[2, :3])
    along_x = (to_x[:, :, None] * axes).sum(1) * splats.scales
    along_y = (to_y[:, :, None] * axes).sum(1) * splats.scales
    xx, xy, yy = (along_x**2).sum(-1), (along_x * along_y).sum(-1), (along_y**2).sum(-1)
    sharp = xx * yy - xy**2
    xx, yy = xx + BLUR_PX2, yy + BLUR_PX2
    blurred = (xx * yy - xy**2).clamp_min(1e-10)
    opacities = splats.opacities
    if antialiased:
        opacities = opacities * (sharp / blurred).clamp_min(1e-12).sqrt()
    with torch.no_grad():
        seen = shown & (opacities >= MIN_ALPHA)
        sigmas = (2 * torch.log(opacities.clamp_min(MIN_ALPHA) / MIN_ALPHA)).sqrt().clamp_max(_MAX_SIGMAS)
        reach = torch.ceil(sigmas[:, None] * torch.stack([xx, yy], -1).sqrt())
        limit = torch.tensor([width, height], device=reach.device)
        seen &= ((means2d + reach > 0) & (means2d - reach < limit)).all(-1) & torch.isfinite(reach).all(-1)
        radii = torch.where(seen[:, None], reach.clamp_max(2**24), 0).int()
    return Footprints(means2d, torch.stack([yy, -xy, xx], -1) / blurred[:, None], depth, opacities, radii)


def sh_basis(degree: int, directions: Float[Tensor, "N 3"]) -> Float[Tensor, "N D"]:
    """Real spherical harmonics of unit directions, degrees 0 to 3, in the order of 3D Gaussian splatting."""
    x, y, z = directions.unbind(-1)
    terms = [torch.full_like(x, 0.28209479177387814)]
    if degree > 0:
        terms += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree > 1:
        xx, yy, zz = x * x, y * y, z * z
        terms += [1.0925484305920792 * x * y, -1.0925484305920792 * y * z]
        terms += [0.31539156525252005 * (2 * zz - xx - yy), -1.0925484305920792 * x * z]
        terms += [0.5462742152960396 * (xx - yy)]
        if degree > 2:
            terms += [-0.5900435899266435 * y * (3 * xx - yy), 2.890611442640554 * x * y * z]
            terms += [-0.4570457994644658 * y * (4 * zz - xx - yy)]
            terms += [0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy)]
            terms += [-0.4570457994644658 * x * (4 * zz - xx - yy), 1.445305721320277 * z * (xx - yy)]
            terms += [-0.5900435899266435 * x * (xx - 3 * yy)]
    return torch.stack(terms, -1)


def colours(splats: Splats, w2c: Float[Tensor, "4 4"]) -> Float[Tensor, "N 3"]:
    """Colour of every Gaussian as this camera sees it, not below 0."""
    if splats.sh_degree == 0:
        return (0.5 + 0.28209479177387814 * splats.sh[:, 0]).clamp_min(0)
    center = -(w2c[:3, :3].T @ w2c[:3, 3])
    directions = torch.nn.functional.normalize(splats.means - center, dim=-1)
    basis = sh_basis(splats.sh_degree, directions)
    return (0.5 + (basis[:, :, None] * splats.sh).sum(1)).clamp_min(0)


def camera_normals(splats: Splats, w2c: Float[Tensor, "4 4"]) -> Float[Tensor, "N 3"]:
    """Shortest axis of every Gaussian in the camera's frame, turned towards the camera."""
    axes = rotation_matrices(splats.quats_wxyz)
    shortest = splats.scales.argmin(-1)[:, None, None].expand(-1, 3, 1)
    normals = axes.gather(2, shortest)[..., 0] @ w2c[:3, :3].T
    camera = splats.means @ w2c[:3, :3].T + w2c[:3, 3]
    away = (normals * camera).sum(-1, keepdim=True) > 0
    return torch.where(away, -normals, normals)
