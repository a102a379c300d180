"""What is known about cameras from EXIF, options and files."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flarecli.errors import FlareError, InputError
from flarecli.export.colmap import write_colmap
from flarecli.export.transforms_json import write_transforms
from flarecli.geometry.distortion import Distortion
from flarecli.images.loading import load_photos
from flarecli.inference.priors import DEFAULT_FOCAL, DEFAULT_SIGMA, collect_priors
from tests.synthetic import make_scene

EXIF_IFD, FOCAL_35MM, FOCAL_MM, MAKE, MODEL = 0x8769, 0xA405, 0x920A, 0x010F, 0x0110
DIAGONAL_35MM = np.hypot(36, 24)


def save(path: Path, size_hw=(60, 80), film_mm: int | None = None, model: str = "Box 1") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if film_mm is not None:
        exif[MAKE], exif[MODEL] = "Maker", model
        exif.get_ifd(EXIF_IFD)[FOCAL_35MM] = film_mm
        exif.get_ifd(EXIF_IFD)[FOCAL_MM] = film_mm / 5
    pixels = (
        np.random.default_rng(zlib.crc32(path.as_posix()[-9:].encode()))
        .integers(0, 255, (*size_hw, 3))
        .astype(np.uint8)
    )
    Image.fromarray(pixels).save(path, exif=exif, quality=95)


def collect(folder: Path, intrinsics_from=None, poses=None, shared="auto"):
    return collect_priors(load_photos([folder]).photos, intrinsics_from=intrinsics_from, poses=poses, shared=shared)


@pytest.fixture
def mixed(tmp_path) -> Path:
    """In order: a/1 and a/2 by one camera, a/3 portrait by the same, b/4 by another, b/5 and b/6 without EXIF."""
    folder = tmp_path / "photos"
    save(folder / "a/1.jpg", film_mm=28)
    save(folder / "a/2.jpg", film_mm=28)
    save(folder / "a/3.jpg", (80, 60), film_mm=28)
    save(folder / "b/4.jpg", film_mm=50, model="Box 2")
    save(folder / "b/5.jpg")
    save(folder / "b/6.jpg")
    return folder


def test_exif_is_a_good_guess_and_nothing_a_loose_one(mixed):
    priors = collect(mixed)
    diagonal = np.hypot(60, 80)
    wanted = [28 / DIAGONAL_35MM * diagonal] * 3 + [50 / DIAGONAL_35MM * diagonal] + [DEFAULT_FOCAL * 80] * 2
    np.testing.assert_allclose(priors.K[:, 0, 0], wanted, rtol=2e-3)
    np.testing.assert_array_equal(priors.K[:, 0, 0], priors.K[:, 1, 1])
    np.testing.assert_array_equal(priors.K[:3, :2, 2], [[40, 30], [40, 30], [30, 40]])
    assert (0 < priors.sigma[:4]).all() and (priors.sigma[:4] < 0.15).all()
    assert priors.sigma[4:].tolist() == [DEFAULT_SIGMA] * 2
    assert not priors.known.any() and priors.c2w is None


@pytest.mark.parametrize(
    ("shared", "groups"),
    [
        ("auto", [0, 0, 1, 2, 3, 3]),
        ("none", [0, 1, 2, 3, 4, 5]),
        ("folder", [0, 0, 1, 2, 2, 2]),
        ("all", [0, 0, 1, 0, 0, 0]),
    ],
)
def test_photos_share_cameras_as_asked(mixed, shared, groups):
    priors = collect(mixed, shared=shared)
    assert priors.group.tolist() == groups
    for group in set(groups):  # one camera has one image size
        assert len({tuple(size) for size in priors.size_hw[priors.group == group].tolist()}) == 1


def test_a_film_equivalent_is_exact(mixed):
    priors = collect(mixed, "35mm=28")
    assert priors.known.all()
    np.testing.assert_allclose(priors.K[:, 0, 0], 28 / DIAGONAL_35MM * 100)


@pytest.mark.parametrize("text", ["35mm=0", "35mm=1.2.3", "35mm=.", "35mm=", "35mm=abc", "no/such/file"])
def test_what_is_no_focal_length_is_an_input_error(mixed, text):
    with pytest.raises(InputError):
        collect(mixed, text)


def test_exif_can_be_trusted_only_where_it_is(mixed):
    with pytest.raises(InputError, match=r"b/5\.jpg has no EXIF focal length"):
        collect(mixed, "exif")
    for name in ("5", "6"):
        (mixed / f"b/{name}.jpg").unlink()
    priors = collect(mixed, "exif")
    assert priors.known.all()
    np.testing.assert_allclose(priors.K[0, 0, 0], 28 / DIAGONAL_35MM * 100, rtol=2e-3)


@pytest.fixture
def scene(tmp_path):
    made = make_scene(3, (60, 80), num_tracks=60)
    made.write_images(tmp_path / "photos")
    return made


def written(scene, tmp_path, kind: str) -> Path:
    folder = tmp_path / "model"
    scene.write_images(folder / "images")
    if kind == "colmap":
        write_colmap(scene.reconstruction, folder)
        return folder / "sparse/0"
    write_transforms(scene.reconstruction, folder)
    return folder / "transforms.json"


@pytest.mark.parametrize("kind", ["colmap", "transforms"])
def test_poses_come_from_files_with_their_intrinsics(scene, tmp_path, kind):
    path = written(scene, tmp_path, kind)
    truth = scene.reconstruction.cameras
    priors = collect(tmp_path / "photos", poses=path)
    assert priors.c2w is not None and priors.known.all()
    np.testing.assert_allclose(priors.c2w, truth.c2w, atol=1e-9)
    np.testing.assert_allclose(priors.K, truth.K, atol=1e-9)
    assert len(set(priors.group.tolist())) == 1
    only = collect(tmp_path / "photos", str(path))
    assert only.c2w is None and only.known.all()
    np.testing.assert_allclose(only.K, truth.K, atol=1e-9)
    # poses from the file, focal length as the user says
    both = collect(tmp_path / "photos", "35mm=30", poses=path)
    assert both.c2w is not None and both.K[0, 0, 0] == pytest.approx(30 / DIAGONAL_35MM * 100)


def test_known_cameras_of_other_centres_are_not_thrown_together(scene, tmp_path):
    K = np.array(scene.reconstruction.cameras.K)
    K[1, 0, 2] += 2
    other = replace(scene.reconstruction, cameras=replace(scene.reconstruction.cameras, K=K))
    path = written(type(scene)(other, scene.images), tmp_path, "colmap")
    priors = collect(tmp_path / "photos", str(path), shared="all")
    assert priors.group.tolist() == [0, 1, 0]


def test_files_that_do_not_fit_are_named(scene, tmp_path):
    path = written(scene, tmp_path, "colmap")
    save(tmp_path / "photos/extra.jpg")
    with pytest.raises(InputError, match=r"no poses for extra\.jpg"):
        collect(tmp_path / "photos", poses=path)
    (tmp_path / "photos/extra.jpg").unlink()
    smaller = Image.fromarray(scene.images[0]).resize((64, 48))
    smaller.save(tmp_path / "photos/photo_00.png")
    with pytest.raises(InputError, match=r"photo_00\.png is 80x60 there, but the upright photo is 64x48"):
        collect(tmp_path / "photos", poses=path)
    with pytest.raises(InputError, match="does not exist"):
        collect(tmp_path / "photos", poses=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FlareError):
        collect(tmp_path / "photos", poses=tmp_path / "empty")
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(FlareError):
        collect(tmp_path / "photos", str(tmp_path / "t.json"))


def test_one_camera_takes_the_best_guess_of_its_photos(mixed):
    priors = collect(mixed, shared="folder")
    focal = 50 / DIAGONAL_35MM * np.hypot(60, 80)
    np.testing.assert_allclose(priors.K[3:, 0, 0], focal, rtol=2e-3)  # two of the three have no EXIF
    assert (priors.sigma[3:] == priors.sigma[0]).all()
    np.testing.assert_allclose(priors.K[:3, 0, 0], 28 / DIAGONAL_35MM * np.hypot(60, 80), rtol=2e-3)
    together = collect(mixed, shared="all")
    middle = np.median([28, 28, 50]) / DIAGONAL_35MM * np.hypot(60, 80)
    np.testing.assert_allclose(together.K[[0, 1, 3, 4, 5], 0, 0], middle, rtol=2e-3)


def test_two_photos_never_get_one_entry_of_a_file(scene, tmp_path):
    path = written(scene, tmp_path, "colmap")
    (tmp_path / "both/a").mkdir(parents=True)
    (tmp_path / "both/b").mkdir()
    for folder, picture in zip("ab", scene.images, strict=False):
        Image.fromarray(picture).save(tmp_path / "both" / folder / "photo_00.png")
    with pytest.raises(InputError, match=r"no poses for a/photo_00\.png") as caught:
        collect(tmp_path / "both", poses=path)
    assert "folder" in caught.value.hint


def test_a_file_may_name_photos_without_their_folder(scene, tmp_path):
    path = written(scene, tmp_path, "colmap")
    (tmp_path / "deep/inside").mkdir(parents=True)
    for photo in (tmp_path / "photos").iterdir():
        photo.rename(tmp_path / "deep/inside" / photo.name)
    priors = collect(tmp_path / "deep", poses=path)
    assert priors.c2w is not None
    np.testing.assert_allclose(priors.c2w, scene.reconstruction.cameras.c2w, atol=1e-9)


def with_lens(scene, tmp_path, kind: str, model: str, terms: dict[str, float]) -> Path:
    """Cameras of the scene in a file, with the terms of another camera model."""
    path = written(scene, tmp_path, kind)
    K = scene.reconstruction.cameras.K[0]
    if kind == "transforms":
        content = json.loads(path.read_text()) | {"camera_model": model}
        content["frames"] = [frame | terms for frame in content["frames"]]
        path.write_text(json.dumps(content))
        return path
    (path / "cameras.bin").unlink()
    values = [K[0, 0], K[1, 1], *K[:2, 2], *terms.values()]
    (path / "cameras.txt").write_text(f"1 {model} 80 60 {' '.join(map(str, values))}\n")
    for name in ("images", "points3D"):
        (path / f"{name}.bin").unlink()
    images = [f"{i + 1} 1 0 0 0 0 0 0 1 photo_{i:02}.png\n\n" for i in range(3)]
    (path / "images.txt").write_text("".join(images))
    (path / "points3D.txt").write_text("")
    return path


STRONG = {"k1": -0.9, "k2": 0.8, "p1": 0.0, "p2": 0.0}
WEAK = {"k1": -0.1, "k2": 0.02, "p1": 1e-4, "p2": 0.0}


@pytest.mark.parametrize("how", ["intrinsics_from", "poses"])
@pytest.mark.parametrize("kind", ["colmap", "transforms"])
def test_a_lens_that_one_term_can_not_stand_for_is_adjusted(scene, tmp_path, kind, how):
    path = with_lens(scene, tmp_path, kind, "OPENCV", STRONG)
    folder = tmp_path / "photos"
    priors = collect(folder, poses=path) if how == "poses" else collect(folder, str(path))
    assert (0 < priors.sigma).all() and (priors.sigma < 0.05).all() and len(set(priors.group.tolist())) == 1
    assert len(priors.warnings) == 1
    assert f"{path}: one radial term comes only within" in priors.warnings[0]
    assert "photo_00.png and 2 more" in priors.warnings[0]
    assert (-0.9 < priors.k1).all() and (priors.k1 < -0.3).all()


@pytest.mark.parametrize("kind", ["colmap", "transforms"])
def test_further_terms_that_one_can_stand_for_are_held(scene, tmp_path, kind):
    path = with_lens(scene, tmp_path, kind, "OPENCV", WEAK)
    priors = collect(tmp_path / "photos", str(path))
    assert priors.known.all() and priors.warnings == ()
    truth = scene.reconstruction.cameras.K[0]
    np.testing.assert_allclose(priors.K[0], truth, atol=1e-9)
    corner = (np.array([[80.0, 60.0]]) - truth[:2, 2]) / truth[0, 0]
    wanted = Distortion("OPENCV", (WEAK["k1"], WEAK["k2"]), (WEAK["p1"], 0)).distort(corner)
    kept = corner * (1 + priors.k1[0] * (corner**2).sum())
    assert np.linalg.norm(kept - wanted) * truth[0, 0] < 1 and priors.k1[0] > -0.1


@pytest.mark.parametrize("kind", ["colmap", "transforms"])
def test_fisheye_cameras_are_refused_by_name(scene, tmp_path, kind):
    terms = {"k1": -0.02, "k2": 0.0, "k3": 0.0, "k4": 0.0}
    path = with_lens(scene, tmp_path, kind, "OPENCV_FISHEYE", terms)
    with pytest.raises(InputError, match=r"the camera of photo_00\.png is OPENCV_FISHEYE") as caught:
        collect(tmp_path / "photos", str(path))
    assert str(path) in caught.value.message and "undistort the photos first" in caught.value.hint
    with pytest.raises(InputError, match="OPENCV_FISHEYE"):
        collect(tmp_path / "photos", poses=path)


def test_a_lens_that_folds_is_refused(scene, tmp_path):
    path = with_lens(scene, tmp_path, "colmap", "RADIAL", {})
    K = scene.reconstruction.cameras.K[0]
    (path / "cameras.txt").write_text(f"1 RADIAL 80 60 {K[0, 0]} {K[0, 2]} {K[1, 2]} -3 -3\n")
    with pytest.raises(InputError, match=r"photo_00\.png is not usable: the distortion folds"):
        collect(tmp_path / "photos", str(path))


@pytest.mark.parametrize("suffix", ["tif", "bmp", "webp"])
def test_a_file_names_the_originals_of_photos_whose_copies_are_called_otherwise(scene, tmp_path, suffix):
    originals = tuple(name.replace(".png", f".{suffix}") for name in scene.reconstruction.image_names)
    named = replace(scene.reconstruction, image_names=originals)
    write_transforms(named, tmp_path)
    for photo in (tmp_path / "photos").iterdir():
        Image.open(photo).save(photo.with_suffix(f".{suffix}"))
        photo.unlink()
    for poses, intrinsics_from in ((tmp_path / "transforms.json", None), (None, str(tmp_path / "transforms.json"))):
        priors = collect(tmp_path / "photos", intrinsics_from, poses)
        np.testing.assert_allclose(priors.K, scene.reconstruction.cameras.K, atol=1e-9)
        if poses is not None:
            assert priors.c2w is not None
            np.testing.assert_allclose(priors.c2w, scene.reconstruction.cameras.c2w, atol=1e-9)
