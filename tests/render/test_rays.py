"""Gaussians on the rays of their pixels."""

import pytest
import torch

from flarecli.render.projection import project, rotation_matrices
from flarecli.render.rasterize import render
from flarecli.render.rays import UNMEASURED_OPACITY, UNMEASURED_SCALE, place_on_rays
from flarecli.scene.views import GaussianMaps

HEIGHT, WIDTH, FOCAL = 12, 16, 20.0
K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
TURN = torch.nn.functional.normalize(torch.tensor([0.9, 0.1, -0.3, 0.2]), dim=0)


def maps_of(**changes) -> GaussianMaps:
    values = {
        "scales": torch.full((HEIGHT, WIDTH, 3), 0.5),
        "quats_wxyz": torch.tensor([1.0, 0, 0, 0]).repeat(HEIGHT, WIDTH, 1),
        "opacities": torch.full((HEIGHT, WIDTH), 0.8),
        "sh": torch.linspace(-1, 1, HEIGHT * WIDTH)[:, None].repeat(1, 3).view(HEIGHT, WIDTH, 1, 3),
        "on_rays": True,
    }
    return GaussianMaps(**(values | changes))


def placed(maps: GaussianMaps, depth: torch.Tensor, unmeasured: torch.Tensor | None = None):
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    rays = torch.stack([(x - WIDTH / 2) / FOCAL, (y - HEIGHT / 2) / FOCAL, torch.ones_like(x)], -1)
    c2w = torch.eye(4)
    c2w[:3, :3], c2w[:3, 3] = rotation_matrices(TURN[None])[0], torch.tensor([3.0, -1, 2])
    unmeasured = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool) if unmeasured is None else unmeasured
    return place_on_rays(maps, rays, depth, unmeasured, torch.tensor(FOCAL), TURN, c2w), torch.linalg.inv(c2w)


def test_gaussians_of_a_slanted_plane_project_to_their_pixels_with_one_footprint():
    depth = torch.linspace(2, 5, WIDTH).repeat(HEIGHT, 1)
    splats, w2c = placed(maps_of(), depth)
    seen = project(splats, w2c, K, (HEIGHT, WIDTH))
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    torch.testing.assert_close(seen.means2d, torch.stack([x, y], -1).view(-1, 2), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen.depths, depth.flatten())
    # Half a pixel of standard deviation and the renderer's blur, at every depth; rays off the axis stretch it a little.
    near_axis = (seen.means2d - torch.tensor([WIDTH / 2, HEIGHT / 2])).norm(dim=1) < 3
    torch.testing.assert_close(
        1 / seen.conics[near_axis, 0], torch.full((int(near_axis.sum()),), 0.55), atol=0.02, rtol=0
    )


def test_axes_turn_with_the_camera():
    own = torch.nn.functional.normalize(torch.tensor([0.5, -0.5, 0.1, 0.7]), dim=0)
    splats, _ = placed(maps_of(quats_wxyz=own.repeat(HEIGHT, WIDTH, 1)), torch.full((HEIGHT, WIDTH), 2.0))
    turned = rotation_matrices(splats.quats_wxyz[:1])[0]
    torch.testing.assert_close(turned, rotation_matrices(TURN[None])[0] @ rotation_matrices(own[None])[0])


def test_pixels_without_depth_are_left_out_and_unmeasured_ones_step_back():
    depth, unmeasured = torch.full((HEIGHT, WIDTH), 2.0), torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    depth[0, 0], unmeasured[0, 1] = 0, True
    splats, _ = placed(maps_of(), depth, unmeasured)
    assert len(splats) == HEIGHT * WIDTH - 1
    assert splats.opacities[0] / splats.opacities[1] == pytest.approx(UNMEASURED_OPACITY)
    assert float(splats.scales[0, 0] / splats.scales[1, 0]) == pytest.approx(UNMEASURED_SCALE)


def test_a_plane_is_rendered_as_it_was_photographed():
    colour = torch.rand(HEIGHT, WIDTH, 3)
    smooth = torch.nn.functional.avg_pool2d(colour.permute(2, 0, 1)[None], 5, 1, 2, count_include_pad=False)[0]
    smooth = smooth.permute(1, 2, 0)
    sh = ((smooth - 0.5) / 0.28209479177387814)[:, :, None]
    splats, w2c = placed(maps_of(sh=sh, opacities=torch.full((HEIGHT, WIDTH), 0.99)), torch.full((HEIGHT, WIDTH), 3.0))
    picture = render(splats, w2c[None], K[None], (HEIGHT, WIDTH)).color[0]
    assert (picture - smooth)[2:-2, 2:-2].abs().mean() < 0.05


def test_other_gaussians_are_refused():
    depth = torch.full((HEIGHT, WIDTH), 2.0)
    for maps in (maps_of(on_rays=False), maps_of(sh=torch.zeros(HEIGHT, WIDTH, 4, 3))):
        with pytest.raises(ValueError, match="on rays"):
            placed(maps, depth)
