"""From the settings of a phase to the source of its batches."""

from __future__ import annotations

from pathlib import Path

import torch

from flarecli.errors import InputError
from flarecli.train.config import Phase, TrainConfig
from flarecli.train.data import LiveSource, MixedSource, ShardSource, Source
from flarecli.train.generator import Generator
from flarecli.train.primitives import Draw
from flarecli.train.textures import list_textures, load_stack, split_textures


def open_source(config: TrainConfig, phase: Phase, seed: int, device: torch.device) -> Source:
    """Open what a phase learns from.

    Args:
        config: of the run.
        phase: one of its phases.
        seed: of the scenes that are rendered on the fly.
        device: that renders them.

    Raises:
        InputError: shards or textures are missing.
    """
    source = _open_rendered(config, phase, seed, device)
    if phase.photos is None:
        return source
    return MixedSource(source, ShardSource.open(Path(phase.photos)), phase.photo_share)


def _open_rendered(config: TrainConfig, phase: Phase, seed: int, device: torch.device) -> Source:
    if phase.shards is not None:
        return ShardSource.open(Path(phase.shards))
    if config.textures is None:
        raise InputError(
            "a phase without shards renders on the fly and needs textures", "set textures to a folder of pictures"
        )
    files, _ = split_textures(list_textures(Path(config.textures)))
    stack = load_stack(files, config.texture_size, device)
    return LiveSource(Generator(stack, Draw.seeded(seed, device)), phase.canvases)
