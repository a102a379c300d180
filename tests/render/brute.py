"""Rendering by definition: every Gaussian at every pixel, in order of depth (torch, any precision, slow)."""

import torch

from flarecli.render.splats import Splats
from tests.synthetic import make_gaussians

MIN_ALPHA, MAX_ALPHA, MIN_TRANSMITTANCE, BLUR = 1 / 255, 0.999, 1e-4, 0.3


def rotation(quats):
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    return torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ],
        -1,
    ).reshape(-1, 3, 3)


def ellipses(splats, w2c, K, size_hw):
    """Centres, 2 x 2 covariances without blur, depths: matrices as in the EWA paper."""
    height, width = size_hw
    camera = splats.means @ w2c[:3, :3].T + w2c[:3, 3]
    x, y, z = camera.unbind(-1)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    tx = z * (x / z).clamp(-cx / fx - 0.15 * width / fx, (width - cx) / fx + 0.15 * width / fx)
    ty = z * (y / z).clamp(-cy / fy - 0.15 * height / fy, (height - cy) / fy + 0.15 * height / fy)
    nothing = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, nothing, -fx * tx / z**2, nothing, fy / z, -fy * ty / z**2], -1).reshape(-1, 2, 3)
    axes = rotation(splats.quats_wxyz) @ torch.diag_embed(splats.scales)
    half = jacobian @ w2c[:3, :3] @ axes
    return torch.stack([fx * x / z + cx, fy * y / z + cy], -1), half @ half.mT, z


def brute(splats, w2c, K, size_hw, rgb, *, antialiased=False):
    """Colour, accumulated depth and alpha of one camera."""
    height, width = size_hw
    centers, covariance, depth = ellipses(splats, w2c, K, size_hw)
    blurred = covariance + BLUR * torch.eye(2, dtype=covariance.dtype)
    opacity = splats.opacities
    if antialiased:
        opacity = opacity * (covariance.det() / blurred.det()).sqrt()
    features = torch.cat([rgb, depth[:, None]], -1)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([columns, rows], -1).to(depth) + 0.5
    transmittance = torch.ones(height, width, dtype=depth.dtype)
    image = torch.zeros(height, width, 4, dtype=depth.dtype)
    still = torch.ones(height, width, dtype=torch.bool)
    for g in torch.argsort(depth):
        if depth[g] <= 0.01:
            continue
        away = pixels - centers[g]
        sigma = 0.5 * (away @ torch.linalg.inv(blurred[g]) * away).sum(-1)
        alpha = (opacity[g] * torch.exp(-sigma)).clamp_max(MAX_ALPHA)
        alpha = torch.where(alpha >= MIN_ALPHA, alpha, 0)
        after = transmittance * (1 - alpha)
        still = still & (after > MIN_TRANSMITTANCE)
        image = image + torch.where(still, alpha * transmittance, 0)[..., None] * features[g]
        transmittance = torch.where(still, after, transmittance)
    return image[..., :3], image[..., 3], 1 - transmittance


def make_splats(num=120, degree=2, dtype=torch.float64, seed=0) -> Splats:
    """Gaussians of all sizes before, beside and behind the camera at the origin."""
    splats = Splats.of(make_gaussians(num, degree, seed), dtype=dtype)
    means = splats.means.clone()
    means[: num // 8, 2] -= 4.5  # some of them close or behind
    return Splats(means, splats.scales * 1.2, splats.quats_wxyz, splats.opacities, splats.sh)
