"""The table of models and the sizes of the network."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from flarecli.errors import InputError
from flarecli.model.config import MODELS, find_model
from flarecli.model.config_flare import FlareConfig
from flarecli.model.config_small import FlareSmallConfig


def test_reading_the_table_does_not_import_torch() -> None:
    code = "import sys, flarecli.model.config, flarecli.model.hub; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_published_row() -> None:
    spec = MODELS["flare"]
    assert isinstance(spec.config, FlareConfig)
    assert spec.config.multiple == spec.canvas.multiple == 64
    assert spec.canvas.size_hw == (384, 512)
    assert spec.weights is not None and not spec.weights.commercial
    assert (spec.weights.hub_repo, spec.weights.filename) == ("AntResearch/FLARE", "geometry_pose.pth")
    views = MODELS["flare-nvs"].weights
    assert views is not None and (views.hub_repo, views.filename) == ("zhang3z/FLARE_NVS", "NVS.pth")


def test_canvases_fit_the_patches() -> None:
    for spec in MODELS.values():
        side = spec.config.patch if isinstance(spec.config, FlareSmallConfig) else spec.config.multiple
        assert spec.canvas.multiple % side == 0
        assert spec.canvas.long_side % spec.canvas.multiple == 0


def test_unknown_model_names_the_visible_ones() -> None:
    with pytest.raises(InputError, match="'flair'") as caught:
        find_model("flair")
    shown = ["flare", "flare-small", "flare-nvs", "noposplat", "noposplat-3view", "spfsplat", "spfsplat-nointrin"]
    assert caught.value.hint == f"choose one of {', '.join([*shown, 'spfsplatv2'])}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tap_blocks": (4, 10)}, "needs one decoder layer"),
        ({"tap_blocks": (4, 10, 24)}, "must exist"),
        ({"inject_layers": (2, 5, 12)}, "must exist"),
        ({"dpt_hooks": (0, 6, 9, 11)}, "last decoder layer last"),
        ({"dpt_hooks": (0, 9, 6, 12)}, "last decoder layer last"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(change: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(FlareConfig(), **change)


def test_what_was_published_in_float32_runs_in_it() -> None:
    exact = {name for name, spec in MODELS.items() if spec.precision == "float32"}
    assert exact == {name for name in MODELS if name.startswith(("flare-nvs", "noposplat", "spfsplat"))}
    assert exact == {name for name, spec in MODELS.items() if spec.own_gaussians}
