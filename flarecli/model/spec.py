"""What one row of the table of models says: network, weights, licence, image size, views (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flarecli.model.config_flare import FlareConfig
from flarecli.model.config_small import FlareSmallConfig
from flarecli.model.config_splat import SplatConfig
from flarecli.model.keys import OWN_KEYS, KeyMap


@dataclass(frozen=True)
class Canvas:
    """Which image size a network takes; landscape storage.

    Attributes:
        size_hw: the one size it was trained for, or None where any size works.
        long_side: recommended long side in pixels.
        multiple: both sides must be multiples of this.
    """

    size_hw: tuple[int, int] | None
    long_side: int
    multiple: int


@dataclass(frozen=True)
class WeightsSpec:
    """One published or shipped weights file.

    Attributes:
        filename: name in the hub repository, in a checkout's ``weights/`` and in the user's cache.
        hub_repo: repository on the Hugging Face hub, or None for a file that ships with flarecli.
        sha256: known checksum of the file, or None where none is published; the hub's own checksum then counts.
        size_bytes: size of the file; only a guide where sha256 is None.
        licence: its name.
        commercial: whether the licence allows commercial use.
        source: where the weights come from, for credits.
        keys: how its parameter names become ours, and in what it may differ from the network.
    """

    filename: str
    hub_repo: str | None
    sha256: str | None
    size_bytes: int
    licence: str
    commercial: bool
    source: str
    keys: KeyMap = OWN_KEYS


@dataclass(frozen=True)
class ModelSpec:
    """One row of the table of models.

    Attributes:
        name: what the user types.
        task: one line for lists.
        build: "module:Class" of the network, which is called with the config.
        config: sizes of the network.
        weights: its weights; None means random weights of a fixed seed (for tests of the program).
        canvas: image size.
        max_views: most views that one forward pass is meant for.
        min_views: fewest views that the weights were trained for.
        takes_intrinsics: whether the network reads the intrinsics of its views.
        pose_head: whether the network predicts poses; those of others come from PnP on the centres of its Gaussians.
        own_gaussians: whether the network predicts Gaussians with a depth of their own, rather than on the rays of its
            point maps or none.
        precision: what the weights were trained and published for: float32, or bfloat16 where the device has it.
        hidden: whether lists leave it out.
    """

    name: str
    task: str
    build: str
    config: FlareConfig | FlareSmallConfig | SplatConfig
    weights: WeightsSpec | None
    canvas: Canvas
    max_views: int
    min_views: int = 2
    takes_intrinsics: bool = False
    pose_head: bool = True
    own_gaussians: bool = False
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    hidden: bool = False
