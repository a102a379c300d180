import json
import shutil

import numpy as np
import plyfile
import pytest
from PIL import Image

from flarecli.errors import VerificationError
from flarecli.export.manifest import MANIFEST_NAME
from flarecli.export.ply import write_ply
from flarecli.export.verify import verify_scene


def test_a_written_scene_passes(scene):
    checked = verify_scene(scene)
    models = ["sparse/0", "sparse_text/0", "points.ply", "gaussians.ply", "mesh.ply", "mesh.glb"]
    assert checked == [*models, "transforms.json", "depth", MANIFEST_NAME]


def cut(name, size=-20):
    def damage(scene):
        (scene / name).write_bytes((scene / name).read_bytes()[:size])

    return damage


def flip(name, offset):
    def damage(scene):
        data = bytearray((scene / name).read_bytes())
        data[offset] ^= 0xC0
        (scene / name).write_bytes(data)

    return damage


def vertices(name, **columns):
    def damage(scene):
        data = plyfile.PlyData.read(scene / name)["vertex"].data.copy()
        for column, value in columns.items():
            data[column] = value
        write_ply(scene / name, data)

    return damage


def transforms(change):
    def damage(scene):
        meta = json.loads((scene / "transforms.json").read_text())
        change(meta)
        (scene / "transforms.json").write_text(json.dumps(meta))

    return damage


def resize_image(scene):
    with Image.open(scene / "images/photo_01.png") as image:
        image.resize((64, 48)).save(scene / "images/photo_01.png")


def turn_by_exif(scene):
    with Image.open(scene / "images/photo_01.png") as image:
        exif = image.getexif()
        exif[274] = 6
        image.save(scene / "images/photo_01.png", exif=exif)


def swap_depths(scene):
    shutil.copy(scene / "depth/photo_00.png.npz", scene / "depth/photo_01.png.npz")


def swap_binary(scene):
    """Frames of another model: the stale twin that silently gives other poses."""
    data = bytearray((scene / "sparse/0/frames.bin").read_bytes())
    data[8 + 8 + 32 : 8 + 8 + 40] = np.float64(0.25).tobytes()
    (scene / "sparse/0/frames.bin").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (cut("sparse/0/points3D.bin"), "sparse/0"),
        (swap_binary, "sparse/0"),
        (cut("sparse_text/0/images.txt", 50), "sparse_text/0"),
        (lambda scene: (scene / "images/photo_02.png").unlink(), "photo_02.png is missing"),
        (lambda scene: (scene / "images/photo_02.png").write_bytes(b"x"), "photo_02.png is not a readable image"),
        (resize_image, "photo_01.png: is 64 x 48, its camera 128 x 96"),
        (turn_by_exif, "photo_01.png: has the EXIF orientation 6"),
        (cut("points.ply"), "points.ply"),
        (vertices("points.ply", x=np.nan), "points.ply: x"),
        (cut("gaussians.ply"), "gaussians.ply"),
        (vertices("gaussians.ply", rot_0=3), "quaternions are not unit"),
        (lambda scene: shutil.copy(scene / "points.ply", scene / "gaussians.ply"), "not in the order"),
        (cut("mesh.ply", 400), "mesh.ply"),
        (cut("mesh.glb"), "mesh.glb"),
        (flip("mesh.glb", 24), "mesh.glb"),
        (transforms(lambda meta: meta.pop("applied_transform")), "lacks applied_transform"),
        (transforms(lambda meta: meta["frames"][1]["transform_matrix"][0].__setitem__(3, 9)), "photo_01.png changed"),
        (lambda scene: (scene / "sparse_pc.ply").unlink(), "sparse_pc.ply: is missing"),
        (cut("depth/photo_00.png.npz"), "photo_00.png.npz"),
        (swap_depths, "photo_01.png.npz: differs"),
        (cut("scene.npz"), "scene.npz"),
        (lambda scene: (scene / "images/photo_00.png").open("ab").write(b"x"), "photo_00.png: changed"),
    ],
)
def test_damage_is_found_and_named(scene, damage, named):
    damage(scene)
    with pytest.raises(VerificationError) as error:
        verify_scene(scene)
    assert named in error.value.message and error.value.exit_code == 7


def test_wrong_stored_errors(scene):
    path = scene / "sparse/0/points3D.bin"
    data = bytearray(path.read_bytes())
    data[8 + 8 + 24 + 3 : 8 + 8 + 24 + 3 + 8] = np.float64(2.5).tobytes()
    path.write_bytes(data)
    with pytest.raises(VerificationError, match=r"off by up to 2\.5 px"):
        verify_scene(scene)


def test_nothing_to_verify(tmp_path):
    with pytest.raises(VerificationError, match="nothing"):
        verify_scene(tmp_path)
