r"""From the parameter names of published dense heads to ours.

Two names of every head (``scratch.layer1_rn`` and ``scratch.layer_rn.0``) are one tensor in the published networks, so
two rules lead to the same target.
"""

from __future__ import annotations

from flarecli.model.keys import KeyRule


def trunk_rules(theirs: str, ours: str) -> tuple[KeyRule, ...]:
    """Rules of what all dense heads share.

    Args:
        theirs: regular expression, without groups, of the published head; a dot and ``dpt`` follow.
        ours: name of our head.
    """
    dpt = rf"{theirs}\.dpt"
    unit = r"\.resConfUnit2\.(.+)"
    skip = r"\.resConfUnit1\.(.+)"
    rows = [
        KeyRule(rf"{dpt}\.scratch\.refinenet4{skip}", None, "the coarsest fusion has nothing to fuse with"),
        KeyRule(rf"{dpt}\.act_postprocess\.(.+)", rf"{ours}.reassemble.\1"),
        KeyRule(rf"{dpt}\.scratch\.layer_rn\.(\d+)\.weight", rf"{ours}.project.\1.weight"),
    ]
    for level in range(4):
        fusion = rf"{dpt}\.scratch\.refinenet{level + 1}"
        rows += [
            KeyRule(rf"{dpt}\.scratch\.layer{level + 1}_rn\.weight", f"{ours}.project.{level}.weight"),
            KeyRule(rf"{fusion}{skip}", rf"{ours}.fusions.{level}.skip_unit.\1"),
            KeyRule(rf"{fusion}{unit}", rf"{ours}.fusions.{level}.unit.\1"),
            KeyRule(rf"{fusion}\.out_conv\.(\w+)", rf"{ours}.fusions.{level}.out.\1"),
        ]
    return tuple(rows)


def point_head_rules(theirs: str, ours: str) -> tuple[KeyRule, ...]:
    """Rules of a head that regresses points; arguments as for :func:`trunk_rules`."""
    return (
        *trunk_rules(theirs, ours),
        KeyRule(rf"{theirs}\.dpt\.head\.0\.(\w+)", rf"{ours}.head_in.\1"),
        KeyRule(rf"{theirs}\.dpt\.head\.2\.(\w+)", rf"{ours}.head_mid.\1"),
        KeyRule(rf"{theirs}\.dpt\.head\.4\.(\w+)", rf"{ours}.head_out.\1"),
    )


def gaussian_head_rules(theirs: str, ours: str) -> tuple[KeyRule, ...]:
    """Rules of a head that regresses Gaussian parameters; arguments as for :func:`trunk_rules`."""
    return (
        *trunk_rules(theirs, ours),
        KeyRule(rf"{theirs}\.dpt\.input_merger\.0\.(\w+)", rf"{ours}.colour.\1"),
        KeyRule(rf"{theirs}\.dpt\.head\.0\.weight", f"{ours}.head_in.weight"),
        KeyRule(rf"{theirs}\.dpt\.head\.4\.(\w+)", rf"{ours}.head_out.\1"),
    )
