"""From the parameter names of the published FLARE geometry checkpoint to ours.

Every published name is matched by exactly one rule.
"""

from __future__ import annotations

from flarecli.model.dpt_keys import point_head_rules
from flarecli.model.keys import KeyMap, KeyRule

ENCODER_RULES = (
    KeyRule(r"patch_embed\.proj\.(\w+)", r"encoder.patch_embed.\1"),
    KeyRule(r"enc_blocks\.(.+)", r"encoder.blocks.\1"),
    KeyRule(r"enc_norm\.(\w+)", r"encoder.norm.\1"),
    KeyRule(r"patch_embed_coarse2\.proj\.(\w+)", r"encoder.coarse_embed.\1"),
    KeyRule(r"enc_norm_coarse\.(\w+)", r"encoder.coarse_norm.\1"),
)

POSE_STAGE_RULES = (
    KeyRule(r"pose_token_ref", "pose_stage.reference_token"),
    KeyRule(r"pose_token_source", "pose_stage.source_token"),
    KeyRule(r"decoder_embed\.(\w+)", r"pose_stage.embed.\1"),
    KeyRule(r"dec_blocks\.(.+)", r"pose_stage.reference_blocks.\1"),
    KeyRule(r"dec_blocks2\.(.+)", r"pose_stage.source_blocks.\1"),
    KeyRule(r"cam_cond_encoder\.(\d+)\.(.+)", r"pose_stage.exchanges.\1.block.\2"),
    KeyRule(r"cam_cond_embed\.11\.weight", None, "the image tokens of the last coarse layer are never read"),
    KeyRule(r"cam_cond_embed\.(\d+)\.weight", r"pose_stage.exchanges.\1.embed.weight"),
    KeyRule(r"dec_cam_norm\.(\w+)", r"pose_stage.camera_norm.\1"),
)

LOCAL_STAGE_RULES = (
    KeyRule(r"embed_pose\.(.+)", r"pose_embed.\1"),
    KeyRule(r"pose_token_ref_fine", "local_stage.reference_token"),
    KeyRule(r"pose_token_source_fine", "local_stage.source_token"),
    KeyRule(r"decoder_embed_fine\.(\w+)", r"local_stage.embed.\1"),
    KeyRule(r"adaLN_modulation\.(\d+)\.1\.(\w+)", r"local_stage.modulations.\1.\2"),
    KeyRule(r"dec_blocks_fine\.(.+)", r"local_stage.blocks.\1"),
    KeyRule(r"cam_cond_encoder_fine\.(\d+)\.(.+)", r"local_stage.exchanges.\1.block.\2"),
    KeyRule(r"cam_cond_embed_fine\.(\d+)\.weight", r"local_stage.exchanges.\1.embed.weight"),
    KeyRule(r"enc_inject_stage2\.(\d+)\.(\w+)", r"local_stage.injections.\1.norm.\2"),
    KeyRule(r"inject_stage2\.(\d+)\.weight", r"local_stage.injections.\1.linear.weight"),
    KeyRule(r"dec_norm_fine\.(\w+)", r"local_stage.norm.\1"),
    KeyRule(r"dec_cam_norm_fine\.(\w+)", r"local_stage.camera_norm.\1"),
)

GLOBAL_STAGE_RULES = (
    KeyRule(r"pose_token_ref_point", "global_stage.reference_token"),
    KeyRule(r"pose_token_source_point", "global_stage.source_token"),
    KeyRule(r"decoder_embed_point\.(\w+)", r"global_stage.embed.\1"),
    KeyRule(r"cam_cond_embed_point_pre\.(\d+)\.weight", r"global_stage.memory_biases.\1.weight"),
    KeyRule(r"dec_blocks_point_cross\.(.+)", r"global_stage.cross_blocks.\1"),
    KeyRule(r"dec_blocks_point\.(.+)", r"global_stage.blocks.\1"),
    KeyRule(r"cam_cond_encoder_point\.(\d+)\.(.+)", r"global_stage.exchanges.\1.block.\2"),
    KeyRule(r"cam_cond_embed_point\.(\d+)\.weight", r"global_stage.exchanges.\1.embed.weight"),
    KeyRule(r"enc_inject_stage3\.(\d+)\.(\w+)", r"global_stage.injections.\1.norm.\2"),
    KeyRule(r"inject_stage3\.(\d+)\.weight", r"global_stage.injections.\1.linear.weight"),
    KeyRule(r"dec_norm_point\.(\w+)", r"global_stage.norm.\1"),
)


def pose_head_rules(theirs: str, ours: str) -> tuple[KeyRule, ...]:
    """Rules of one pose head."""
    return (
        KeyRule(rf"{theirs}\.pose_proj\.(\w+)", rf"{ours}.encoding_embed.\1"),
        KeyRule(rf"{theirs}\.pose_token_ref", f"{ours}.reference_token"),
        KeyRule(rf"{theirs}\.trunk\.(.+)", rf"{ours}.trunk.\1"),
        KeyRule(rf"{theirs}\.pose_branch\.(.+)", rf"{ours}.branch.\1"),
        KeyRule(rf"{theirs}\.ffeat_updater\.0\.(\w+)", rf"{ours}.updater.\1"),
    )


UNUSED_RULES = (
    KeyRule("mask_token", None, "left over from masked pre-training"),
    KeyRule(r"patch_embed_test_\..+", None, "only its positions are used, never its convolution"),
    KeyRule(r"dec_norm\..+", None, "the image tokens of the coarse stage are never read"),
)

_NO_APPEARANCE = (
    KeyRule(r"patch_embed_coarse\..+", None, "never called; the coarse grid is made by patch_embed_coarse2"),
    KeyRule(r"downstream_head[12]\.head_local_features\..+", None, "descriptors that inference throws away"),
    KeyRule(r"enc_(blocks|norm)_stage2\..+", None, "belongs to the novel-view network"),
    KeyRule(r"downstream_head4\..+", None, "Gaussian head of the novel-view network"),
    KeyRule(r"cnn_(wobn|proj|fusion)\..+", None, "appearance branch of the novel-view network"),
)

FLARE_KEYS: tuple[KeyRule, ...] = (
    *UNUSED_RULES,
    *_NO_APPEARANCE,
    *ENCODER_RULES,
    *POSE_STAGE_RULES,
    *pose_head_rules("pose_head", "coarse_pose_head"),
    *LOCAL_STAGE_RULES,
    *pose_head_rules("pose_head_stage2", "refined_pose_head"),
    *GLOBAL_STAGE_RULES,
    *point_head_rules("downstream_head1", "local_head"),
    *point_head_rules("downstream_head2", "global_head"),
)

# The published program never loads strictly, so its files may hold more, and where the decoder of the other views is
# absent, it copies that of the reference view.
FLARE_MAP = KeyMap(
    FLARE_KEYS, extra_names=True, copies=(("pose_stage.source_blocks.", "pose_stage.reference_blocks."),)
)
