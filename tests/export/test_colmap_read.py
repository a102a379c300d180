import numpy as np
import pycolmap
import pytest

from flarecli.errors import InputError
from flarecli.export.colmap import write_colmap
from flarecli.export.colmap_read import read_colmap
from flarecli.geometry.projection import photo_pixels

LENSES = {
    "SIMPLE_PINHOLE": [100, 60, 50],
    "PINHOLE": [100, 110, 60, 50],
    "SIMPLE_RADIAL": [100, 60, 50, -0.08],
    "RADIAL": [100, 60, 50, -0.08, 0.01],
    "OPENCV": [100, 110, 60, 50, -0.08, 0, 0, 0],
    "OPENCV_FISHEYE": [100, 110, 60, 50, -0.08, 0, 0, 0],
}


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
@pytest.mark.parametrize("lens", LENSES)
def test_models_written_by_pycolmap(synthetic, tmp_path, lens, suffix):
    folder = write_colmap(synthetic.reconstruction, tmp_path)[0].parent
    model = pycolmap.Reconstruction(str(folder))
    camera = pycolmap.Camera(model=lens, width=120, height=100, params=LENSES[lens], camera_id=1)
    model.cameras[1].model, model.cameras[1].params = camera.model, camera.params
    model.cameras[1].width, model.cameras[1].height = 120, 100
    (tmp_path / "out").mkdir()
    (model.write_binary if suffix == ".bin" else model.write_text)(str(tmp_path / "out"))
    read = read_colmap(tmp_path / "out")
    fx, fy = LENSES[lens][0], 110 if lens in ("PINHOLE", "OPENCV", "OPENCV_FISHEYE") else 100
    np.testing.assert_array_equal(read.cameras.K[0], [[fx, 0, 60], [0, fy, 50], [0, 0, 1]])
    k1 = -0.08 if lens in ("SIMPLE_RADIAL", "RADIAL", "OPENCV") else 0
    assert read.cameras.k1 is not None and read.cameras.k1[0] == k1
    assert bool(read.warnings) == (lens in ("RADIAL", "OPENCV_FISHEYE"))
    if lens == "SIMPLE_RADIAL":
        assert read.tracks is not None
        distorted = photo_pixels(read.cameras.K[0], k1, read.tracks.pixel)
        tracks = synthetic.reconstruction.tracks
        order = np.lexsort((tracks.point_index, tracks.view_index))
        again = np.linalg.norm(distorted - tracks.pixel[order], axis=1)
        assert again.max() < 1e-6


def test_zero_quaternion_and_missing_model(synthetic, tmp_path):
    with pytest.raises(InputError, match="no COLMAP model"):
        read_colmap(tmp_path)
    folder = write_colmap(synthetic.reconstruction, tmp_path)[0].parent
    data = bytearray((folder / "images.bin").read_bytes())
    data[12:44] = bytes(32)
    (folder / "images.bin").write_bytes(data)
    with pytest.raises(InputError, match="quaternion is zero"):
        read_colmap(folder)
