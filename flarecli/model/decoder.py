"""The three decoder stages of FLARE: camera tokens, camera-centric geometry, global geometry.

Source: Zhang et al., FLARE, CVPR 2025, sections 3.2 (neural pose predictor), 3.3 (two-stage geometry).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from flarecli.model.config_flare import FlareConfig
from flarecli.model.encoder import Encoded
from flarecli.model.layers import AttnBlock, CrossBlock, PairBlock, SelfBlock, spread


class CameraExchange(nn.Module):
    """Lets the camera token of a view and its image tokens read each other."""

    def __init__(self, config: FlareConfig, *, updates_tokens: bool = True) -> None:
        super().__init__()
        self.block = AttnBlock(config.dec_dim, config.dec_heads, config.mlp_ratio, config.norm_eps)
        self.embed = nn.Linear(config.dec_dim, config.dec_dim, bias=False) if updates_tokens else None

    def forward(
        self, cameras: Float[Tensor, "B V C"], tokens: Float[Tensor, "B V L C"]
    ) -> tuple[Float[Tensor, "B V C"], Float[Tensor, "B V L C"]]:
        """Updated camera tokens and image tokens."""
        joined = torch.cat([cameras[:, :, None], tokens], dim=2)
        mixed = self.block(joined.flatten(0, 1)).unflatten(0, cameras.shape[:2])
        cameras = cameras + mixed[:, :, 0]
        return cameras, tokens if self.embed is None else tokens + self.embed(mixed[:, :, 1:])


class Injection(nn.Module):
    """Adds inner features of the encoder to the tokens of a decoder."""

    def __init__(self, config: FlareConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.enc_dim, eps=config.norm_eps)
        self.linear = nn.Linear(config.enc_dim, config.dec_dim, bias=False)

    def forward(self, tokens: Float[Tensor, "B V L C"], features: Float[Tensor, "B V L E"]) -> Float[Tensor, "B V L C"]:
        """The tokens with the features added."""
        return tokens + self.linear(self.norm(features))


class _Stage(nn.Module):
    """What the stages share: the projection of the encoder's tokens and one camera token per view.

    The camera token of the reference view is learned apart; all source views start from the same one.
    """

    def __init__(self, config: FlareConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.enc_dim, config.dec_dim)
        self.reference_token = nn.Parameter(spread(torch.empty(1, 1, config.dec_dim), 0.02))
        self.source_token = nn.Parameter(spread(torch.empty(1, 1, config.dec_dim), 0.02))

    def _camera_tokens(self, batch: int, num_views: int) -> Float[Tensor, "B V C"]:
        sources = self.source_token.expand(batch, num_views - 1, -1)
        return torch.cat([self.reference_token.expand(batch, -1, -1), sources], dim=1)

    def _inject(self, injections: nn.ModuleList, layer: int, tokens: Tensor, encoded: Encoded) -> Tensor:
        if layer not in self.config.inject_layers:
            return tokens
        index = self.config.inject_layers.index(layer)
        return injections[index](tokens, encoded.taps[index])

    @property
    def _head_dim(self) -> int:
        return self.config.dec_dim // self.config.dec_heads


class PoseStage(_Stage):
    """Stage 1: camera tokens from coarse tokens; the reference view and the source views have weights of their own."""

    def __init__(self, config: FlareConfig) -> None:
        super().__init__(config)
        dim, heads, ratio, eps = config.dec_dim, config.dec_heads, config.mlp_ratio, config.norm_eps
        layers = range(config.dec_depth)
        self.reference_blocks = nn.ModuleList(PairBlock(dim, heads, ratio, eps) for _ in layers)
        self.source_blocks = nn.ModuleList(PairBlock(dim, heads, ratio, eps) for _ in layers)
        self.exchanges = nn.ModuleList(
            CameraExchange(config, updates_tokens=layer < config.dec_depth - 1) for layer in layers
        )
        self.camera_norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, encoded: Encoded) -> Float[Tensor, "B V C"]:
        """One token per view that holds what is known of its camera."""
        x = self.embed(encoded.coarse)
        batch, num_views, length, _ = x.shape
        rope_options = (self._head_dim, self.config.rope_base)
        rope = encoded.coarse_grid.joint(slice(0, 1), *rope_options)
        source_rope = encoded.coarse_grid.joint(slice(1, None), *rope_options)
        cameras = self._camera_tokens(batch, num_views)
        blocks = zip(self.reference_blocks, self.source_blocks, self.exchanges, strict=True)
        for reference_block, source_block, exchange in blocks:
            reference, sources = x[:, 0], x[:, 1:].flatten(1, 2)
            new_reference = reference_block(reference, sources, rope, source_rope)
            new_sources = source_block(sources, reference, source_rope, rope).unflatten(1, (num_views - 1, length))
            cameras, x = exchange(cameras, torch.cat([new_reference[:, None], new_sources], dim=1))
        return self.camera_norm(cameras)


class LocalStage(_Stage):
    """Stage 2: geometry of each view in its own frame; all views attend to each other, guided by coarse poses."""

    def __init__(self, config: FlareConfig) -> None:
        super().__init__(config)
        dim, eps, layers = config.dec_dim, config.norm_eps, range(config.dec_depth)
        # Shift, scale and a gate; the published network computes the gate and never uses it.
        self.modulations = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in layers)
        self.blocks = nn.ModuleList(SelfBlock(dim, config.dec_heads, config.mlp_ratio, eps) for _ in layers)
        self.exchanges = nn.ModuleList(CameraExchange(config) for _ in layers)
        self.injections = nn.ModuleList(Injection(config) for _ in config.inject_layers)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.camera_norm = nn.LayerNorm(dim, eps=eps)

    def forward(
        self, encoded: Encoded, pose_embedding: Float[Tensor, "B V C"]
    ) -> tuple[list[Float[Tensor, "B V L C"]], Float[Tensor, "B V C"]]:
        """The tokens after every layer (the last ones normalised) and the camera tokens."""
        x = self.embed(encoded.tokens)
        batch, num_views, length, _ = x.shape
        rope = encoded.grid.joint(slice(None), self._head_dim, self.config.rope_base)
        cameras = self._camera_tokens(batch, num_views)
        condition = functional.silu(pose_embedding)
        outputs = []
        blocks = zip(self.modulations, self.blocks, self.exchanges, strict=True)
        for layer, (modulation, block, exchange) in enumerate(blocks):
            shift, scale, _ = modulation(condition).chunk(3, dim=-1)
            cameras = cameras * (1 + scale) + shift
            x = block(x.flatten(1, 2), rope).unflatten(1, (num_views, length))
            cameras, x = exchange(cameras, x)
            x = self._inject(self.injections, layer, x, encoded)
            outputs.append(x)
        outputs[-1] = self.norm(x)
        return outputs, self.camera_norm(cameras)


class GlobalStage(_Stage):
    """Stage 3: geometry of all views in the frame of the reference view, from the local geometry and refined poses."""

    def __init__(self, config: FlareConfig) -> None:
        super().__init__(config)
        dim, heads, ratio, eps = config.dec_dim, config.dec_heads, config.mlp_ratio, config.norm_eps
        layers = range(config.dec_depth)
        self.memory_biases = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in layers)
        self.cross_blocks = nn.ModuleList(CrossBlock(dim, heads, ratio, eps) for _ in layers)
        self.blocks = nn.ModuleList(SelfBlock(dim, heads, ratio, eps) for _ in layers)
        self.exchanges = nn.ModuleList(CameraExchange(config) for _ in layers)
        self.injections = nn.ModuleList(Injection(config) for _ in config.inject_layers)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(
        self,
        encoded: Encoded,
        local: list[Float[Tensor, "B V L C"]],
        pose_embedding: Float[Tensor, "B V C"],
        appearance: Float[Tensor, "B V L C"] | None = None,
    ) -> list[Float[Tensor, "B V L C"]]:
        """The tokens after every layer, the last ones normalised.

        Args:
            encoded: output of the encoder.
            local: output of stage 2, layer by layer the memory of the layers here.
            pose_embedding: embedded poses of the views.
            appearance: added to the embedded tokens at the start.
        """
        x = self.embed(encoded.tokens)
        if appearance is not None:
            x = x + appearance
        batch, num_views, length, _ = x.shape
        rope_options = (self._head_dim, self.config.rope_base)
        view_rope = encoded.grid.each_view(batch, *rope_options)
        rope = encoded.grid.joint(slice(None), *rope_options)
        cameras = self._camera_tokens(batch, num_views) + pose_embedding
        outputs = []
        blocks = zip(self.memory_biases, self.cross_blocks, self.blocks, self.exchanges, strict=True)
        for layer, (memory_bias, cross_block, block, exchange) in enumerate(blocks):
            memory = local[layer] + memory_bias(cameras)[:, :, None]
            x = cross_block(x.flatten(0, 1), memory.flatten(0, 1), view_rope, view_rope)
            x = block(x.unflatten(0, (batch, num_views)).flatten(1, 2), rope).unflatten(1, (num_views, length))
            cameras, x = exchange(cameras, x)
            x = self._inject(self.injections, layer, x, encoded)
            outputs.append(x)
        outputs[-1] = self.norm(x)
        return outputs
