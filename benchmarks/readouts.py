"""Ways to read cameras out of flare-small's answer, measured against each other on held-out synthetic scenes.

    python benchmarks/readouts.py readouts --textures textures --scenes 24 --views 2 3 4

Scenes are rendered with textures that training never shows, at the size that `flare reconstruct` gives the network,
written as PNG photos without EXIF, and go the way of `flare reconstruct --refine none`. The ways:

- coarse, refined: the two pose heads;
- pnp: a camera per view from its global points; procrustes: local points onto global ones;
- chosen: for each view the best of refined, pnp and procrustes by reprojection;
- pairs: an essential matrix per pair from mutual nearest descriptors, with the predicted focal lengths;
- solved: all matches of the scene solved together, or the chosen cameras where those are better supported.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from flarecli.geometry.transforms import invert_rigid
from flarecli.images.loading import load_photos
from flarecli.inference.assemble import assemble_views, scene_views
from flarecli.inference.correspondences import dense_matches
from flarecli.inference.predict import Predicted, predict
from flarecli.inference.priors import collect_priors
from flarecli.inference.readout import read_window
from flarecli.model.loading import LoadedModel, load_model
from flarecli.refine.dense import solve_from_matches
from flarecli.scene.priors import Priors
from flarecli.train.augment import augment
from flarecli.train.data import ShardPlan, ShardSource, prerender
from flarecli.train.evaluate import area_under_curve, direction_degrees, rotation_degrees
from flarecli.train.generator import Batch
from flarecli.train.photos import pose_from_descriptors
from flarecli.train.primitives import Draw
from flarecli.train.textures import list_textures, load_stack, split_textures

WAYS = ("coarse", "refined", "pnp", "procrustes", "chosen", "pairs", "solved")
CANVASES = ((168, 224), (144, 224), (168, 224), (192, 192))
MILD = 0.25
"""Strength of the photometric augmentation, as in the evaluation during training."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for shards, photos and results")
    parser.add_argument("--textures", type=Path, required=True, help="folder of pictures; the held-out ones are used")
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--views", type=int, nargs="+", default=[2, 3, 4], choices=[2, 3, 4])
    parser.add_argument("--weights", type=Path, help="weights file instead of the shipped one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    _, held_out = split_textures(list_textures(options.textures))
    plan = ShardPlan(len(CANVASES), -(-options.scenes // len(CANVASES)), CANVASES, seed=903)
    prerender(load_stack(held_out, 256), options.folder / "held-out", plan)
    model = load_model("flare-small", weights=options.weights)
    errors: dict[int, dict[str, list[np.ndarray]]] = {}
    for views in options.views:
        errors[views] = defaultdict(list)
        for batch in ShardSource.open(options.folder / "held-out").fixed(options.scenes, views):
            for scene in range(len(batch.kind)):
                found = measure(model, batch, scene, options.folder / f"photos-{views}")
                for way, values in found.items():
                    errors[views][way].append(values)
    (options.folder / "errors.json").write_text(
        json.dumps({v: {w: np.concatenate(e).tolist() for w, e in ways.items()} for v, ways in errors.items()})
    )
    print(table(errors))


def measure(model: LoadedModel, batch: Batch, scene: int, folder: Path) -> dict[str, np.ndarray]:
    """(pairs, 2) errors in degrees of relative rotations and directions, and (views, 1) of focal lengths, by way."""
    folder.mkdir(parents=True, exist_ok=True)
    rgb = augment(batch.rgb[scene : scene + 1], Draw.seeded(scene), MILD)[0]
    for view, stored in enumerate(rgb):
        upright = stored.transpose(1, 2) if batch.portrait[scene, view] else stored
        Image.fromarray((255 * upright).round().byte().permute(1, 2, 0).numpy()).save(folder / f"{view}.png")
    photos = load_photos([folder]).photos
    priors = collect_priors(photos, intrinsics_from=None, poses=None, shared="none")
    predicted = predict(photos, model, torch.device("cpu"))
    views = scene_views(predicted, priors)
    initial = assemble_views(photos, views, predicted, priors)
    solved = solve_from_matches(initial, dense_matches(predicted), photos, priors, threads=1, seed=0)
    truth = batch.c2w[scene].double().numpy()
    pairs = [(i, j) for i in range(len(photos)) for j in range(i + 1, len(photos))]
    relative = {way: _relative(c2w, pairs) for way, c2w in _of_heads_and_points(predicted, priors).items()}
    relative["chosen"] = _relative(initial.cameras.c2w, pairs)
    relative["pairs"] = _of_pairs(predicted, pairs)
    relative["solved"] = _relative(solved.cameras.c2w, pairs)
    wanted = torch.from_numpy(_relative(truth, pairs))
    out = {}
    for way in WAYS:
        answer = torch.from_numpy(relative[way]).double()
        both = [
            rotation_degrees(answer[:, :3, :3], wanted[:, :3, :3]),
            direction_degrees(answer[:, :3, 3], wanted[:, :3, 3]),
        ]
        out[way] = torch.stack(both, 1).nan_to_num(180.0).numpy()
    focal = batch.focal[scene].double().numpy() * max(batch.depth.shape[2:])
    for way, cameras in (("focal chosen", initial.cameras), ("focal solved", solved.cameras)):
        out[way] = np.abs(cameras.focal_px / focal - 1)
    return out


def _of_heads_and_points(predicted: Predicted, priors: Priors) -> dict[str, np.ndarray]:
    """Poses of all photos in the frame of the reference; a proposal that a view lacks is NaN."""
    (window,) = predicted.windows
    prediction, maps = window.prediction, predicted.prepared.prepared_from_photo
    views = read_window(window, predicted.prepared.views.portrait.numpy(), maps, priors.K, priors.known)
    rows = np.argsort(window.photos)
    ways = {"coarse": prediction.coarse_c2w.double().numpy(), "refined": prediction.refined_c2w.double().numpy()}
    for way in ("pnp", "procrustes"):
        ways[way] = np.stack([view.proposals.get(way, np.full((4, 4), np.nan)) for view in views])
    return {way: c2w[rows] for way, c2w in ways.items()}


def _of_pairs(predicted: Predicted, pairs: list[tuple[int, int]]) -> np.ndarray:
    (window,) = predicted.windows
    portrait = predicted.prepared.views.portrait[list(window.photos)]
    row = {photo: index for index, photo in enumerate(window.photos)}
    found = [pose_from_descriptors(window.prediction, portrait, row[i], row[j]) for i, j in pairs]
    return torch.stack(found).double().numpy()


def _relative(c2w: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.stack([invert_rigid(c2w[i]) @ c2w[j] for i, j in pairs])


def table(errors: dict[int, dict[str, list[np.ndarray]]]) -> str:
    """Markdown: median rotation and direction and AUC@30 of the larger one for every way and number of views."""
    lines = ["| read-out | " + " | ".join(f"{views} views, R / t / AUC@30" for views in errors) + " |"]
    lines.append("|---" * (len(errors) + 1) + "|")
    for way in WAYS:
        cells = []
        for ways in errors.values():
            degrees = torch.from_numpy(np.concatenate(ways[way]))
            rotation, direction = degrees.median(0).values.tolist()
            area = area_under_curve(degrees.amax(1), 30)
            cells.append(f"{rotation:.1f} / {direction:.0f} / {100 * area:.0f}")
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    for way in ("focal chosen", "focal solved"):
        cells = [f"{100 * np.median(np.concatenate(ways[way])):.0f} %" for ways in errors.values()]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
