"""The table of all models; readable without torch."""

from __future__ import annotations

from flarecli.errors import InputError
from flarecli.model.config_flare import FlareConfig
from flarecli.model.config_small import SIZES
from flarecli.model.config_splat import SplatConfig
from flarecli.model.flare_keys import FLARE_MAP
from flarecli.model.flare_nvs_keys import FLARE_NVS_MAP
from flarecli.model.keys import KeyMap
from flarecli.model.spec import Canvas, ModelSpec, WeightsSpec
from flarecli.model.splat_keys import NOPOSPLAT_MAP, SPFSPLAT_MAP, SPFSPLAT_NO_INTRINSICS_MAP, SPFSPLAT_V2_MAP

_TEST_CONFIG = FlareConfig(
    enc_dim=32,
    enc_depth=3,
    enc_heads=2,
    dec_dim=32,
    dec_depth=3,
    dec_heads=2,
    tap_blocks=(0, 1, 2),
    inject_layers=(0, 1, 2),
    pose_heads=2,
    pose_depth=2,
    pose_octaves=4,
    dpt_hooks=(0, 1, 2, 3),
    dpt_dims=(8, 8, 16, 16),
    dpt_dim=16,
    dpt_head_dim=8,
)

_SQUARE = Canvas(size_hw=(256, 256), long_side=256, multiple=16)
_SQUARE_FOR_FLARE = Canvas(size_hw=(256, 256), long_side=256, multiple=64)

# Neither project states a licence for its weights; both were fine-tuned from MASt3R's, which are CC BY-NC-SA 4.0.
_DERIVED_LICENCE = "none stated; derived from CC BY-NC-SA 4.0"


def _noposplat_weights(filename: str) -> WeightsSpec:
    return WeightsSpec(
        filename=filename,
        hub_repo="botaoye/NoPoSplat",
        sha256=None,
        size_bytes=2_448_000_000,
        licence=_DERIVED_LICENCE,
        commercial=False,
        source="NoPoSplat (ICLR 2025), https://huggingface.co/botaoye/NoPoSplat",
        keys=NOPOSPLAT_MAP,
    )


def _spfsplat_weights(repository: str, filename: str, keys: KeyMap) -> WeightsSpec:
    return WeightsSpec(
        filename=filename,
        hub_repo=f"RanranHuang/{repository}",
        sha256=None,
        # Estimated: these are training checkpoints, with two moments of the optimiser per parameter.
        size_bytes=7_390_000_000,
        licence=_DERIVED_LICENCE,
        commercial=False,
        source=f"{repository}, https://huggingface.co/RanranHuang/{repository}",
        keys=keys,
    )


_ROWS = (
    ModelSpec(
        name="flare",
        task="published FLARE geometry network, 1.2 billion parameters: cameras and point maps",
        build="flarecli.model.flare:Flare",
        config=FlareConfig(),
        weights=WeightsSpec(
            filename="geometry_pose.pth",
            hub_repo="AntResearch/FLARE",
            sha256=None,
            size_bytes=5_614_000_000,
            licence="CC BY-NC-SA 4.0",
            commercial=False,
            source="FLARE (CVPR 2025), https://huggingface.co/AntResearch/FLARE",
            keys=FLARE_MAP,
        ),
        canvas=Canvas(size_hw=(384, 512), long_side=512, multiple=64),
        max_views=8,
    ),
    ModelSpec(
        name="flare-small",
        task="small FLARE-like network, trained by this project, mostly on procedural scenes: cameras and point maps",
        build="flarecli.model.flare_small:FlareSmall",
        config=SIZES["xs"],
        weights=WeightsSpec(
            filename="flare-small.safetensors",
            hub_repo=None,
            sha256="c1e40f066b7ae56cb39251c0cc1e347c881cbd393020cc24e159f45c93e1eac9",
            size_bytes=9_692_404,
            licence="Apache-2.0",
            commercial=True,
            source="trained by this project from scratch; see weights/README.md",
        ),
        canvas=Canvas(size_hw=None, long_side=288, multiple=8),
        max_views=8,
    ),
    ModelSpec(
        name="flare-nvs",
        task="published FLARE novel-view network, 1.3 billion parameters: Gaussians of two photos",
        build="flarecli.model.flare_nvs:FlareNvs",
        config=FlareConfig(tap_blocks=(0, 1, 2)),
        weights=WeightsSpec(
            filename="NVS.pth",
            hub_repo="zhang3z/FLARE_NVS",
            sha256=None,
            size_bytes=5_670_000_000,
            licence="CC BY-NC-SA 4.0",
            commercial=False,
            source="FLARE (CVPR 2025), https://huggingface.co/zhang3z/FLARE_NVS",
            keys=FLARE_NVS_MAP,
        ),
        canvas=_SQUARE_FOR_FLARE,
        max_views=2,
        takes_intrinsics=True,
        pose_head=False,
        own_gaussians=True,
        precision="float32",
    ),
    ModelSpec(
        name="noposplat",
        task="published NoPoSplat, 0.6 billion parameters: Gaussians of two photos, poses from their centres",
        build="flarecli.model.noposplat:NoPoSplat",
        config=SplatConfig(),
        weights=_noposplat_weights("mixRe10kDl3dv.ckpt"),
        canvas=_SQUARE,
        max_views=2,
        takes_intrinsics=True,
        pose_head=False,
        own_gaussians=True,
        precision="float32",
    ),
    ModelSpec(
        name="noposplat-3view",
        task="the same network trained for three photos at once",
        build="flarecli.model.noposplat:NoPoSplat",
        config=SplatConfig(),
        weights=_noposplat_weights("re10k_3views.ckpt"),
        canvas=_SQUARE,
        max_views=3,
        min_views=3,
        takes_intrinsics=True,
        pose_head=False,
        own_gaussians=True,
        precision="float32",
    ),
    ModelSpec(
        name="spfsplat",
        task="published SPFSplat, 0.6 billion parameters: Gaussians and poses of two photos",
        build="flarecli.model.spfsplat:SpfSplat",
        config=SplatConfig(pose="pooled"),
        weights=_spfsplat_weights("SPFSplat", "re10k_dl3dv.ckpt", SPFSPLAT_MAP),
        canvas=_SQUARE,
        max_views=2,
        takes_intrinsics=True,
        own_gaussians=True,
        precision="float32",
    ),
    ModelSpec(
        name="spfsplat-nointrin",
        task="SPFSplat trained without intrinsics: estimates the focal length too",
        build="flarecli.model.spfsplat:SpfSplat",
        config=SplatConfig(pose="pooled", intrinsics="none"),
        weights=_spfsplat_weights("SPFSplat", "re10k_nointrin.ckpt", SPFSPLAT_NO_INTRINSICS_MAP),
        canvas=_SQUARE,
        max_views=2,
        own_gaussians=True,
        precision="float32",
    ),
    ModelSpec(
        name="spfsplatv2",
        task="published SPFSplatV2, 0.6 billion parameters: Gaussians and poses of 2 to 10 photos",
        build="flarecli.model.spfsplat:SpfSplat",
        config=SplatConfig(pose="token", intrinsics="decoder"),
        weights=_spfsplat_weights("SPFSplatV2", "re10k_spfsplatv2_10view.ckpt", SPFSPLAT_V2_MAP),
        canvas=_SQUARE,
        max_views=10,
        takes_intrinsics=True,
        own_gaussians=True,
        precision="float32",
    ),
    ModelSpec(
        name="flare-test",
        task="tiny untrained network for tests of the program",
        build="flarecli.model.flare:Flare",
        config=_TEST_CONFIG,
        weights=None,
        canvas=Canvas(size_hw=(64, 128), long_side=128, multiple=64),
        max_views=8,
        hidden=True,
    ),
)

MODELS: dict[str, ModelSpec] = {row.name: row for row in _ROWS}


def find_model(name: str) -> ModelSpec:
    """The row of a model.

    Raises:
        InputError: there is none of this name.
    """
    if name not in MODELS:
        known = ", ".join(row.name for row in _ROWS if not row.hidden)
        raise InputError(f"unknown model {name!r}", f"choose one of {known}")
    return MODELS[name]
