"""From the parameter names of the published FLARE novel-view checkpoint to ours."""

from __future__ import annotations

from dataclasses import replace

from flarecli.model.dpt_keys import point_head_rules
from flarecli.model.flare_keys import (
    ENCODER_RULES,
    FLARE_MAP,
    GLOBAL_STAGE_RULES,
    LOCAL_STAGE_RULES,
    POSE_STAGE_RULES,
    UNUSED_RULES,
    pose_head_rules,
)
from flarecli.model.keys import KeyRule

_APPEARANCE = (
    KeyRule(r"cnn_wobn\.conv(\d)\.0\.conv\.weight", r"appearance.maps.levels.\1.0.weight"),
    KeyRule(r"cnn_wobn\.conv(\d)\.1\.conv\.weight", r"appearance.maps.levels.\1.2.weight"),
    KeyRule(r"cnn_wobn\.toplayer\.(\w+)", r"appearance.maps.lateral.2.\1"),
    KeyRule(r"cnn_wobn\.lat(\d)\.(\w+)", r"appearance.maps.lateral.\1.\2"),
    KeyRule(r"cnn_wobn\.smooth(\d)\.(\w+)", r"appearance.maps.smooth.\1.\2"),
    KeyRule(r"cnn_fusion\.(\w+)", r"appearance.maps.fuse.\1"),
    KeyRule(r"cnn_proj\.(\w+)", r"appearance.maps.detail.\1"),
    KeyRule(r"patch_embed_fine\.proj\.(\w+)", r"appearance.patch_embed.\1"),
    KeyRule(r"enc_blocks_stage2\.(.+)", r"appearance.blocks.\1"),
    KeyRule(r"enc_norm_stage2\.(\w+)", r"appearance.norm.\1"),
    KeyRule(r"decoder_embed_stage2\.(\w+)", r"appearance_embed.\1"),
    KeyRule(r"decoder_embed_fxfycxcy\.(.+)", r"intrinsics_embed.\1"),
)

_GAUSSIAN_HEAD = (
    KeyRule(r"downstream_head2\.head_local_features\.(.+)", r"descriptors.\1"),
    KeyRule(r"downstream_head4\.high_feature_fusion\.enc1\.0\.(\w+)", r"gaussian_head.mix.0.\1"),
    KeyRule(r"downstream_head4\.high_feature_fusion\.enc1\.2\.(\w+)", r"gaussian_head.mix.2.\1"),
    KeyRule(r"downstream_head4\.high_feature_fusion\.dec2\.(\w+)", r"gaussian_head.mix.4.\1"),
    KeyRule(r"downstream_head4\.feat_(opacity|scaling|rotation)\.(\d)\.(\w+)", r"gaussian_head.\1.\2.\3"),
    KeyRule(r"downstream_head4\.feat_sh\.0\.(\w+)", r"gaussian_head.colour_features.0.\1"),
    KeyRule(r"downstream_head4\.color\.(\w+)", r"gaussian_head.colour.\1"),
    KeyRule(r"downstream_head4\.sh_high_fre\.(\w+)", r"gaussian_head.colour_detail.\1"),
)

FLARE_NVS_KEYS: tuple[KeyRule, ...] = (
    *UNUSED_RULES,
    KeyRule(r"downstream_head1\..+", None, "points in each camera's own frame are not computed by this network"),
    *ENCODER_RULES,
    *POSE_STAGE_RULES,
    *pose_head_rules("pose_head", "coarse_pose_head"),
    *LOCAL_STAGE_RULES,
    *pose_head_rules("pose_head_stage2", "refined_pose_head"),
    *GLOBAL_STAGE_RULES,
    *_APPEARANCE,
    *_GAUSSIAN_HEAD,
    *point_head_rules("downstream_head2", "global_head"),
)

# Weights trained with harmonics of degree 2 have 24 rows of these, not 72.
FLARE_NVS_MAP = replace(
    FLARE_MAP,
    rules=FLARE_NVS_KEYS,
    padded=("gaussian_head.colour_detail.weight", "gaussian_head.colour_detail.bias"),
)
