"""Bundles of pictures: through an independent program both ways, as pictures, and damaged."""

import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from flarecli.errors import InputError
from flarecli.export import sog
from flarecli.export.gaussian_files import read_gaussians
from flarecli.export.ply import load_gaussians_ply, write_gaussians_ply
from flarecli.export.sog import read_sog, write_sog
from flarecli.export.splats import gaussians_from_points
from tests.export.test_gaussian_files import converted, picture, psnr, same_turn
from tests.synthetic import make_gaussians


def soft(num, degree, seed=0):
    """Gaussians with directional colours as small as trained ones have."""
    gaussians = make_gaussians(num, degree, seed)
    return dataclasses.replace(gaussians, sh=np.concatenate([gaussians.sh[:, :1], 0.2 * gaussians.sh[:, 1:]], 1))


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rebuilt(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_an_independent_reader_sees_the_same(tmp_path, degree):
    gaussians = soft(300, degree)
    write_sog(gaussians, tmp_path / "g.sog")
    theirs = load_gaussians_ply(converted(tmp_path / "g.sog", "ply")).gaussians
    ours = read_sog(tmp_path / "g.sog")
    assert theirs.sh_degree == ours.sh_degree == degree
    for field in ("means", "scales", "opacities", "sh"):
        np.testing.assert_allclose(getattr(theirs, field), getattr(ours, field), rtol=2e-3, atol=2e-3)
    assert same_turn(theirs.quats_wxyz, ours.quats_wxyz).min() > 0.99999
    assert psnr(picture(theirs), picture(gaussians)) > 35


def test_a_bundle_of_another_program_is_read(tmp_path):
    gaussians = soft(300, 2)
    write_gaussians_ply(gaussians, tmp_path / "g.ply")
    read = read_sog(converted(tmp_path / "g.ply", "sog"))
    assert len(read) == 300 and read.sh_degree == 2
    assert psnr(picture(read), picture(gaussians)) > 30


def test_pictures_survive_and_the_file_is_small(tmp_path, synthetic):
    gaussians = gaussians_from_points(synthetic.reconstruction)
    write_sog(gaussians, tmp_path / "g.sog")
    assert psnr(picture(read_gaussians(tmp_path / "g.sog")), picture(gaussians)) > 40
    write_gaussians_ply(gaussians, tmp_path / "g.ply")
    assert (tmp_path / "g.sog").stat().st_size < (tmp_path / "g.ply").stat().st_size / 4
    first = (tmp_path / "g.sog").read_bytes()
    write_sog(gaussians, tmp_path / "g.sog")
    assert (tmp_path / "g.sog").read_bytes() == first


def test_every_value_comes_back_near(tmp_path):
    gaussians = soft(500, 1)
    write_sog(gaussians, tmp_path / "g.sog")
    read = read_sog(tmp_path / "g.sog")
    order = sog._morton_order(gaussians.means)
    np.testing.assert_allclose(read.means, gaussians.means[order], atol=1e-3)
    np.testing.assert_allclose(np.log(read.scales), np.log(gaussians.scales[order]), atol=0.03)
    np.testing.assert_allclose(read.opacities, gaussians.opacities[order], atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(read.sh, gaussians.sh[order], atol=0.05)
    assert same_turn(read.quats_wxyz, gaussians.quats_wxyz[order]).min() > 0.9999


def test_a_full_palette_joins_what_is_alike(monkeypatch):
    monkeypatch.setattr(sog, "_PALETTE", 8)
    generator = np.random.default_rng(0)
    kinds = generator.normal(size=(8, 9))
    vectors = np.repeat(kinds, 50, 0) + 0.01 * generator.normal(size=(400, 9))
    label, entries = sog._palette(vectors[generator.permutation(400)])
    assert len(entries) == 8 and label.max() == 7
    assert np.abs(entries[:, None] - kinds).max(-1).min(1).max() < 0.02
    assert len(sog._palette(vectors[:5])[1]) == 5


def test_transparent_gaussians_keep_their_colour(tmp_path):
    gaussians = make_gaussians(40, 0)
    gaussians = dataclasses.replace(gaussians, opacities=np.zeros(40))
    write_sog(gaussians, tmp_path / "g.sog")
    read = read_sog(tmp_path / "g.sog")
    assert read.opacities.max() == 0
    np.testing.assert_allclose(read.sh, gaussians.sh[sog._morton_order(gaussians.means)], atol=0.05)


def damaged(name, files):
    meta = json.loads(files["meta.json"])
    if name == "no meta":
        del files["meta.json"]
        return files
    if name == "missing picture":
        del files["quats.webp"]
    elif name == "picture too small":
        tiny = io.BytesIO()
        Image.new("RGB", (2, 2)).save(tiny, "WEBP", lossless=True)
        files["scales.webp"] = tiny.getvalue()
    elif name == "no picture":
        files["scales.webp"] = b"nothing"
    elif name == "damaged quaternion":
        blank = io.BytesIO()
        with Image.open(io.BytesIO(files["sh0.webp"])) as old:
            Image.new("RGBA", old.size).save(blank, "WEBP", lossless=True, exact=True)
        files["quats.webp"] = blank.getvalue()
    else:
        meta |= {
            "version": {"version": 3},
            "count": {"count": 10**9},
            "negative": {"count": -1},
            "text": {"count": "5"},
            "codebook": {"scales": meta["scales"] | {"codebook": [1.0]}},
            "nan": {"sh0": meta["sh0"] | {"codebook": [float("nan")] * 256}},
            "label": {"shN": meta["shN"] | {"count": 1}},
            "bands": {"shN": meta["shN"] | {"bands": 7}},
        }[name]
    return files | {"meta.json": json.dumps(meta).encode()}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no meta", "no readable .sog"),
        ("missing picture", "quats.webp"),
        ("picture too small", "2 x 2 pixels"),
        ("no picture", "no readable .sog"),
        ("damaged quaternion", "quaternion is damaged"),
        ("version", "version 3 is not known"),
        ("count", "no number of Gaussians"),
        ("negative", "no number of Gaussians"),
        ("text", "no number of Gaussians"),
        ("codebook", "256 finite numbers"),
        ("nan", "256 finite numbers"),
        ("label", "no entry of the palette"),
        ("bands", "no readable .sog"),
    ],
)
def test_damaged_bundles(tmp_path, name, message):
    write_sog(make_gaussians(30, 1), tmp_path / "g.sog")
    rebuilt(tmp_path / "g.sog", damaged(name, members(tmp_path / "g.sog")))
    with pytest.raises(InputError, match=message):
        read_gaussians(tmp_path / "g.sog")


def test_no_zip_and_nothing(tmp_path):
    (tmp_path / "g.sog").write_bytes(b"PK nothing of the kind")
    with pytest.raises(InputError, match=r"no readable \.sog"):
        read_sog(tmp_path / "g.sog")
    with pytest.raises(InputError, match="does not exist"):
        read_sog(tmp_path / "none.sog")
