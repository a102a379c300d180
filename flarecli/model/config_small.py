"""Sizes of the small network (torch-free)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

Conditioning = Literal["cascade", "coarse", "direct"]


GAUSSIAN_PART = "gaussian_head."
"""How the names of the Gaussian head's weights begin; files from before it have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlareSmallConfig:
    """Numbers that define a :class:`~flarecli.model.flare_small.FlareSmall`.

    Attributes:
        stem: channels after each stride-2 convolution; the patch is 2 to the power of their number, the last is the
            width of the encoder.
        encoder_depth: blocks of the encoder.
        width: channels of the three stages.
        head_width: channels of one attention head, in encoder and stages.
        coarse_pairs: pairs of a per-view and an all-view block in stage 1 (coarse pose).
        local_pairs: the same in stage 2 (camera-centric points, refined pose).
        global_pairs: the same in stage 3 (global points).
        match_width: channels of token descriptors.
        descriptor_width: channels of dense descriptors.
        head_channels: channels of the convolutions of the dense heads.
        pose_trunk: blocks of a pose head.
        pose_iterations: how often a pose head corrects its answer.
        rope_span: rotary positions run over this many units along the long side, whatever the image size.
        conditioning: which poses stages 2 and 3 see and stand on: each the pose found before it (cascade), both the
            coarse one (coarse), or none (direct): points are then regressed in the frame of view 0 from features alone.
        gaussians: whether there is a Gaussian head; weights from before it have none.
        gaussian_detail: channels that its tokens and fine features have at full resolution.
        gaussian_width: channels of its convolutions at full resolution.
    """

    stem: tuple[int, ...]
    encoder_depth: int
    width: int
    head_width: int = 32
    coarse_pairs: int = 3
    local_pairs: int = 2
    global_pairs: int = 1
    match_width: int = 64
    descriptor_width: int = 32
    head_channels: int = 24
    pose_trunk: int = 2
    pose_iterations: int = 3
    rope_span: float = 12.0
    conditioning: Conditioning = "cascade"
    gaussians: bool = False
    gaussian_detail: int = 12
    gaussian_width: int = 32

    def __post_init__(self) -> None:
        if len(self.stem) < 2:
            raise ValueError("the stem needs at least two convolutions")
        if self.conditioning not in get_args(Conditioning):
            raise ValueError(f"conditioning must be one of {', '.join(get_args(Conditioning))}")
        if self.head_width % 4:
            raise ValueError(f"rotary positions need a head width that is a multiple of 4, not {self.head_width}")
        for name, dim in (("stem", self.stem[-1]), ("width", self.width)):
            if dim % self.head_width or dim % 4:
                raise ValueError(f"{name} {dim} is no multiple of the head width {self.head_width}")

    @property
    def encoder_width(self) -> int:
        """Channels of the encoder."""
        return self.stem[-1]

    @property
    def patch(self) -> int:
        """Pixels per token along one side."""
        return 2 ** len(self.stem)

    @property
    def head_stride(self) -> int:
        """Pixels per cell of the dense heads and descriptors."""
        return self.patch // 4

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a weights file."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @staticmethod
    def from_dict(values: Any) -> FlareSmallConfig:
        """Inverse of :meth:`to_dict`, for values that a file of anybody may hold.

        Raises:
            TypeError: no table, or unknown or missing keys.
            ValueError: a value is of another type than it should be, or larger than any network of this kind.
        """
        if not isinstance(values, dict):
            raise TypeError("the sizes must be a table")
        for key, value in values.items():
            if not _sensible(key, value):
                raise ValueError(f"{key} can't be {str(value)[:40]}")
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return FlareSmallConfig(**plain)


_MOST_CHANNELS, _MOST_STRIDES = 4096, 5
_MOST_BLOCKS = {"encoder_depth", "coarse_pairs", "local_pairs", "global_pairs", "pose_trunk", "pose_iterations"}


def _sensible(key: str, value: Any) -> bool:
    """Whether a value of a foreign file has the type of this field and a size that the network can be built with."""
    if key == "stem":
        return isinstance(value, list) and len(value) <= _MOST_STRIDES and all(_sensible("channels", v) for v in value)
    if key in {"conditioning", "gaussians"}:
        return isinstance(value, str if key == "conditioning" else bool)
    if isinstance(value, bool):
        return False
    if key == "rope_span":
        return isinstance(value, int | float) and 0 < value <= _MOST_CHANNELS
    return isinstance(value, int) and 1 <= value <= (64 if key in _MOST_BLOCKS else _MOST_CHANNELS)


SIZES = {
    "tiny": FlareSmallConfig(
        stem=(8, 16, 32),
        encoder_depth=1,
        width=32,
        head_width=16,
        coarse_pairs=1,
        local_pairs=1,
        head_channels=8,
        pose_iterations=2,
        gaussians=True,
        gaussian_detail=4,
        gaussian_width=8,
    ),
    "xs": FlareSmallConfig(stem=(24, 64, 128), encoder_depth=3, width=128, gaussians=True),
    "s": FlareSmallConfig(
        stem=(40, 80, 160, 320),
        encoder_depth=6,
        width=224,
        local_pairs=3,
        global_pairs=2,
        head_channels=64,
        pose_iterations=4,
        gaussians=True,
    ),
}
"""tiny is for tests, xs for training on a CPU, s for a GPU; each also as -coarse and -direct, to compare with."""

for _name, _config in tuple(SIZES.items()):
    SIZES |= {f"{_name}-coarse": replace(_config, conditioning="coarse")}
    SIZES |= {f"{_name}-direct": replace(_config, conditioning="direct")}
