import json
from pathlib import Path

import pytest
import torch
from numpy.random import default_rng

from flarecli.train.cameras import RigRules
from flarecli.train.generator import Batch, Generator
from flarecli.train.primitives import Draw
from flarecli.train.renderer import RenderSize
from flarecli.train.textures import TextureStack, pack_stack
from tests.synthetic import make_scene


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def textures() -> TextureStack:
    """Six smooth random textures, two of them counting as photographs."""
    coarse = torch.from_numpy(default_rng(0).random((6, 3, 4, 4), dtype="float32"))
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1)
    return pack_stack((smooth.permute(0, 2, 3, 1) * 255).to(torch.uint8), photos=2)


@pytest.fixture
def generator(textures: TextureStack) -> Generator:
    return Generator(textures, Draw.seeded(5))


@pytest.fixture(scope="session")
def batch(textures: TextureStack) -> Batch:
    """24 scenes with 3 views of 48 x 64 pixels."""
    return Generator(textures, Draw.seeded(5)).batch(24, RigRules(3), RenderSize(48, 64, samples=2))


def posed_photos(folder: Path) -> Path:
    """Four posed photos in the form of the benchmark, with a subset of two and one of all; returns the folder."""
    scene = make_scene(4, (48, 64), num_tracks=20)
    scene.write_images(folder / "images")
    cameras = scene.reconstruction.cameras
    names = list(scene.reconstruction.image_names)
    images = [
        {"name": n, "R": w[:3, :3].tolist(), "t": w[:3, 3].tolist(), "K": k.tolist()}
        for n, w, k in zip(names, cameras.w2c, cameras.K, strict=True)
    ]
    (folder / "cameras.json").write_text(json.dumps({"images": images}))
    subsets = [{"id": "a", "n": 2, "images": names[:2]}, {"id": "b", "n": 4, "images": names}]
    (folder / "subsets.json").write_text(json.dumps({"subsets": subsets}))
    return folder
