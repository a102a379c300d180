"""The fused kernel against a slow reference written from the definitions of the primitives."""

import contextlib
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flarecli.errors import MissingDependency
from flarecli.train import renderer
from flarecli.train.primitives import BOX, CONE, ELLIPSOID, SHEET, Draw, Primitives, random_primitives, random_rotations
from flarecli.train.renderer import MISS, Cameras, RenderSize, render
from flarecli.train.scenes import sample_scenes

KINDS = {BOX: "box", ELLIPSOID: "ellipsoid", CONE: "cone", SHEET: "sheet"}
SIZE = RenderSize(24, 32, samples=0)


def _inside(kind: int, p: np.ndarray, taper: float) -> np.ndarray:
    """Whether local points (..., 3) lie in a unit solid."""
    x, y, z = np.moveaxis(p, -1, 0)
    if kind == BOX:
        return np.max(np.abs(p), -1) <= 1
    if kind == ELLIPSOID:
        return x * x + y * y + z * z <= 1
    radius = (1 + taper) / 2 + (taper - 1) / 2 * z
    return (np.abs(z) <= 1) & (np.hypot(x, y) <= radius)


def _march(kind: int, origin: np.ndarray, rays: np.ndarray, taper: float) -> np.ndarray:
    """First crossing of the surface of a unit solid, by marching and bisection; infinite where there is none."""
    steps = np.linspace(0, 20, 4001)
    states = _inside(kind, origin + steps[:, None, None] * rays, taper)
    crossing = states[1:] != states[:-1]
    first = crossing.argmax(0)
    low, high = steps[first], steps[first + 1]
    start = states[first, np.arange(len(rays))]
    for _ in range(30):
        middle = (low + high) / 2
        same = _inside(kind, origin + middle[:, None] * rays, taper) == start
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return np.where(crossing.any(0), low, np.inf)


def _single(kind: int, draw: Draw) -> Primitives:
    prims = random_primitives(draw, 1, 4)
    prims.kind[:] = 0
    prims.kind[:, 3] = kind
    prims.centre[:, 3] = torch.tensor([0.1, -0.2, 4.0])
    prims.half[:, 3] = torch.tensor([0.9, 0.7, 1.1]) if kind != CONE else torch.tensor([0.8, 0.8, 1.1])
    prims.rotation[:, 3] = random_rotations(draw, 1)
    prims.cutout[:, 3, 0] = 0
    return prims


def _camera(portrait: bool = False) -> Cameras:
    return Cameras(
        torch.zeros(1, 3), torch.eye(3)[None], torch.tensor([0.8]), torch.tensor([portrait]), torch.zeros(1).int()
    )


def _directions(size: RenderSize, focal: float) -> np.ndarray:
    column, row = np.meshgrid(np.arange(size.width) + 0.5, np.arange(size.height) + 0.5)
    x, y = (column - size.width / 2) / (focal * size.width), (row - size.height / 2) / (focal * size.width)
    return np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3)


@pytest.mark.parametrize("kind", [BOX, ELLIPSOID, CONE], ids=KINDS.get)
@pytest.mark.parametrize("seed", [0, 1])
def test_solids_are_hit_where_marching_meets_their_surface(kind, seed, textures):
    prims = _single(kind, Draw.seeded(seed))
    _, depth, index = render(prims.records(), torch.zeros(1, 7), _camera(), textures, SIZE)
    rotation, centre, half = (getattr(prims, n)[0, 3].double().numpy() for n in ("rotation", "centre", "half"))
    to_unit = rotation.T / half[:, None]
    reference = _march(kind, -to_unit @ centre, _directions(SIZE, 0.8) @ to_unit.T, float(prims.taper[0, 3]))
    found = depth.flatten().double().numpy()
    hit = np.isfinite(reference)
    assert 20 < hit.sum() < hit.size
    agree = (found < MISS) == hit
    assert agree.mean() > 0.99  # marching may miss a grazed edge
    both = agree & hit
    np.testing.assert_allclose(found[both], reference[both], rtol=2e-4)
    assert set(index.flatten()[torch.from_numpy(both)].tolist()) == {3}
    assert set(index.flatten()[torch.from_numpy(found > MISS)].tolist()) == {255}


def test_sheet_is_hit_in_its_plane_and_outline(textures):
    prims = _single(SHEET, Draw.seeded(3))
    prims.cutout[:, 3, 0] = 1  # a disc
    _, depth, _ = render(prims.records(), torch.zeros(1, 7), _camera(), textures, SIZE)
    rotation, centre, half = (getattr(prims, n)[0, 3].double().numpy() for n in ("rotation", "centre", "half"))
    rays = _directions(SIZE, 0.8)
    t = (rotation[:, 2] @ centre) / (rays @ rotation[:, 2])
    local = (t[:, None] * rays - centre) @ rotation / half
    hit = (t > 0) & (np.hypot(local[:, 0], local[:, 1]) < 1)
    found = depth.flatten().numpy()
    assert hit.sum() > 20
    assert ((found < MISS) == hit).mean() > 0.995
    both = (found < MISS) & hit
    np.testing.assert_allclose(found[both], t[both], rtol=1e-4)


def test_portrait_storage_is_the_transposed_upright_picture(textures):
    scenes = sample_scenes(Draw.seeded(2), 4, textures)
    records, lights = scenes.prims.records(), scenes.lights
    centre, rotation = torch.tensor([[0.0, -3.0, 1.0]]), torch.tensor([[[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]])
    stored = Cameras(centre, rotation, torch.tensor([0.9]), torch.tensor([True]), torch.zeros(1).int())
    upright = Cameras(centre, rotation, torch.tensor([0.9 * 32 / 24]), torch.tensor([False]), torch.zeros(1).int())
    rgb, depth, index = render(records, lights, stored, textures, RenderSize(24, 32, samples=1))
    rgb2, depth2, index2 = render(records, lights, upright, textures, RenderSize(32, 24, samples=1))
    torch.testing.assert_close(depth.transpose(1, 2), depth2, rtol=1e-4, atol=1e-4)
    assert (index.transpose(1, 2) == index2).float().mean() > 0.999
    assert (rgb.transpose(2, 3) - rgb2).abs().mean() < 2e-3  # mip levels see the same footprint up to rounding


def test_shadow_falls_behind_the_occluder(textures):
    prims = random_primitives(Draw.seeded(0), 1, 4)
    prims.kind[:] = 0
    for slot, (centre, half) in {0: ((0, 0, -1), (9, 9, 1)), 5: ((0, 0, 1.0), (0.5, 0.5, 0.1))}.items():
        prims.kind[:, slot] = BOX
        prims.centre[:, slot], prims.half[:, slot] = torch.tensor(centre).float(), torch.tensor(half)
        prims.rotation[:, slot] = torch.eye(3)
        prims.plain[:, slot], prims.tint[:, slot] = 1, 0.8
        prims.gloss[:, slot] = prims.detail[:, slot] = 0
    # Straight down from between the occluder and the floor; the lamp is straight above.
    down = torch.tensor([[[1.0, 0, 0], [0, -1, 0], [0, 0, -1]]])
    camera = Cameras(
        torch.tensor([[0.0, 0, 0.8]]), down, torch.tensor([0.25]), torch.tensor([False]), torch.zeros(1).int()
    )
    lights = torch.tensor([[0.0, 0, 40, 0.3, 1, 1, 1]])
    rgb, depth, _ = render(prims.records(), lights, camera, textures, RenderSize(33, 33, samples=1))
    assert torch.allclose(depth, torch.full_like(depth, 0.8), atol=1e-4)
    x = ((torch.arange(33) + 0.5) / 33 - 0.5) / 0.25 * 0.8
    covered = (x.abs()[:, None] < 0.45) & (x.abs()[None] < 0.45)
    free = (x.abs()[:, None] > 0.6) | (x.abs()[None] > 0.6)
    grey = rgb[0].mean(0)
    assert grey[covered].max() < 0.6 * grey[free].min()
    unshadowed, _, _ = render(prims.records(), lights, camera, textures, RenderSize(33, 33, samples=1, shadows=False))
    assert unshadowed[0].mean(0)[covered].min() > 0.9 * grey[free].min()


def test_more_samples_only_smooth(textures):
    scenes = sample_scenes(Draw.seeded(4), 3, textures)
    camera = Cameras(
        torch.tensor([[0.0, -3.0, 1.0]]), torch.tensor([[[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]]),
        torch.tensor([0.9]), torch.tensor([False]), torch.zeros(1).int(),
    )  # fmt: skip
    one, depth1, _ = render(scenes.prims.records(), scenes.lights, camera, textures, RenderSize(24, 32, samples=1))
    nine, depth9, _ = render(scenes.prims.records(), scenes.lights, camera, textures, RenderSize(24, 32, samples=3))
    assert torch.equal(depth1, depth9)
    assert 0 <= one.min()
    assert one.max() <= 1.6 + 1e-5
    assert math.isclose(one.mean(), nine.mean(), rel_tol=0.05)
    assert (one - nine).abs().median() < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_and_cpu_render_the_same(textures):
    scenes = sample_scenes(Draw.seeded(6), 8, textures)
    down = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]).expand(8, 3, 3)
    place = torch.tensor([0.0, -3.0, 1.0]).expand(8, 3)
    cameras = Cameras(place, down, torch.full((8,), 0.9), torch.arange(8) % 2 == 0, torch.arange(8).int())
    size = RenderSize(48, 64)
    expected = render(scenes.prims.records(), scenes.lights, cameras, textures, size)
    cuda = torch.device("cuda")
    moved = Cameras(*(getattr(cameras, n).to(cuda) for n in ("centre", "rotation", "focal", "portrait", "scene_of")))
    found = render(scenes.prims.records().to(cuda), scenes.lights.to(cuda), moved, textures.to(cuda), size)
    assert ((found[1].cpu() - expected[1]).abs() < 1e-3 * expected[1]).float().mean() > 0.999
    assert (found[0].cpu() - expected[0]).abs().mean() < 2e-3
    assert (found[2].cpu() == expected[2]).float().mean() > 0.999


def test_the_kernel_runs_on_the_device_and_the_stream_of_the_images(monkeypatch):
    """With stand-ins for CuPy and for a second device, neither of which is here."""
    entered, launched = [], []

    @contextlib.contextmanager
    def entering(*what):
        entered.append(what)
        yield
        entered.remove(what)

    cuda = SimpleNamespace(
        Device=lambda index: entering("device", index), ExternalStream=lambda *which: entering("stream", *which)
    )
    monkeypatch.setattr(renderer, "require", lambda *_: SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(renderer, "_kernel", lambda: lambda *_: launched.append(list(entered)))
    monkeypatch.setattr(
        torch.cuda,
        "current_stream",
        lambda device=None: SimpleNamespace(cuda_stream=100 + (device.index if device else 0)),
    )
    stored = SimpleNamespace(device=torch.device("cuda:1"), data_ptr=lambda: 8)
    renderer._launch([stored] * 6, [6, 32, 2, 24, 32, 1, 1], [stored] * 3)
    assert launched == [[("device", 1), ("stream", 101, 1)]]


def test_without_a_working_compiler_the_way_out_is_named(tmp_path, monkeypatch, textures):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(renderer, "_library", renderer._library.__wrapped__)  # built anew
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'g++: error: unrecognized -march' >&2\necho 'compilation ended' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(broken))
    with pytest.raises(MissingDependency, match=r"compile renderer\.h: g\+\+: error: unrecognized -march$"):
        _render_one(textures)
    assert not list((tmp_path / "cache").rglob("*.so"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingDependency, match="C\\+\\+ compiler") as error:
        _render_one(textures)
    assert "g++" in error.value.hint


def _render_one(textures):
    scenes = sample_scenes(Draw.seeded(4), 1, textures)
    return render(scenes.prims.records(), scenes.lights, _camera(), textures, SIZE)
