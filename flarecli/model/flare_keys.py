r"""From the parameter names of the published FLARE geometry checkpoint to ours.

Every published name is matched by exactly one rule. Two names of the dense heads (``scratch.layer1_rn`` and
``scratch.layer_rn.0``) are one tensor in the published network, so two rules lead to the same target.
"""

from __future__ import annotations

from flarecli.model.keys import KeyRule

_ENCODER = (
    KeyRule(r"patch_embed\.proj\.(\w+)", r"encoder.patch_embed.\1"),
    KeyRule(r"enc_blocks\.(.+)", r"encoder.blocks.\1"),
    KeyRule(r"enc_norm\.(\w+)", r"encoder.norm.\1"),
    KeyRule(r"patch_embed_coarse2\.proj\.(\w+)", r"encoder.coarse_embed.\1"),
    KeyRule(r"enc_norm_coarse\.(\w+)", r"encoder.coarse_norm.\1"),
)

_POSE_STAGE = (
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

_LOCAL_STAGE = (
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

_GLOBAL_STAGE = (
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


def _pose_head(theirs: str, ours: str) -> tuple[KeyRule, ...]:
    return (
        KeyRule(rf"{theirs}\.pose_proj\.(\w+)", rf"{ours}.encoding_embed.\1"),
        KeyRule(rf"{theirs}\.pose_token_ref", f"{ours}.reference_token"),
        KeyRule(rf"{theirs}\.trunk\.(.+)", rf"{ours}.trunk.\1"),
        KeyRule(rf"{theirs}\.pose_branch\.(.+)", rf"{ours}.branch.\1"),
        KeyRule(rf"{theirs}\.ffeat_updater\.0\.(\w+)", rf"{ours}.updater.\1"),
    )


def _dense_head(theirs: str, ours: str) -> tuple[KeyRule, ...]:
    dpt = rf"{theirs}\.dpt"
    unit = r"\.resConfUnit2\.(.+)"
    skip = r"\.resConfUnit1\.(.+)"
    rows = [
        KeyRule(rf"{theirs}\.head_local_features\..+", None, "descriptors that inference throws away"),
        KeyRule(rf"{dpt}\.scratch\.refinenet4{skip}", None, "the coarsest fusion has nothing to fuse with"),
        KeyRule(rf"{dpt}\.act_postprocess\.(.+)", rf"{ours}.reassemble.\1"),
        KeyRule(rf"{dpt}\.scratch\.layer_rn\.(\d+)\.weight", rf"{ours}.project.\1.weight"),
        KeyRule(rf"{dpt}\.head\.0\.(\w+)", rf"{ours}.head_in.\1"),
        KeyRule(rf"{dpt}\.head\.2\.(\w+)", rf"{ours}.head_mid.\1"),
        KeyRule(rf"{dpt}\.head\.4\.(\w+)", rf"{ours}.head_out.\1"),
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


_UNUSED = (
    KeyRule("mask_token", None, "left over from masked pre-training"),
    KeyRule(r"patch_embed_coarse\..+", None, "never called; the coarse grid is made by patch_embed_coarse2"),
    KeyRule(r"patch_embed_test_\..+", None, "only its positions are used, never its convolution"),
    KeyRule(r"enc_(blocks|norm)_stage2\..+", None, "belongs to the novel-view network"),
    KeyRule(r"dec_norm\..+", None, "the image tokens of the coarse stage are never read"),
    KeyRule(r"downstream_head4\..+", None, "Gaussian head of the novel-view network"),
    KeyRule(r"cnn_(wobn|proj|fusion)\..+", None, "appearance branch of the novel-view network"),
)

FLARE_KEYS: tuple[KeyRule, ...] = (
    *_UNUSED,
    *_ENCODER,
    *_POSE_STAGE,
    *_pose_head("pose_head", "coarse_pose_head"),
    *_LOCAL_STAGE,
    *_pose_head("pose_head_stage2", "refined_pose_head"),
    *_GLOBAL_STAGE,
    *_dense_head("downstream_head1", "local_head"),
    *_dense_head("downstream_head2", "global_head"),
)
