"""The answer to "is it better?": what the program makes of photos with a network, as `flare eval --nvs` judges it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from flarecli.evaluate.novel_views import NovelViewOptions, evaluate_novel_views
from flarecli.job import SceneJob
from flarecli.model.loading import LoadedModel
from flarecli.pipeline import run_scene

_LONG_SIDE = 256


def reconstruction_psnr(job: SceneJob, model: LoadedModel, held_out: Sequence[str], device: torch.device) -> float:
    """Mean PSNR in dB of held-out photos after ``flare reconstruct --refine none``.

    Cameras come from the network and its own matches of all photos; the Gaussians hold nothing of the held-out ones.

    Args:
        job: which photos and how; output, refinement and formats are chosen here.
        model: the network that is judged.
        held_out: names of the photos that are compared.
        device: that renders.

    Raises:
        FlareError: as :func:`flarecli.pipeline.run_scene`.
    """
    with tempfile.TemporaryDirectory() as folder:
        alone = dataclasses.replace(
            job, output=Path(folder) / "scene", refine="none", exports=("gaussians",), mesh="none", resume=False
        )
        run_scene(alone, network=model)
        options = NovelViewOptions(hold_out=tuple(held_out), long_side=_LONG_SIDE, device=str(device))
        return float(evaluate_novel_views(alone.output, options)["psnr_db"])
