import numpy as np
import pytest
import torch
from PIL import Image

from flarecli.appearance.photos import load_views, scaled_size, show
from flarecli.errors import InputError
from flarecli.export.splats import gaussians_from_points
from flarecli.render.quality import psnr
from flarecli.render.splats import Splats


def test_first_gaussians_look_like_the_photos(scene, exact):
    splats = Splats.of(gaussians_from_points(exact.reconstruction))
    views = load_views(scene, exact.reconstruction, 48)
    assert [view.size_hw for view in views] == [(36, 48)] * 5
    scores = [psnr(show(splats, view).color[0], view.rgb, view.weight) for view in views]
    # First Gaussians blur: overlapping discs of five views hide each other's texture.
    assert min(scores) > 13, scores
    # The same Gaussians from a wrong camera must look worse: the score tells cameras apart.
    wrong = psnr(show(splats, views[4]).color[0], views[0].rgb)
    assert wrong < min(scores) - 1.5


def test_depth_is_that_of_the_scene(scene, exact):
    splats = Splats.of(gaussians_from_points(exact.reconstruction))
    view = load_views(scene, exact.reconstruction, 48)[2]
    rendered = show(splats, view, with_normals=True)
    true = torch.tensor(exact.reconstruction.depth_maps[2].depth)
    error = (rendered.depth[0] / true - 1).abs()
    assert error.median() < 0.01
    assert rendered.normals is not None and (rendered.normals[0, ..., 2] < 0).float().mean() > 0.99


def test_masks_weigh(scene, exact):
    mask = np.zeros((72, 96), np.uint8)
    mask[:, :48] = 255
    (scene / "masks").mkdir()
    Image.fromarray(mask).save(scene / "masks" / "photo_00.png.png")
    views = load_views(scene, exact.reconstruction, 96)
    assert views[0].weight[:, :48].min() == 1 and views[0].weight[:, 48:].max() == 0 and views[1].weight.min() == 1
    broken = views[0].rgb.clone()
    broken[:, 48:] = 0
    assert psnr(broken, views[0].rgb, views[0].weight) == pytest.approx(100)
    assert psnr(broken, views[0].rgb) < 20


def test_pictures_that_do_not_fit(scene, exact):
    Image.new("RGB", (10, 10)).save(scene / "images" / "photo_01.png")
    with pytest.raises(InputError, match="not of the size"):
        load_views(scene, exact.reconstruction, 48)
    (scene / "images" / "photo_01.png").unlink()
    with pytest.raises(InputError, match="photo_01"):
        load_views(scene, exact.reconstruction, 48)


def test_scaled_size_never_grows():
    assert scaled_size((768, 1024), 160) == (120, 160)
    assert scaled_size((100, 50), 400) == (100, 50)
