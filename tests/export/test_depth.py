import dataclasses

import numpy as np
import pytest

from flarecli.errors import InputError
from flarecli.export.depth import read_depth, write_depth, write_depth_exr


def test_npz_round_trip_and_names(synthetic, tmp_path):
    base = synthetic.reconstruction
    names = ("sub/a.jpg", "sub/a.png", *base.image_names[2:])
    reconstruction = dataclasses.replace(base, image_names=names, depth_maps=(*base.depth_maps[:3], None))
    paths = write_depth(reconstruction, tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [
        "depth/sub/a.jpg.npz",
        "depth/sub/a.png.npz",
        "depth/photo_02.png.npz",
    ]
    for path, part in zip(paths, base.depth_maps, strict=False):
        read = read_depth(path)
        with np.load(path, allow_pickle=False) as arrays:
            assert arrays["depth"].dtype == np.float32
            np.testing.assert_array_equal(arrays["depth"], part.depth)
        np.testing.assert_array_equal(read.confidence, part.confidence)
        np.testing.assert_array_equal(read.K, part.K)


def test_damaged(tmp_path):
    np.savez(tmp_path / "a.npz", depth=np.zeros((2, 2)))
    with pytest.raises(InputError, match="not a depth map"):
        read_depth(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"b\.npz"):
        read_depth(tmp_path / "b.npz")


def test_exr(synthetic, tmp_path):
    exr = pytest.importorskip("OpenEXR", reason="the package OpenEXR is not installed")
    paths = write_depth_exr(synthetic.reconstruction, tmp_path)
    assert len(paths) == 4
    channels = exr.File(str(paths[0])).channels()
    assert set(channels) == {"Z", "confidence"}
    np.testing.assert_array_equal(channels["Z"].pixels, synthetic.reconstruction.depth_maps[0].depth)
    np.testing.assert_array_equal(channels["confidence"].pixels, synthetic.reconstruction.depth_maps[0].confidence)
