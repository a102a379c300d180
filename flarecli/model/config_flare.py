"""Sizes of the FLARE networks (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass


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
        appearance_widths: channels of the image pyramid of the novel-view network, fine to coarse.
        appearance_dim: channels of its fused map.
        appearance_depth: blocks over its tokens.
        detail_dim: channels of the detail map that the Gaussian head reads.
        descriptor_dim: channels of the descriptors that the Gaussian head reads.
        gaussian_dim: hidden channels of the Gaussian head.
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
    appearance_widths: tuple[int, int, int] = (8, 16, 32)
    appearance_dim: int = 64
    appearance_depth: int = 4
    detail_dim: int = 16
    descriptor_dim: int = 25
    gaussian_dim: int = 20

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

    def token_grid(self, num_views: int, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tokens of views in landscape storage.

        Raises:
            ValueError: fewer than two views, or sides that are no multiples of ``multiple``.
        """
        height, width = size_hw
        if num_views < 2:
            raise ValueError("FLARE needs at least two views")
        if height % self.multiple or width % self.multiple or height > width:
            raise ValueError(f"views must be landscape with sides that are multiples of {self.multiple}")
        return height // self.patch_size, width // self.patch_size
