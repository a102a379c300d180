"""Sizes of the networks and the table of all models; readable without torch."""

from __future__ import annotations

from dataclasses import dataclass

from flarecli.errors import InputError
from flarecli.model.config_small import SIZES, FlareSmallConfig
from flarecli.model.flare_keys import FLARE_KEYS
from flarecli.model.keys import KeyRule


@dataclass(frozen=True)
class FlareConfig:
    """Sizes of the FLARE geometry network; the defaults are those of the published weights.

    Attributes:
        patch_size: side of the square of pixels behind one token.
        coarse_stride: side of the square of tokens behind one coarse token.
        enc_dim: width of the encoder.
        enc_depth: blocks of the encoder.
        enc_heads: attention heads of the encoder.
        dec_dim: width of the three decoder stages.
        dec_depth: layers of each decoder stage.
        dec_heads: attention heads of the decoder stages.
        mlp_ratio: hidden width of every block's MLP over its width.
        rope_base: base of the rotary frequencies.
        norm_eps: epsilon of every layer norm.
        tap_blocks: encoder blocks whose inputs are added to the decoders.
        inject_layers: decoder layers after which they are added.
        pose_heads: attention heads of the pose head.
        pose_depth: blocks of the pose head.
        pose_iterations: refinements of one pose head.
        pose_octaves: frequencies of its harmonic embedding.
        dpt_hooks: entries of (encoder tokens, layer 1, 2, ...) that the dense heads read; the last is dec_depth.
        dpt_dims: channels of the four levels before they are made equal.
        dpt_dim: channels of the fusion.
        dpt_head_dim: channels of the last convolutions.
        views_per_chunk: views that pass a dense head at once; bounds memory, changes nothing else.
    """

    patch_size: int = 16
    coarse_stride: int = 4
    enc_dim: int = 1024
    enc_depth: int = 24
    enc_heads: int = 16
    dec_dim: int = 768
    dec_depth: int = 12
    dec_heads: int = 12
    mlp_ratio: float = 4.0
    rope_base: float = 100.0
    norm_eps: float = 1e-6
    tap_blocks: tuple[int, ...] = (4, 10, 16)
    inject_layers: tuple[int, ...] = (2, 5, 8)
    pose_heads: int = 8
    pose_depth: int = 4
    pose_iterations: int = 4
    pose_octaves: int = 42
    dpt_hooks: tuple[int, int, int, int] = (0, 6, 9, 12)
    dpt_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    dpt_dim: int = 256
    dpt_head_dim: int = 128
    views_per_chunk: int = 2

    def __post_init__(self) -> None:
        if len(self.tap_blocks) != len(self.inject_layers):
            raise ValueError("every tapped encoder block needs one decoder layer")
        if max(self.tap_blocks, default=0) >= self.enc_depth or max(self.inject_layers, default=0) >= self.dec_depth:
            raise ValueError("tapped blocks and injected layers must exist")
        if (
            self.dpt_hooks[0] != 0
            or self.dpt_hooks[-1] != self.dec_depth
            or sorted(self.dpt_hooks) != [*self.dpt_hooks]
        ):
            raise ValueError("dense heads read the encoder first and the last decoder layer last")

    @property
    def multiple(self) -> int:
        """Both sides of an image must be multiples of this number of pixels."""
        return self.patch_size * self.coarse_stride


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
        key_rules: how its parameter names become ours; names that no rule matches must be ours already.
    """

    filename: str
    hub_repo: str | None
    sha256: str | None
    size_bytes: int
    licence: str
    commercial: bool
    source: str
    key_rules: tuple[KeyRule, ...] = ()


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
        hidden: whether lists leave it out.
    """

    name: str
    task: str
    build: str
    config: FlareConfig | FlareSmallConfig
    weights: WeightsSpec | None
    canvas: Canvas
    max_views: int
    hidden: bool = False


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
