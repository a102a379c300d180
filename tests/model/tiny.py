"""Sizes of the network that the tests build."""

from __future__ import annotations

from typing import cast

from flarecli.model.config import MODELS, FlareConfig

CONFIG = cast("FlareConfig", MODELS["flare-test"].config)
