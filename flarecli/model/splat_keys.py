"""From the parameter names of the published NoPoSplat and SPFSplat checkpoints to ours.

All names begin with ``encoder.`` in the training checkpoints; the evaluation programs strip it.
"""

from __future__ import annotations

from dataclasses import replace

from flarecli.model.dpt_keys import gaussian_head_rules, point_head_rules
from flarecli.model.keys import KeyMap, KeyRule

_PREFIX = r"(?:encoder\.)?"
_BACKBONE = rf"{_PREFIX}backbone\."

_ENCODER_AND_HEADS = (
    KeyRule(rf"{_BACKBONE}mask_token", None, "left over from masked pre-training"),
    KeyRule(rf"{_BACKBONE}patch_embed\.proj\.(\w+)", r"trunk.patch_embed.\1"),
    KeyRule(rf"{_BACKBONE}enc_blocks\.(.+)", r"trunk.encoder_blocks.\1"),
    KeyRule(rf"{_BACKBONE}enc_norm\.(\w+)", r"trunk.encoder_norm.\1"),
    KeyRule(rf"{_BACKBONE}decoder_embed\.(\w+)", r"trunk.decoder_embed.\1"),
    KeyRule(rf"{_BACKBONE}dec_blocks\.(.+)", r"trunk.reference_blocks.\1"),
    KeyRule(rf"{_BACKBONE}dec_blocks2\.(.+)", r"trunk.source_blocks.\1"),
    KeyRule(rf"{_BACKBONE}dec_norm\.(\w+)", r"trunk.decoder_norm.\1"),
    *point_head_rules(rf"{_PREFIX}downstream_head1", "heads.point_heads.0"),
    *point_head_rules(rf"{_PREFIX}downstream_head2", "heads.point_heads.1"),
    *gaussian_head_rules(rf"{_PREFIX}gaussian_param_head", "heads.gaussian_heads.0"),
    *gaussian_head_rules(rf"{_PREFIX}gaussian_param_head2", "heads.gaussian_heads.1"),
)

_INTRINSICS = KeyRule(rf"{_BACKBONE}intrinsic_encoder\.(\w+)", r"trunk.intrinsics_embed.\1")


def _pose_head(theirs: str, ours: str) -> tuple[KeyRule, ...]:
    return (
        KeyRule(rf"{_PREFIX}{theirs}\.(max_scale|min_scale)", None, "bounds that the published pose head never reads"),
        KeyRule(rf"{_PREFIX}{theirs}\.(max_inv_scale|h_beta|min_inv_scale)", rf"{ours}.\1"),
        KeyRule(rf"{_PREFIX}{theirs}\.more_mlps\.(\d)\.(\w+)", rf"{ours}.mlp.\1.\2"),
        KeyRule(rf"{_PREFIX}{theirs}\.fc_t\.(\w+)", rf"{ours}.translation.\1"),
        KeyRule(rf"{_PREFIX}{theirs}\.fc_rot\.(\w+)", rf"{ours}.rotation.\1"),
    )


_POSE_HEADS = (*_pose_head("pose_head", "pose_heads.0"), *_pose_head("pose_head2", "pose_heads.1"))

NOPOSPLAT_KEYS: tuple[KeyRule, ...] = (*_ENCODER_AND_HEADS, _INTRINSICS)

SPFSPLAT_KEYS: tuple[KeyRule, ...] = (*NOPOSPLAT_KEYS, *_POSE_HEADS)

SPFSPLAT_NO_INTRINSICS_KEYS: tuple[KeyRule, ...] = (
    *_ENCODER_AND_HEADS,
    KeyRule(_INTRINSICS.pattern, None, "stored, but the checkpoint was trained without an intrinsics token"),
    *_POSE_HEADS,
)

SPFSPLAT_V2_KEYS: tuple[KeyRule, ...] = (
    *SPFSPLAT_KEYS,
    KeyRule(rf"{_BACKBONE}pose_token", "trunk.pose_token"),
)

# The published program of NoPoSplat loads strictly what begins with this prefix, that of SPFSplat takes more.
NOPOSPLAT_MAP = KeyMap(NOPOSPLAT_KEYS, prefix="encoder.")
SPFSPLAT_MAP = KeyMap(SPFSPLAT_KEYS, prefix="encoder.", extra_names=True)
SPFSPLAT_NO_INTRINSICS_MAP = replace(SPFSPLAT_MAP, rules=SPFSPLAT_NO_INTRINSICS_KEYS)
SPFSPLAT_V2_MAP = replace(SPFSPLAT_MAP, rules=SPFSPLAT_V2_KEYS)
