import pytest
import torch
from numpy.random import default_rng

from flarecli.train.cameras import RigRules
from flarecli.train.generator import Batch, Generator
from flarecli.train.primitives import Draw
from flarecli.train.renderer import RenderSize
from flarecli.train.textures import TextureStack, pack_stack


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
