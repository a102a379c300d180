"""Transformer blocks shared by every network: MLP, rotary attention and the five block types of FLARE.

All blocks work on tokens of shape (B, L, C), hold no state besides their parameters, and never ask which network they
are part of. Parameter names inside a block are those of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


def spread(tensor: Tensor, deviation: float) -> Tensor:
    """Fill with random values around zero, in place; uniform, of this standard deviation.

    Normal ones would do as well, but on the meta device, where networks are built before their weights are read, torch
    makes those with its compiler and takes a second to import it.
    """
    return nn.init.uniform_(tensor, -(3**0.5) * deviation, 3**0.5 * deviation)


@dataclass(frozen=True, slots=True, eq=False)
class Rotary:
    """Cosines and sines of one set of token positions, computed once and shared by every block that sees these tokens.

    Attributes:
        cos: axes are batch (1 where all sequences share positions), heads (1), tokens, channels of a head.
        sin: the same, negative where the partner is subtracted.
    """

    cos: Float[Tensor, "b 1 L D"]
    sin: Float[Tensor, "b 1 L D"]

    def __call__(self, tokens: Float[Tensor, "B heads L D"]) -> Float[Tensor, "B heads L D"]:
        """Rotate the head vectors of queries or keys; the result keeps their dtype."""
        # Whole heads at a time: four times as fast on CPU as rotating the quarters and stacking them.
        row, row_partner, column, column_partner = tokens.chunk(4, dim=-1)
        partners = torch.cat([row_partner, row, column_partner, column], dim=-1)
        return (tokens * self.cos + partners * self.sin).to(tokens.dtype)


def rotary(positions: Int[Tensor, "b L 2"], head_dim: int, base: float = 100.0) -> Rotary:
    """Tables of the two-dimensional rotary embedding.

    The first half of a head turns with the row, the second with the column.

    Args:
        positions: integer (row, column) of each token; b is 1 where all sequences share them.
        head_dim: channels of one head, a multiple of 4.
        base: frequency j of a half with d channels is ``base ** (-2 j / d)``.

    Returns:
        Tables in float32; products with bfloat16 tokens are formed in float32.

    Raises:
        ValueError: the head can't be split in four.

    Source: Su et al., RoFormer, arXiv 2104.09864, equation 34, once per image axis.
    """
    if head_dim % 4:
        raise ValueError(f"rotary embedding needs a head width that is a multiple of 4, not {head_dim}")
    quarter = head_dim // 4
    exponents = torch.arange(quarter, device=positions.device, dtype=torch.float32) / quarter
    row, column = (positions.to(torch.float32)[:, None, :, :, None] * base**-exponents).unbind(-2)
    cos = torch.cat([row.cos(), row.cos(), column.cos(), column.cos()], dim=-1)
    sin = torch.cat([-row.sin(), row.sin(), -column.sin(), column.sin()], dim=-1)
    return Rotary(cos, sin)


def grid_positions(height: int, width: int, device: torch.device | None = None) -> Int[Tensor, "L 2"]:
    """(row, column) of every cell of a grid in row-major order."""
    return torch.cartesian_prod(torch.arange(height, device=device), torch.arange(width, device=device))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden_dim: int, out_dim: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim if out_dim is None else out_dim)

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... O"]:
        """Transform each token on its own."""
        return self.fc2(functional.gelu(self.fc1(x)))


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    if query.device.type == "cpu" and torch.is_grad_enabled():
        # Training only: the backward of torch's fused CPU kernel takes longer than the written-out form.
        scores = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
        return (scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)
    return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one packed projection; queries and keys are rotated."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        _check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "B L C"], rope: Rotary | None) -> Float[Tensor, "B L C"]:
        """Attend among all tokens of a sequence; no rotation where ``rope`` is None."""
        query, key, value = (_split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        if rope is not None:
            query, key = rope(query), rope(key)
        return self.proj(_attend(query, key, value))


class CrossAttention(nn.Module):
    """Multi-head attention of one sequence to another; queries and keys are rotated by their own positions."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        _check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.projq = nn.Linear(dim, dim)
        self.projk = nn.Linear(dim, dim)
        self.projv = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "B L C"], memory: Float[Tensor, "B M C"], rope: Rotary | None, memory_rope: Rotary | None
    ) -> Float[Tensor, "B L C"]:
        """Attend from ``x`` to ``memory``."""
        query = _split_heads(self.projq(x), self.num_heads)
        key = _split_heads(self.projk(memory), self.num_heads)
        value = _split_heads(self.projv(memory), self.num_heads)
        if rope is not None:
            query = rope(query)
        if memory_rope is not None:
            key = memory_rope(key)
        return self.proj(_attend(query, key, value))


class PackedAttention(nn.Module):
    """Self-attention without positions; the projection is one bare matrix, named as in torch's own module."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        _check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        """Attend among all tokens of a sequence."""
        packed = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        return self.out_proj(_attend(*(_split_heads(part, self.num_heads) for part in packed.chunk(3, dim=-1))))


class EncBlock(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Float[Tensor, "B L C"], rope: Rotary | None) -> Float[Tensor, "B L C"]:
        """Update the tokens."""
        x = x + self.attn(self.norm1(x), rope)
        return x + self.mlp(self.norm2(x))


class SelfBlock(nn.Module):
    """The same computation as :class:`EncBlock`; the decoders of FLARE call its second norm ``norm3``."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = SelfAttention(dim, num_heads)
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Float[Tensor, "B L C"], rope: Rotary | None) -> Float[Tensor, "B L C"]:
        """Update the tokens."""
        x = x + self.attn(self.norm1(x), rope)
        return x + self.mlp(self.norm3(x))


class CrossBlock(nn.Module):
    """Pre-norm cross-attention and MLP, without self-attention."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm_y = nn.LayerNorm(dim, eps=eps)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self, x: Float[Tensor, "B L C"], memory: Float[Tensor, "B M C"], rope: Rotary | None, memory_rope: Rotary | None
    ) -> Float[Tensor, "B L C"]:
        """Update ``x`` by what it reads in ``memory``, which stays as it is."""
        x = x + self.cross_attn(self.norm2(x), self.norm_y(memory), rope, memory_rope)
        return x + self.mlp(self.norm3(x))


class PairBlock(nn.Module):
    """Pre-norm self-attention, cross-attention and MLP."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = SelfAttention(dim, num_heads)
        self.norm_y = nn.LayerNorm(dim, eps=eps)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self, x: Float[Tensor, "B L C"], memory: Float[Tensor, "B M C"], rope: Rotary | None, memory_rope: Rotary | None
    ) -> Float[Tensor, "B L C"]:
        """Update ``x`` among its own tokens, then by what it reads in ``memory``, which stays as it is."""
        x = x + self.attn(self.norm1(x), rope)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(memory), rope, memory_rope)
        return x + self.mlp(self.norm3(x))


class AttnBlock(nn.Module):
    """Self-attention without positions whose residual stream is the normalised input, not the input itself.

    The norms have no parameters. Callers that want a residual add the output to what they passed in.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.attn = PackedAttention(dim, num_heads)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        """New tokens; the scale of the input is forgotten."""
        x = self.norm(x)
        x = x + self.attn(x)
        return x + self.mlp(self.norm(x))


def _check_heads(dim: int, num_heads: int) -> None:
    if dim % num_heads:
        raise ValueError(f"{dim} channels can't be split into {num_heads} heads")
