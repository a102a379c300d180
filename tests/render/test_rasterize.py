"""The renderer against compositing by definition, its gradients against autograd and finite differences."""

import pytest
import torch

from flarecli.render.projection import project, sh_basis
from flarecli.render.rasterize import render
from flarecli.render.splats import Splats
from tests.render.brute import brute, make_splats, rotation
from tests.synthetic import make_gaussians

SIZE_HW = (37, 45)
K = torch.tensor([[40.0, 0, 21.0], [0, 42.0, 19.5], [0, 0, 1]], dtype=torch.float64)
NAMES = ("means", "scales", "quats_wxyz", "opacities", "sh")


def camera(dtype=torch.float64):
    w2c = torch.eye(4, dtype=dtype)
    w2c[:3, :3] = rotation(torch.tensor([[0.99, 0.05, -0.1, 0.03]], dtype=dtype))[0]
    w2c[:3, 3] = torch.tensor([0.2, -0.1, 0.3])
    return w2c


def naive_colour(splats, w2c):
    """Colours by gsplat's own spherical harmonics."""
    from gsplat.cuda._torch_impl import _spherical_harmonics

    center = -w2c[:3, :3].T @ w2c[:3, 3]
    return (_spherical_harmonics(splats.sh_degree, splats.means - center, splats.sh) + 0.5).clamp_min(0)


@pytest.mark.parametrize("antialiased", [False, True])
def test_picture_is_that_of_the_definition(antialiased):
    splats, w2c = make_splats(degree=3), camera()
    got = render(splats, w2c[None], K[None], SIZE_HW, antialiased=antialiased)
    color, depth, alpha = brute(splats, w2c, K, SIZE_HW, naive_colour(splats, w2c), antialiased=antialiased)
    assert alpha.max() > 0.9 and alpha.min() < 0.05, "the scene tests nothing"
    torch.testing.assert_close(got.color[0], color, atol=1e-7, rtol=0)
    torch.testing.assert_close(got.alpha[0], alpha, atol=1e-7, rtol=0)
    torch.testing.assert_close(got.depth[0] * got.alpha[0], depth, atol=1e-6, rtol=0)


def test_single_precision_is_close_enough():
    splats, w2c = make_splats(400, degree=1, seed=2), camera()
    single = Splats(*(getattr(splats, name).float() for name in NAMES))
    got = render(single, w2c[None].float(), K[None].float(), SIZE_HW)
    want = render(splats, w2c[None], K[None], SIZE_HW)
    # A contribution that crosses the threshold of 1/255 changes a pixel by at most that.
    assert (got.color - want.color).abs().max() < 1.1 / 255
    assert (got.color - want.color).abs().mean() < 1e-5


def test_gradients_are_those_of_the_definition():
    splats = make_splats(degree=2)
    leaves = [getattr(splats, name).clone().requires_grad_() for name in NAMES]
    w2c = camera().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(*SIZE_HW, 5, generator=generator, dtype=torch.float64)

    def loss(color, depth, alpha):
        return (torch.cat([color, depth[..., None], alpha[..., None]], -1) * weights).sum()

    mine = Splats(*leaves)
    got = render(mine, w2c[None], K[None], SIZE_HW)
    ours = torch.autograd.grad(loss(got.color[0], got.depth[0] * got.alpha[0], got.alpha[0]), [*leaves, w2c])
    expected = torch.autograd.grad(loss(*brute(mine, w2c, K, SIZE_HW, naive_colour(mine, w2c))), [*leaves, w2c])
    for name, a, b in zip([*NAMES, "w2c"], ours, expected, strict=True):
        assert b.norm() > 0
        assert (a - b).norm() < 1e-6 * b.norm(), name


def test_gradients_agree_with_finite_differences():
    splats, w2c = make_splats(12, degree=1, seed=4), camera()
    # Larger and fainter ones, so that a small step moves nothing across a threshold.
    splats = Splats(splats.means, splats.scales * 3, splats.quats_wxyz, splats.opacities * 0.5, splats.sh)
    leaves = [getattr(splats, name).clone().requires_grad_() for name in NAMES]
    w2c.requires_grad_()
    ramp = torch.linspace(-1, 1, SIZE_HW[1], dtype=torch.float64)[None, :, None]

    def loss(*values):
        return (render(Splats(*values[:-1]), values[-1][None], K[None], SIZE_HW).color[0] * ramp).sum()

    gradients = torch.autograd.grad(loss(*leaves, w2c), [*leaves, w2c])
    generator = torch.Generator().manual_seed(1)
    for index, gradient in enumerate(gradients):
        direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        step = 1e-6
        ends = []
        for sign in (1, -1):
            values = [each.detach().clone() for each in [*leaves, w2c]]
            values[index] += sign * step * direction
            ends.append(loss(*values))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert torch.isclose(slope, (gradient * direction).sum(), rtol=2e-3, atol=1e-5), index


def test_number_of_threads_changes_nothing():
    splats, w2c = make_splats(300, degree=0, dtype=torch.float32), camera(torch.float32)
    before = torch.get_num_threads()
    pictures, slopes = [], []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            means = splats.means.clone().requires_grad_()
            moved = Splats(means, *(getattr(splats, name) for name in NAMES[1:]))
            color = render(moved, w2c[None], K[None].float(), SIZE_HW).color
            pictures.append(color.detach())
            slopes.append(torch.autograd.grad(color.square().sum(), means)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*pictures)
    assert torch.equal(*slopes)


def test_footprints_are_those_of_gsplat():
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    splats, w2c = make_splats(200), camera()
    covars = _quat_scale_to_covar_preci(splats.quats_wxyz, splats.scales, True, False)[0]
    args = (splats.means, covars, w2c[None], K[None], SIZE_HW[1], SIZE_HW[0])
    _, means2d, depths, conics, compensation = _fully_fused_projection(*args, calc_compensations=True)
    ours, sharp = project(splats, w2c, K, SIZE_HW), project(splats, w2c, K, SIZE_HW, antialiased=True)
    front = depths[0] > 0.01
    torch.testing.assert_close(ours.means2d[front], means2d[0][front])
    torch.testing.assert_close(ours.conics[front], conics[0][front], rtol=1e-6, atol=1e-9)
    assert compensation is not None
    torch.testing.assert_close(
        sharp.opacities[front], (splats.opacities * compensation[0])[front], rtol=1e-5, atol=1e-7
    )
    assert (ours.radii[~front] == 0).all()


def test_basis_is_orthonormal():
    generator = torch.Generator().manual_seed(3)
    directions = torch.nn.functional.normalize(
        torch.randn(400_000, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    basis = sh_basis(3, directions)
    gram = 4 * torch.pi * basis.T @ basis / len(directions)
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=0.02, rtol=0)


def test_background_normals_and_empty_pixels():
    one = Splats(
        torch.tensor([[0.0, 0, 3]]),
        torch.tensor([[0.6, 0.6, 0.01]]),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.tensor([0.99]),
        torch.zeros(1, 1, 3),
    )
    got = render(one, torch.eye(4)[None], K[None].float(), SIZE_HW, background=(0.2, 0.4, 0.6), with_normals=True)
    assert torch.allclose(got.color[0, 0, 0], torch.tensor([0.2, 0.4, 0.6])) and got.alpha[0, 0, 0] == 0
    assert got.depth[0, 0, 0] == 0 and got.depth[0, 19, 21] == pytest.approx(3)
    assert got.normals is not None
    assert torch.allclose(got.normals[0, 19, 21], torch.tensor([0.0, 0, -1]), atol=1e-6)
    assert (got.normals[0, 0, 0] == 0).all()


def test_nothing_to_see_is_the_background():
    none = Splats.of(make_gaussians(1))
    none = Splats(*(getattr(none, name)[:0] for name in NAMES))
    got = render(none, torch.eye(4)[None], K[None].float(), SIZE_HW)
    assert got.color.abs().max() == 0 and got.alpha.abs().max() == 0


def test_splats_refuse_shapes_that_disagree():
    good = Splats.of(make_gaussians(5, 1))
    values = {name: getattr(good, name) for name in NAMES}
    with pytest.raises(ValueError, match="opacities"):
        Splats(**values | {"opacities": good.opacities[:4]})
    with pytest.raises(ValueError, match="sh must"):
        Splats(**values | {"sh": good.sh[:, :3]})
    back = good.to_gaussians()
    assert back.sh_degree == 1 and len(back) == 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares with gsplat's kernels, which need a CUDA device")
@pytest.mark.parametrize("antialiased", [False, True])
def test_cuda_shows_the_same_picture(antialiased):
    splats, w2c = make_splats(400, degree=3, dtype=torch.float32, seed=5), camera(torch.float32)
    here = render(splats, w2c[None], K[None].float(), SIZE_HW, antialiased=antialiased, with_normals=True)
    moved = Splats(*(getattr(splats, name).cuda() for name in NAMES))
    there = render(moved, w2c[None].cuda(), K[None].float().cuda(), SIZE_HW, antialiased=antialiased, with_normals=True)
    assert (here.color - there.color.cpu()).abs().mean() < 1e-4
    assert (here.alpha - there.alpha.cpu()).abs().max() < 2 / 255
    seen = here.alpha > 0.5
    torch.testing.assert_close(here.depth[seen], there.depth.cpu()[seen], rtol=1e-2, atol=1e-2)
