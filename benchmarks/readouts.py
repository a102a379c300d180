"""Ways to read cameras out of flare-small's answer, measured against each other on held-out synthetic scenes.

    python benchmarks/readouts.py readouts --textures textures --scenes 24 --views 2 3 4

Scenes are rendered with textures that training never shows, at the size that `flare reconstruct` gives the network,
written as PNG photos without EXIF, and go the way of `flare reconstruct --refine none`. The ways:

- coarse, refined: the two pose heads;
- pnp: a camera per view from its global points; procrustes: local points onto global ones;
- chosen: for each view the best of refined, pnp and procrustes by reprojection;
- pairs: an essential matrix per pair from mutual nearest descriptors, with the predicted focal lengths;
- solved: all matches of the scene solved together, or the chosen cameras where those are better supported.

What is measured is kept in the folder, so that more scenes can be added. The table says median rotation / median
direction (degrees) / AUC@30 (per cent) over all pairs of views, and median errors of focal lengths.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

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
Row = dict[str, Any]
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
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = complete(model, options, options.folder / "errors.jsonl")
    print(table([row for row in rows if row["views"] in options.views and row["scene"] < options.scenes]))


def complete(model: LoadedModel, options: argparse.Namespace, log: Path) -> list[Row]:
    """Errors of all scenes and numbers of views, one JSON line each; lines that are there are kept."""
    rows: list[Row] = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(row["views"], row["scene"]) for row in rows}
    held_out = ShardSource.open(options.folder / "held-out")
    for views in options.views:
        batches = held_out.fixed(options.scenes, views)
        places = [(batch, place) for batch in batches for place in range(len(batch.kind))]
        for scene, (batch, place) in enumerate(places):
            if (views, scene) in done:
                continue
            found = measure(model, batch, place, options.folder / f"photos-{views}")
            rows.append({"views": views, "scene": scene, **{way: values.tolist() for way, values in found.items()}})
            with log.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    return rows


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


def table(rows: list[Row]) -> str:
    """Markdown: median rotation and direction and AUC@30 of the larger one for every way and number of views."""
    groups = {views: [row for row in rows if row["views"] == views] for views in sorted({row["views"] for row in rows})}
    heads = [f"{views} views ({len(group)} scenes)" for views, group in groups.items()]
    lines = ["| read-out | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for way in WAYS:
        cells = []
        for group in groups.values():
            degrees = torch.tensor([pair for row in group for pair in row[way]])
            rotation, direction = degrees.median(0).values.tolist()
            area = area_under_curve(degrees.amax(1), 30)
            cells.append(f"{rotation:.1f} / {direction:.0f} / {100 * area:.0f}")
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    for way in ("focal chosen", "focal solved"):
        cells = [f"{100 * np.median([e for row in group for e in row[way]]):.0f} %" for group in groups.values()]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
