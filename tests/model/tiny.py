"""Sizes of the network that the tests build."""

from __future__ import annotations

from typing import cast

from flarecli.model.config import MODELS
from flarecli.model.config_flare import FlareConfig
from flarecli.model.config_splat import SplatConfig

CONFIG = cast("FlareConfig", MODELS["flare-test"].config)

SPLAT_CONFIG = SplatConfig(
    enc_dim=32,
    enc_depth=2,
    enc_heads=2,
    dec_dim=32,
    dec_depth=3,
    dec_heads=2,
    dpt_hooks=(0, 1, 2, 3),
    dpt_dims=(8, 8, 16, 16),
    dpt_dim=16,
    dpt_head_dim=8,
)
