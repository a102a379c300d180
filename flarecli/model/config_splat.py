"""Sizes of NoPoSplat and SPFSplat (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SplatConfig:
    """Sizes of a network that regresses Gaussians in the frame of its first view; defaults are the published ones.

    Attributes:
        intrinsics: where the token that holds a view's intrinsics joins its patches: before the encoder, before the
            decoder, or nowhere.
        pose: what the pose heads read: the mean of all patches, a learned token of the decoder, or no pose heads.
        patch_size: side of the square of pixels behind one token.
        enc_dim: width of the encoder.
        enc_depth: blocks of the encoder.
        enc_heads: attention heads of the encoder.
        dec_dim: width of the decoder.
        dec_depth: layers of the decoder.
        dec_heads: attention heads of the decoder.
        mlp_ratio: hidden width of every block's MLP over its width.
        rope_base: base of the rotary frequencies.
        norm_eps: epsilon of every layer norm.
        dpt_hooks: entries of (encoder tokens, layer 1, 2, ...) that the dense heads read; the last is dec_depth.
        dpt_dims: channels of the four levels before they are made equal.
        dpt_dim: channels of the fusion.
        dpt_head_dim: channels of the last convolutions of the point heads.
        views_per_chunk: views that pass a dense head at once; bounds memory, changes nothing else.
    """

    intrinsics: Literal["encoder", "decoder", "none"] = "encoder"
    pose: Literal["pooled", "token", "none"] = "none"
    patch_size: int = 16
    enc_dim: int = 1024
    enc_depth: int = 24
    enc_heads: int = 16
    dec_dim: int = 768
    dec_depth: int = 12
    dec_heads: int = 12
    mlp_ratio: float = 4.0
    rope_base: float = 100.0
    norm_eps: float = 1e-6
    dpt_hooks: tuple[int, int, int, int] = (0, 6, 9, 12)
    dpt_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    dpt_dim: int = 256
    dpt_head_dim: int = 128
    views_per_chunk: int = 2

    def __post_init__(self) -> None:
        hooks = self.dpt_hooks
        if hooks[0] != 0 or hooks[-1] != self.dec_depth or sorted(hooks) != [*hooks]:
            raise ValueError("dense heads read the encoder first and the last decoder layer last")

    @property
    def multiple(self) -> int:
        """Both sides of an image must be multiples of this number of pixels."""
        return self.patch_size
