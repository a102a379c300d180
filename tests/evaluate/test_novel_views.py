import json
import shutil

import pytest
import torch

from flarecli.appearance.holdout import gaussians_without
from flarecli.appearance.photos import load_views, show
from flarecli.cli.app import run
from flarecli.errors import InputError, WeightsError
from flarecli.evaluate.lpips import Lpips
from flarecli.evaluate.novel_views import NovelViewOptions, evaluate_novel_views
from flarecli.export.archive import save_scene
from flarecli.render.quality import psnr
from flarecli.render.splats import Splats
from tests.synthetic import make_scene

ALEX = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}


@pytest.fixture(scope="module")
def exact():
    return make_scene(5, (72, 96), num_tracks=60, arc_deg=16)


@pytest.fixture(scope="module")
def scene(exact, tmp_path_factory):
    folder = tmp_path_factory.mktemp("novel") / "scene"
    exact.write_images(folder / "images")
    save_scene(exact.reconstruction, folder)
    return folder


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """A file with the layout of torchvision's AlexNet and random weights: LPIPS in form only."""
    generator = torch.Generator().manual_seed(0)
    state = {"classifier.1.weight": torch.zeros(2, 2)}
    for index, shape in ALEX.items():
        fan = shape[1] * shape[2] * shape[3]
        state[f"features.{index}.weight"] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5
        state[f"features.{index}.bias"] = torch.zeros(shape[0])
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(state, path)
    return path


def test_figures_are_those_of_the_held_out_photo(scene, exact):
    numbers = evaluate_novel_views(scene, NovelViewOptions(long_side=48, hold_out=["photo_02.png"]))
    view = load_views(scene, exact.reconstruction, 48, names=["photo_02.png"])[0]
    splats = Splats.of(gaussians_without(exact.reconstruction, ["photo_02.png"]))
    assert numbers["held_out"] == ["photo_02.png"] and numbers["gaussians"] == len(splats)
    assert numbers["psnr_db"] == pytest.approx(psnr(show(splats, view).color[0], view.rgb))
    assert 0.1 < numbers["ssim"] < 1 and numbers["covered"] > 0.9
    assert numbers["lpips"] is None and numbers["aligned"] is None


def test_alignment_of_held_out_cameras_can_only_help(scene):
    plain = evaluate_novel_views(scene, NovelViewOptions(long_side=48, align_poses=True, hold_out=["photo_02.png"]))
    assert set(plain["aligned"]) == {"psnr_db", "ssim", "lpips", "covered"}
    assert plain["aligned"]["psnr_db"] > plain["psnr_db"] - 0.2


@pytest.mark.parametrize(("size_hw", "weights", "said"), [((9, 40), False, "SSIM needs 11"), ((24, 96), True, "LPIPS")])
def test_pictures_that_are_too_small_to_compare_are_named(alexnet, tmp_path, size_hw, weights, said):
    small = make_scene(3, size_hw, num_tracks=20)
    small.write_images(tmp_path / "images")
    save_scene(small.reconstruction, tmp_path)
    options = NovelViewOptions(hold_out=["photo_01.png"], lpips_weights=alexnet if weights else None)
    with pytest.raises(InputError, match=rf"photo_01\.png is compared at \d+ x {size_hw[0]} pixels, and {said}"):
        evaluate_novel_views(tmp_path, options)


def test_lpips_has_the_form_of_a_distance(alexnet):
    pytest.importorskip("torchmetrics", reason="it brings the linear heads")
    distance = Lpips(alexnet)
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(64, 80, 3, generator=generator)
    noise = torch.randn(a.shape, generator=generator)
    near, far = ((a + s * noise).clamp(0, 1) for s in (0.02, 0.3))
    assert distance.backbone == "alex" and distance(a, a) == 0
    assert 0 < distance(a, near) < distance(a, far)
    assert distance(a, far) == pytest.approx(distance(far, a), rel=1e-5)


def test_wrong_weights(tmp_path):
    for content in (b"nothing", b""):
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(WeightsError, match=r"a\.pth can't be read as weights: .+"):
            Lpips(tmp_path / "a.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match="neither AlexNet nor VGG-16"):
        Lpips(tmp_path / "b.pth")
    torch.save([1], tmp_path / "c.pth")
    with pytest.raises(WeightsError, match="no state dict"):
        Lpips(tmp_path / "c.pth")


def test_command_line(scene, alexnet, capsys, tmp_path):
    arguments = ["eval", str(scene), "--nvs", "--long-side", "48", "--json"]
    assert run([*arguments, "--hold-out", "2", "--lpips-weights", str(alexnet)]) == 0
    numbers = json.loads(capsys.readouterr().out)["nvs"]
    assert numbers["held_out"] == ["photo_01.png", "photo_03.png"] and numbers["lpips_backbone"] == "alex"
    assert set(numbers["photos_by_name"]) == set(numbers["held_out"])
    assert run([*arguments, "--hold-out", "photo_00.png,nothing.png"]) == 3
    capsys.readouterr()
    assert run(["eval", str(scene)]) == 2
    assert "--nvs" in capsys.readouterr().err
    copy = shutil.copytree(scene, tmp_path / "copy")
    assert run(["eval", str(scene), str(copy), "--nvs", "--long-side", "48"]) == 0
    table = capsys.readouterr().out
    assert "nvs.psnr_db" in table and "AUC@5" in table


@pytest.mark.parametrize(
    "options",
    [
        "--hold-out nonsense.jpg",
        "--lpips-weights /nowhere",
        "--long-side 512",  # the default, but asked for
        "--align-poses",
        "--device cpu",
    ],
)
def test_options_of_novel_views_need_nvs(scene, capsys, options):
    assert run(["eval", str(scene), str(scene), *options.split()]) == 3
    assert "are for --nvs" in capsys.readouterr().err


def test_a_list_of_photos_needs_a_reference(scene, capsys):
    assert run(["eval", str(scene), "--nvs", "--photos", "all"]) == 3
    assert "--photos is for the comparison with a REFERENCE" in capsys.readouterr().err
