"""Files of Gaussians: through an independent reader and writer, as pictures, and damaged."""

import dataclasses
import gzip
import shutil
import struct

import gaussforge
import numpy as np
import plyfile
import pytest
import torch

from flarecli.errors import InputError, OutputError, VerificationError
from flarecli.export.gaussian_files import read_gaussians
from flarecli.export.ply import load_gaussians_ply, write_gaussians_ply
from flarecli.export.rewrite import export_scene
from flarecli.export.splat import read_splat, write_splat
from flarecli.export.splats import gaussians_from_points
from flarecli.export.spz import read_spz, write_spz
from flarecli.export.verify import verify_scene
from flarecli.render.rasterize import render
from flarecli.render.splats import Splats
from flarecli.scene.gaussians import Gaussians
from tests.synthetic import make_gaussians

WRITERS = {"ply": write_gaussians_ply, "splat": write_splat, "spz": write_spz}
# The axes of .spz are x right, y up, z back; gaussforge hands its numbers on as they are.
TURN = np.diag([1.0, -1, -1, 1])


def converted(path, suffix, **options):
    """The file written anew in another format by gaussforge."""
    answer = gaussforge.GaussForge().convert(path.read_bytes(), path.suffix[1:], suffix, **options)
    assert "error" not in answer, answer
    out = path.with_name(f"theirs.{suffix}")
    out.write_bytes(answer["data"])
    return out


def same_turn(a, b):
    return np.abs((a * b).sum(1)) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def picture(gaussians: Gaussians, world_from_file: np.ndarray | None = None) -> torch.Tensor:
    w2c = np.eye(4) if world_from_file is None else world_from_file
    K = torch.tensor([[[120.0, 0, 64], [0, 120, 48], [0, 0, 1]]])
    return render(Splats.of(gaussians), torch.tensor(w2c[None], dtype=torch.float32), K, (96, 128)).color.clamp(0, 1)


def psnr(a, b):
    return float(-10 * torch.log10((a - b).square().mean().clamp_min(1e-12)))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spz_as_an_independent_reader_sees_it(tmp_path, degree):
    gaussians = make_gaussians(300, degree)
    # Harmonics beyond 1 are cut by the format.
    gaussians = dataclasses.replace(gaussians, sh=np.clip(0.3 * gaussians.sh, -0.9, 0.9))
    write_spz(gaussians, tmp_path / "g.spz")
    theirs = load_gaussians_ply(converted(tmp_path / "g.spz", "ply")).gaussians
    assert theirs.sh_degree == degree
    np.testing.assert_allclose(theirs.means * [1, -1, -1], gaussians.means, atol=1e-5)
    np.testing.assert_allclose(np.log(theirs.scales), np.log(gaussians.scales), atol=0.5 / 16 + 1e-4)
    np.testing.assert_allclose(theirs.opacities, gaussians.opacities, atol=0.6 / 255)
    np.testing.assert_allclose(theirs.sh[:, 0], gaussians.sh[:, 0], atol=0.6 / (0.15 * 255))
    np.testing.assert_allclose(np.abs(theirs.sh[:, 1:]), np.abs(gaussians.sh[:, 1:]), atol=0.6 / 128)
    # Turned back by the camera, quaternions and harmonics give the same picture only with the right signs.
    assert psnr(picture(theirs, TURN), picture(gaussians)) > 35


@pytest.mark.parametrize("version", [2, 3])
def test_spz_of_another_writer_is_read(tmp_path, version):
    gaussians = make_gaussians(300, 2)
    write_spz(gaussians, tmp_path / "g.spz")
    theirs = converted(converted(tmp_path / "g.spz", "ply"), "spz", spz_version=version)
    assert struct.unpack("<I", gzip.decompress(theirs.read_bytes())[4:8]) == (version,)
    read = read_spz(theirs)
    np.testing.assert_allclose(read.means, gaussians.means, atol=1e-3)
    np.testing.assert_allclose(np.log(read.scales), np.log(gaussians.scales), atol=0.04)
    assert same_turn(read.quats_wxyz, gaussians.quats_wxyz).min() > (0.9999 if version == 3 else 0.995)
    np.testing.assert_allclose(read.opacities, gaussians.opacities, atol=1.1 / 255)
    assert np.sign(read.sh[:, 1:] * gaussians.sh[:, 1:])[np.abs(gaussians.sh[:, 1:]) > 0.3].min() == 1


def test_splat_both_ways_through_an_independent_program(tmp_path):
    gaussians = make_gaussians(300, 0)
    write_splat(gaussians, tmp_path / "g.splat")
    theirs = load_gaussians_ply(converted(tmp_path / "g.splat", "ply")).gaussians
    assert psnr(picture(theirs), picture(gaussians)) > 35
    volume = np.prod(theirs.scales, 1)
    assert np.median(volume[:50]) > np.median(volume[-50:]), "the large ones do not come first"
    write_gaussians_ply(gaussians, tmp_path / "g.ply")
    back = read_splat(converted(tmp_path / "g.ply", "splat"))
    assert len(back) == 300 and back.sh_degree == 0
    assert psnr(picture(back), picture(gaussians)) > 35


@pytest.mark.parametrize(("suffix", "least"), [("ply", 80), ("spz", 35), ("splat", 35)])
def test_pictures_survive_the_round_trip(tmp_path, synthetic, suffix, least):
    first = gaussians_from_points(synthetic.reconstruction)
    random = make_gaussians(300, 0 if suffix == "splat" else 3)
    for gaussians in (first, dataclasses.replace(random, sh=0.3 * random.sh)):
        path = tmp_path / f"g.{suffix}"
        WRITERS[suffix](gaussians, path)
        assert psnr(picture(read_gaussians(path)), picture(gaussians)) > least
        if suffix == "spz":
            write_gaussians_ply(gaussians, tmp_path / "g.ply")
            assert path.stat().st_size < (tmp_path / "g.ply").stat().st_size / 3


def test_repairs_are_stated(tmp_path, caplog):
    gaussians = make_gaussians(20, 1)
    write_gaussians_ply(gaussians, tmp_path / "g.ply")
    rows = plyfile.PlyData.read(tmp_path / "g.ply")["vertex"].data.copy()
    rows["opacity"] = gaussians.opacities
    rows["x"][3] = np.nan
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")]).write(tmp_path / "g.ply")
    read = read_gaussians(tmp_path / "g.ply")
    np.testing.assert_allclose(read.opacities, np.delete(gaussians.opacities, 3), rtol=1e-6)
    assert "1 Gaussians are not finite" in caplog.text and "read as opacities, not as logits" in caplog.text


def test_rows_of_a_splat_that_are_none_are_left_out_and_stated(tmp_path, caplog):
    gaussians = make_gaussians(20, 0)
    write_splat(gaussians, tmp_path / "g.splat")
    data = bytearray((tmp_path / "g.splat").read_bytes())
    data[32:36] = struct.pack("<f", float("nan"))
    data[64 + 12 : 64 + 16] = struct.pack("<f", -1)
    data[96 + 28 : 96 + 32] = bytes([128] * 4)
    (tmp_path / "g.splat").write_bytes(data)
    assert len(read_gaussians(tmp_path / "g.splat")) == 17
    assert "3 Gaussians are not finite" in caplog.text


def spz_bytes(count=2, version=3, degree=0, fraction_bits=12, body=b"\0" * 40):
    return gzip.compress(
        struct.pack("<IIIBBBB", 0x5053474E, version, count, degree, fraction_bits, 0, 0) + body, mtime=0
    )


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.splat", b"x" * 33, "multiple of 32"),
        ("a.splat", b"\xff" * 32, "no .splat"),
        ("a.splat", b"", "holds no Gaussians"),
        ("a.spz", b"", "no readable .spz"),
        ("a.spz", b"NGSP" + bytes(40), "version 4"),
        ("a.spz", gzip.compress(b"nothing of the kind", mtime=0), "no header"),
        ("a.spz", spz_bytes(version=1), "version 1 is not known"),
        ("a.spz", spz_bytes(count=3), "too short"),
        ("a.spz", spz_bytes(count=2**31), "impossible values"),
        ("a.spz", spz_bytes(degree=9), "impossible values"),
        ("a.spz", spz_bytes()[:20], "no readable .spz"),
        ("a.spz", spz_bytes(count=0, body=b""), "holds no Gaussians"),
        ("a.obj", b"", "known suffixes: .ply .splat .spz"),
    ],
)
def test_damaged_files(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as error:
        read_gaussians(tmp_path / name)
    assert message in f"{error.value.message} {error.value.hint}"


def test_too_far_for_spz(tmp_path):
    gaussians = make_gaussians(2)
    far = dataclasses.replace(gaussians, means=gaussians.means * 1e9)
    with pytest.raises(OutputError, match="too far"):
        write_spz(far, tmp_path / "g.spz")


def test_export_writes_and_verifies_them(scene):
    written = export_scene(scene, ["splat", "spz", "sog"])
    assert [path.name for paths in written.files.values() for path in paths] == [
        "gaussians.splat",
        "gaussians.spz",
        "gaussians.sog",
    ]
    assert {"gaussians.splat", "gaussians.spz", "gaussians.sog"} <= set(verify_scene(scene))
    whole = (scene / "gaussians.splat").read_bytes()
    (scene / "gaussians.splat").write_bytes(whole[:-32])
    with pytest.raises(VerificationError, match=r"gaussians\.splat"):
        verify_scene(scene)
    shutil.copy(scene / "points.ply", scene / "gaussians.spz")
    (scene / "gaussians.splat").write_bytes(whole)
    with pytest.raises(VerificationError, match=r"gaussians\.spz"):
        verify_scene(scene)
