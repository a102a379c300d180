import dataclasses
import json
import zipfile

import numpy as np
import pytest

from flarecli.errors import InputError
from flarecli.export.archive import load_scene, save_scene
from flarecli.scene.reconstruction import PhotoVerdict, Reconstruction
from tests.synthetic import make_gaussians


def same(a, b) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.fixture
def reconstruction(synthetic) -> Reconstruction:
    base = synthetic.reconstruction
    return dataclasses.replace(
        base,
        image_names=("sub/ä.png", *base.image_names[1:]),
        cameras=dataclasses.replace(base.cameras, k1=np.linspace(-0.1, 0.1, 4)),
        depth_maps=(None, *base.depth_maps[1:]),
        gaussians=make_gaussians(20, 2),
        verdicts=(PhotoVerdict("x.jpg", "dropped", "no matches"), PhotoVerdict("y", "verified", "", 5, 0.5)),
        confidence=1 / 3,
        metric_scale=True,
        provenance={"model": "m", "options": {"seed": 1, "list": [1.5, None]}},
    )


def test_round_trip_is_exact_and_repeatable(reconstruction, tmp_path):
    (path,) = save_scene(reconstruction, tmp_path)
    assert same(load_scene(tmp_path), reconstruction)
    assert same(load_scene(path), reconstruction)
    first = path.read_bytes()
    save_scene(load_scene(tmp_path), tmp_path)
    assert path.read_bytes() == first


def test_without_depth_gaussians_and_points(synthetic, tmp_path):
    bare = dataclasses.replace(synthetic.reconstruction, depth_maps=(), verdicts=())
    save_scene(bare, tmp_path)
    assert same(load_scene(tmp_path), bare)


@pytest.mark.parametrize("keep", [0, 10, 100, 0.5, 0.999])
def test_truncated_file(reconstruction, tmp_path, keep):
    (path,) = save_scene(reconstruction, tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match=r"scene\.npz"):
        load_scene(tmp_path)


def rewrite(path, change) -> None:
    with np.load(path) as arrays:
        content = dict(arrays)
    change(content)
    with path.open("wb") as file:
        np.savez(file, **content)


def set_header(**values):
    def change(content):
        header = json.loads(content["header"].tobytes()) | values
        content["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_header(version=2),
        set_header(format="other"),
        set_header(image_names=["a"]),
        set_header(image_names=[1, 2, 3, 4]),
        set_header(image_names=["a", "b", "c", "../../escaped"]),
        set_header(verdicts=[{"name": "a", "evil": 1}]),
        lambda content: content.pop("tracks.xyz"),
        lambda content: content.pop("header"),
        lambda content: content.update({"cameras.K": np.full((4, 3, 3), np.nan)}),
        lambda content: content.update({"cameras.K": np.array(["a"])}),
        lambda content: content.update({"header": np.frombuffer(b"{", np.uint8)}),
        lambda content: content.update({"cameras.K": np.array([{}], dtype=object)}),
    ],
)
def test_hostile_content(reconstruction, tmp_path, change):
    (path,) = save_scene(reconstruction, tmp_path)
    rewrite(path, change)
    with pytest.raises(InputError, match=r"scene\.npz"):
        load_scene(tmp_path)


def test_announced_size_is_checked_before_it_is_allocated(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "scene.npz", "w") as archive:
        archive.writestr("header.npy", b"\x93NUMPY\x01\x00v\x00" + header)
    with pytest.raises(InputError, match="size that it announces"):
        load_scene(tmp_path)


def test_compressed_member_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "scene.npz", header=np.zeros(10**6))
    with pytest.raises(InputError, match="compressed"):
        load_scene(tmp_path)


def test_missing(tmp_path):
    with pytest.raises(InputError, match=r"holds no scene\.npz"):
        load_scene(tmp_path)
