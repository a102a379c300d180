"""The table of all models; readable without torch."""

from __future__ import annotations

from flarecli.errors import InputError
from flarecli.model.config_flare import FlareConfig
from flarecli.model.config_small import SIZES
from flarecli.model.flare_keys import FLARE_KEYS
from flarecli.model.spec import Canvas, ModelSpec, WeightsSpec

_TEST_CONFIG = FlareConfig(
    enc_dim=32,
    enc_depth=3,
    enc_heads=2,
    dec_dim=32,
    dec_depth=3,
    dec_heads=2,
    tap_blocks=(0, 1, 2),
    inject_layers=(0, 1, 2),
    pose_heads=2,
    pose_depth=2,
    pose_octaves=4,
    dpt_hooks=(0, 1, 2, 3),
    dpt_dims=(8, 8, 16, 16),
    dpt_dim=16,
    dpt_head_dim=8,
)

_ROWS = (
    ModelSpec(
        name="flare",
        task="published FLARE geometry network, 1.2 billion parameters: cameras and point maps",
        build="flarecli.model.flare:Flare",
        config=FlareConfig(),
        weights=WeightsSpec(
            filename="geometry_pose.pth",
            hub_repo="AntResearch/FLARE",
            sha256=None,
            size_bytes=5_614_000_000,
            licence="CC BY-NC-SA 4.0",
            commercial=False,
            source="FLARE (CVPR 2025), https://huggingface.co/AntResearch/FLARE",
            key_rules=FLARE_KEYS,
        ),
        canvas=Canvas(size_hw=(384, 512), long_side=512, multiple=64),
        max_views=8,
    ),
    ModelSpec(
        name="flare-small",
        task="small FLARE-like network, trained by this project on procedural scenes: cameras and point maps",
        build="flarecli.model.flare_small:FlareSmall",
        config=SIZES["xs"],
        weights=WeightsSpec(
            filename="flare-small.safetensors",
            hub_repo=None,
            sha256=None,
            size_bytes=9_305_000,
            licence="Apache-2.0",
            commercial=True,
            source="trained by this project from scratch; see weights/README.md",
        ),
        canvas=Canvas(size_hw=None, long_side=192, multiple=8),
        max_views=8,
    ),
    ModelSpec(
        name="flare-test",
        task="tiny untrained network for tests of the program",
        build="flarecli.model.flare:Flare",
        config=_TEST_CONFIG,
        weights=None,
        canvas=Canvas(size_hw=(64, 128), long_side=128, multiple=64),
        max_views=8,
        hidden=True,
    ),
)

MODELS: dict[str, ModelSpec] = {row.name: row for row in _ROWS}


def find_model(name: str) -> ModelSpec:
    """The row of a model.

    Raises:
        InputError: there is none of this name.
    """
    if name not in MODELS:
        known = ", ".join(row.name for row in _ROWS if not row.hidden)
        raise InputError(f"unknown model {name!r}", f"choose one of {known}")
    return MODELS[name]
