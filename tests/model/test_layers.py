"""The transformer blocks against torch's own modules and against what they must be invariant to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from flarecli.model.layers import (
    AttnBlock,
    CrossBlock,
    EncBlock,
    Mlp,
    PackedAttention,
    PairBlock,
    SelfAttention,
    SelfBlock,
    grid_positions,
    rotary,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_grid_positions_are_row_major() -> None:
    assert grid_positions(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_rotary_turns_pairs_by_position_times_frequency() -> None:
    tokens = torch.zeros(1, 1, 1, 16)
    tokens[..., 1] = 1.0  # frequency 1 of the row half
    tokens[..., 8] = 1.0  # frequency 0 of the column half
    turned = rotary(torch.tensor([[[3, 5]]]), 16, base=100.0)(tokens)[0, 0, 0]
    row_angle, column_angle = 3 * 100.0 ** (-2 / 8), 5.0
    assert turned[1] == pytest.approx(math.cos(row_angle), abs=1e-6)
    assert turned[5] == pytest.approx(math.sin(row_angle), abs=1e-6)
    assert turned[8] == pytest.approx(math.cos(column_angle), abs=1e-6)
    assert turned[12] == pytest.approx(math.sin(column_angle), abs=1e-6)
    assert turned.norm() == pytest.approx(math.sqrt(2), abs=1e-6)


def test_rotary_scores_depend_on_the_offset_alone() -> None:
    query, key = torch.randn(2, 1, 1, 1, 32)

    def score(at: tuple[int, int], offset: tuple[int, int]) -> float:
        there = (at[0] + offset[0], at[1] + offset[1])
        rope_q, rope_k = (rotary(torch.tensor([[position]]), 32) for position in (at, there))
        return float((rope_q(query) * rope_k(key)).sum())

    assert score((0, 0), (2, 3)) == pytest.approx(score((7, 5), (2, 3)), abs=1e-5)
    assert score((0, 0), (2, 3)) != pytest.approx(score((0, 0), (3, 2)), abs=1e-3)


def test_rotary_keeps_the_dtype_of_the_tokens() -> None:
    assert rotary(grid_positions(2, 2)[None], 8)(torch.randn(1, 2, 4, 8).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(("dim", "heads"), [(10, 3)])
def test_heads_must_divide_the_width(dim: int, heads: int) -> None:
    with pytest.raises(ValueError, match="10 channels"):
        SelfAttention(dim, heads)


def test_rotary_needs_a_multiple_of_four() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        rotary(torch.zeros(1, 1, 2, dtype=torch.int64), 6)


def test_packed_attention_is_torchs_multi_head_attention() -> None:
    ours, theirs = PackedAttention(24, 4), nn.MultiheadAttention(24, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 7, 24)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0], atol=1e-6, rtol=1e-5)


def test_self_attention_without_positions_is_torchs_multi_head_attention() -> None:
    ours, theirs = SelfAttention(24, 4), nn.MultiheadAttention(24, 4, batch_first=True)
    state = ours.state_dict()
    theirs.load_state_dict(
        {
            "in_proj_weight": state["qkv.weight"],
            "in_proj_bias": state["qkv.bias"],
            "out_proj.weight": state["proj.weight"],
            "out_proj.bias": state["proj.bias"],
        }
    )
    x = torch.randn(2, 7, 24)
    torch.testing.assert_close(ours(x, None), theirs(x, x, x, need_weights=False)[0], atol=1e-6, rtol=1e-5)


def test_attn_block_forgets_the_scale_and_offset_of_its_input() -> None:
    block, x = AttnBlock(16, 2), torch.randn(1, 5, 16)
    torch.testing.assert_close(block(x), block(3 * x + 7), atol=1e-4, rtol=1e-4)


def test_blocks_pass_their_input_through_when_their_outputs_are_zero() -> None:
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    rope, memory_rope = rotary(torch.randint(9, (1, 5, 2)), 8), rotary(torch.randint(9, (1, 3, 2)), 8)
    for block in (EncBlock(16, 2), SelfBlock(16, 2), CrossBlock(16, 2), PairBlock(16, 2)):
        assert not torch.equal(_call(block, x, memory, rope, memory_rope), x)
        for name, parameter in block.named_parameters():
            if name.split(".")[-2] in {"proj", "fc2"}:
                nn.init.zeros_(parameter)
        torch.testing.assert_close(_call(block, x, memory, rope, memory_rope), x)


def test_only_cross_blocks_ignore_their_own_neighbours() -> None:
    x, memory = torch.randn(1, 5, 16), torch.randn(1, 3, 16)
    changed = x.clone()
    changed[:, 1:] = torch.randn(1, 4, 16)
    for block, reads_neighbours in ((CrossBlock(16, 2), False), (PairBlock(16, 2), True), (SelfBlock(16, 2), True)):
        before, after = (_call(block, tokens, memory, None, None)[:, 0] for tokens in (x, changed))
        assert torch.allclose(before, after, atol=1e-6) is not reads_neighbours


def test_mlp_is_exact_gelu_between_linear_layers() -> None:
    mlp = Mlp(1, 1)
    with torch.no_grad():
        for parameter, value in zip(mlp.parameters(), (2.0, 0.5, 3.0, -1.0), strict=True):
            parameter.fill_(value)
    inner = 2.0 * 0.3 + 0.5
    expected = 3.0 * inner * 0.5 * (1 + math.erf(inner / math.sqrt(2))) - 1.0
    assert mlp(torch.tensor([0.3])).item() == pytest.approx(expected, abs=1e-6)


def _call(block: nn.Module, x: torch.Tensor, memory: torch.Tensor, rope: object, memory_rope: object) -> torch.Tensor:
    return block(x, memory, rope, memory_rope) if isinstance(block, CrossBlock | PairBlock) else block(x, rope)
