"""Where training batches come from: rendered on the spot (GPU), or from shards rendered beforehand (CPU)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from flarecli.errors import InputError
from flarecli.train.augment import augment
from flarecli.train.cameras import RigRules
from flarecli.train.generator import Batch, Generator
from flarecli.train.primitives import Draw
from flarecli.train.renderer import RenderSize
from flarecli.train.textures import TextureStack

MAX_RADIANCE = 1.6
STORED_VIEWS = 4
STORED_RULES = RigRules(STORED_VIEWS)
_MIN_OVERLAP = 0.2


class Source(Protocol):
    """Something that gives batches."""

    def next(self, draw: Draw, scenes: int, views: int) -> Batch:
        """A batch of radiance images with random views in random order, not augmented."""
        ...


@dataclass(slots=True)
class LiveSource:
    """Renders every batch anew; for devices that render faster than they train."""

    generator: Generator
    canvases: tuple[tuple[int, int], ...]
    spread: float = 1.0

    def next(self, draw: Draw, scenes: int, views: int) -> Batch:
        """A freshly rendered batch."""
        height, width = self.canvases[int(draw.integers(len(self.canvases), 1))]
        return self.generator.batch(scenes, RigRules(views, spread=self.spread), RenderSize(height, width))


@dataclass(slots=True)
class ShardSource:
    """Reads shards that :func:`prerender` wrote; new shards are noticed while training goes on."""

    folder: Path
    shards: list[Path]

    @staticmethod
    def open(folder: Path) -> ShardSource:
        """Find the shards of a folder.

        Raises:
            InputError: there are none.
        """
        source = ShardSource(folder, [])
        source.refresh()
        if not source.shards:
            raise InputError(
                f"{folder} holds no training shards",
                "render some first, or leave the phase's `shards` out to render on the fly",
            )
        return source

    def refresh(self) -> None:
        """Look for new shards."""
        self.shards = sorted(self.folder.glob("shard-*/"))

    def next(self, draw: Draw, scenes: int, views: int) -> Batch:
        """Random scenes of one random shard with random views."""
        if int(draw.integers(64, 1)) == 0:
            self.refresh()
        shard = self.shards[int(draw.integers(len(self.shards), 1))]
        arrays = _map_arrays(shard)
        index = torch.randint(len(arrays["kind"]), (scenes,), generator=draw.generator).sort().values.numpy()
        batch = unpack_arrays({name: array[index] for name, array in arrays.items()})
        return batch.views(random_views(draw, batch.overlap, views))

    def fixed(self, scenes: int, views: int, seed: int = 0) -> list[Batch]:
        """The same batches every time: the first scenes of the shards in turn, for evaluation."""
        draw, batches, left = Draw.seeded(seed), [], scenes
        for shard in self.shards:
            if left <= 0:
                break
            batch = unpack_arrays({name: array[: min(left, 64)] for name, array in _map_arrays(shard).items()})
            batches.append(batch.views(random_views(draw, batch.overlap, views)))
            left -= len(batch.kind)
        return batches


@dataclass(frozen=True, slots=True)
class MixedSource:
    """Batches of one source, and now and then of a second one: real photos among rendered ones.

    The second source gives no batches of more views than shards store.
    """

    main: Source
    other: Source
    share: float

    def next(self, draw: Draw, scenes: int, views: int) -> Batch:
        """A batch of either."""
        other = bool(draw.chance(self.share, 1)) and views <= STORED_VIEWS
        return (self.other if other else self.main).next(draw, scenes, views)


def _map_arrays(shard: Path) -> dict[str, np.ndarray]:
    """The arrays of a shard, left on disk until they are indexed."""
    return {f.name: np.load(shard / f"{f.name}.npy", mmap_mode="r") for f in fields(Batch)}


def random_views(draw: Draw, overlap: Tensor, views: int) -> Tensor:
    """Random view indices (B, V) of each scene in random order; pairs are drawn among those that overlap.

    Raises:
        InputError: more views are asked for than there are.
    """
    batch, stored = overlap.shape[:2]
    if views > stored:
        raise InputError(f"the shards hold {stored} views per scene, not {views}", "lower the number of views")
    order = draw.uniform(batch, stored).argsort(1)
    if views > 2:
        return order[:, :views]
    partner = overlap.gather(1, order[:, :1, None].expand(-1, -1, stored))[:, 0]
    score = draw.uniform(batch, stored) + (partner > _MIN_OVERLAP).float() - 9 * torch.eye(stored)[order[:, 0]]
    return torch.stack([order[:, 0], score.argmax(1)], 1)


def pack_arrays(batch: Batch) -> dict[str, np.ndarray]:
    """Compact arrays of a batch: colours as bytes, depth as half floats."""
    arrays = {f.name: getattr(batch, f.name).cpu().numpy() for f in fields(Batch)}
    arrays["rgb"] = (arrays["rgb"] * (255 / MAX_RADIANCE)).round().clip(0, 255).astype(np.uint8)
    arrays["depth"] = arrays["depth"].astype(np.float16)
    return arrays


def unpack_arrays(arrays: dict[str, np.ndarray]) -> Batch:
    """Inverse of :func:`pack_arrays` up to rounding."""
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    tensors["rgb"] = tensors["rgb"].float() * (MAX_RADIANCE / 255)
    tensors["depth"] = tensors["depth"].float()
    return Batch(**tensors)


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What :func:`prerender` writes: shard i has canvas i modulo their number, and a seed of its own.

    ``rules`` say which cameras are taken; shards hold :data:`STORED_VIEWS` views.
    """

    shards: int
    scenes: int
    canvases: tuple[tuple[int, int], ...]
    seed: int = 0
    rules: RigRules = STORED_RULES


def prerender(
    textures: TextureStack, folder: Path, plan: ShardPlan, on_progress: Callable[[str, int, int], None] | None = None
) -> None:
    """Render shards that are not there yet; each appears complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(plan.shards):
        target = folder / f"shard-{index:05d}"
        if target.exists():
            continue
        height, width = plan.canvases[index % len(plan.canvases)]
        generator = Generator(textures, Draw.seeded(plan.seed * 1_000_003 + index))
        batch = generator.batch(plan.scenes, plan.rules, RenderSize(height, width))
        partial = folder / f".partial-{index:05d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, array in pack_arrays(batch).items():
            np.save(partial / f"{name}.npy", array)
        partial.rename(target)
        if on_progress:
            on_progress("render", index + 1, plan.shards)


def clear_shards(folder: Path) -> None:
    """Take away the shards of a folder and the folder itself, where nobody put anything else there.

    Raises:
        InputError: it holds something else, or is no folder.
    """
    if not folder.exists():
        return
    ours = re.compile(rf"shard-\d{{5,}}(/({'|'.join(f.name for f in fields(Batch))})\.npy)?")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    foreign = [name for name in names if not ours.fullmatch(name)]
    if foreign or folder.is_symlink() or not folder.is_dir():
        found = f"holds {foreign[0]}, which is no training shard" if foreign else "is no folder"
        raise InputError(f"{folder} {found}", "move it away, or choose another folder")
    shutil.rmtree(folder)


def vary(batch: Batch, draw: Draw) -> Batch:
    """Training variation: mirror half of the scenes, permute colour channels, then photograph them."""
    mirrored = mirror(batch, draw.chance(0.5, len(batch.kind)))
    order = torch.stack([torch.randperm(3, generator=draw.generator, device=draw.device) for _ in batch.kind])
    index = order[:, None, :, None, None].expand_as(mirrored.rgb)
    permuted = mirrored.rgb.gather(2, index)
    return Batch(augment(permuted, draw), *(getattr(mirrored, f.name) for f in fields(Batch)[1:]))


def mirror(batch: Batch, which: Tensor) -> Batch:
    """Mirror the world and the x axis of the cameras of some scenes (B,); the images flip left to right."""

    def flipped(image: Tensor) -> Tensor:
        upright_x = (batch.portrait & which[:, None]).view(*batch.portrait.shape, *[1] * (image.ndim - 2))
        stored_x = (~batch.portrait & which[:, None]).view_as(upright_x)
        return torch.where(upright_x, image.flip(-2), torch.where(stored_x, image.flip(-1), image))

    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], device=batch.c2w.device))
    c2w = torch.where(which[:, None, None, None], flip @ batch.c2w @ flip, batch.c2w)
    return Batch(flipped(batch.rgb), flipped(batch.depth), c2w, batch.focal, batch.portrait, batch.overlap, batch.kind)
