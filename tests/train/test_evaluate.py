import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from flarecli.errors import InputError
from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.scene.views import Prediction
from flarecli.train.data import ShardPlan, ShardSource, prerender
from flarecli.train.evaluate import (
    _errors,
    _matching,
    area_under_curve,
    depth_error,
    direction_degrees,
    evaluate_synthetic,
    point_errors,
    rotation_degrees,
)
from flarecli.train.generator import Batch
from flarecli.train.photos import evaluate_photos, load_scene, pose_from_descriptors
from flarecli.train.primitives import rotation_from_vector
from flarecli.train.targets import Targets, make_targets


def test_angles():
    turned = rotation_from_vector(torch.tensor([0.0, 0.3, 0.0]))
    assert rotation_degrees(torch.eye(3), turned).item() == pytest.approx(np.degrees(0.3), abs=1e-3)
    assert rotation_degrees(turned, turned).item() == pytest.approx(0, abs=1e-3)
    assert direction_degrees(torch.tensor([2.0, 0, 0]), torch.tensor([0, 0.1, 0])).item() == pytest.approx(90)


def test_area_under_curve():
    assert area_under_curve(torch.zeros(4), 30) == 1
    assert area_under_curve(torch.tensor([15.0, 90.0]), 30) == pytest.approx(0.25)
    assert area_under_curve(torch.tensor([torch.nan, 0.0]), 30) == pytest.approx(0.5)


def test_depth_error_is_free_of_scale_and_of_invalid_pixels():
    truth = torch.rand(2, 3, 8, 8) + 1
    valid = torch.rand(2, 3, 8, 8) < 0.7
    wrong = torch.where(valid, 5 * truth, 99.0)
    torch.testing.assert_close(depth_error(wrong, truth, valid), torch.zeros(6), atol=1e-5, rtol=0)
    assert depth_error(torch.where(truth > 1.5, 1.5 * truth, truth), truth, valid).min() > 0.05


def test_point_errors_are_relative_free_of_one_scale_and_leave_view_0_out():
    truth = torch.randn(1, 2, 8, 8, 3) + torch.tensor([0.0, 0.0, 5.0])
    valid = torch.ones(1, 2, 8, 8, dtype=torch.bool)
    valid[0, 1, :4] = False
    predicted = 3 * torch.where(valid[..., None], truth, 50.0)
    error, near = point_errors(predicted, truth, valid)
    torch.testing.assert_close(error, torch.zeros(1), atol=1e-5, rtol=0)
    assert near == 1
    radial = predicted.clone()
    radial[0, 1, 4:6] *= 1.2  # half of the valid points of view 1, a fifth too far away
    scale = (truth.norm(dim=-1)[valid].median() / radial.norm(dim=-1)[valid].median()).item() * 3
    error, near = point_errors(radial, truth, valid)
    assert error.item() == pytest.approx((abs(scale - 1) + abs(1.2 * scale - 1)) / 2, abs=1e-3)
    assert near == 0.5
    first = predicted.clone()
    first[0, 0, 0, 0] += 0.5  # too little to move the median distance
    torch.testing.assert_close(point_errors(first, truth, valid)[0], torch.zeros(1), atol=1e-5, rtol=0)
    assert point_errors(predicted, truth, valid & False)[0].isnan().all()


def test_evaluation_is_reproducible_and_leaves_the_mode(tmp_path, textures):
    prerender(textures, tmp_path, ShardPlan(1, 4, ((24, 32),)))
    network = FlareSmall(SIZES["tiny"]).train()
    first, second = (
        evaluate_synthetic(network, ShardSource.open(tmp_path), 4, 2, torch.device("cpu")) for _ in range(2)
    )
    assert first == second
    assert network.training
    assert 0 <= first["pck"] <= 1
    assert 0 <= first["auc30"] <= 1
    assert 0 <= first["points_near"] <= 1 and first["points"] > 0 and first["absrel_global"] > 0


def _plane(columns: int, scenes: int = 1) -> Targets:
    """Two views of 48 x 64 pixels of a plane at depth 1, on which view 1 sees everything ``columns`` to the left."""
    depth = torch.ones(scenes, 2, 48, 64)
    depth[:, 0, :, :24] = depth[:, 0, :, -16:] = 0  # what is planted away from the truth stays inside
    c2w = torch.eye(4).repeat(scenes, 2, 1, 1)
    c2w[:, 1, 0, 3] = columns / 64
    none = torch.zeros(scenes, 2, dtype=torch.bool)
    return make_targets(
        Batch(torch.zeros(scenes, 2, 3, 48, 64), depth, c2w, torch.ones(scenes, 2), none, none, none[:, 0])
    )


def _planted(grid: tuple[int, int], columns: int) -> torch.Tensor:
    """Descriptors (1, 2, N, N) by which every cell of view 0 is ``columns`` to the right in view 1."""
    cells = torch.arange(grid[0] * grid[1]).reshape(grid)
    same = torch.eye(cells.numel())
    return torch.stack([same[cells.roll(-columns, 1).flatten()], same])[None]


@pytest.mark.parametrize(("off", "within"), [(-3, (0, 0)), (-2, (0.5, 1)), (0, (1, 1)), (2, (0.5, 1)), (3, (0, 0))])
def test_matches_count_within_the_distance_that_is_asked_for(off, within):
    """Truths lie 1/4 of a cell right of and below the cell's centre, where the pixel nearest to the centre is.

    So a match that is planted two cells to one side is 1.77 away seen from one view and 2.26 from the other, and
    2.76 and 3.26 where it is planted three cells to a side.
    """
    targets, dense = _plane(4), _planted((24, 32), off - 2)
    for cells, expected in zip((2.0, 2.5), within, strict=True):
        assert _matching(dense, (24, 32), targets, cells).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("cells", "pck", "tokens", "token_pck"), [(0, 1, 0, 1), (2, 1, 1, 1), (-2, 1, -1, 1), (3, 0, 2, 0), (-3, 0, -2, 0)]
)
def test_shares_of_matches_are_those_within_two_and_a_half_cells_and_one_and_a_half_tokens(
    cells, pck, tokens, token_pck
):
    with torch.no_grad():
        out = FlareSmall(SIZES["tiny"]).eval()(torch.rand(1, 2, 3, 48, 64), torch.zeros(2, dtype=torch.bool))
    dense = _planted((24, 32), cells - 4).transpose(2, 3).unflatten(3, (24, 32))  # a token, so that both grids fit
    found = _errors(replace(out, descriptors=dense, token_descriptors=_planted((6, 8), tokens - 1)), _plane(8))
    assert (found["pck"].item(), found["token_pck"].item()) == (pck, token_pck)


def test_similarities_of_one_pair_at_a_time_are_kept():
    scenes, cells = 6, 24 * 32
    targets, dense = _plane(4, scenes), _planted((24, 32), -2).repeat(scenes, 1, 1, 1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        shares = _matching(dense, (24, 32), targets, 2.0)
    assert torch.equal(shares, torch.ones(scenes))
    assert max(event.self_cpu_memory_usage for event in seen.events()) <= 1.5 * 4 * cells**2


def _write_scene(folder, size):
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        rows.append({"name": f"{i}.png", "K": [[400.0, 0, 0], [0, 400.0, 0], [0, 0, 1]],
                     "R": np.eye(3).tolist(), "t": [-float(i), 0.0, 0.0]})  # fmt: skip
    (folder / "cameras.json").write_text(json.dumps({"images": rows}))
    (folder / "subsets.json").write_text(json.dumps({"subsets": [{"n": 2, "images": ["0.png", "1.png"]}]}))
    return folder


def test_photos_are_cropped_to_patches_with_their_focal_length(tmp_path):
    photos, subsets = load_scene(_write_scene(tmp_path / "tall", (300, 400)), 64, 8)
    assert photos["0.png"].portrait
    assert photos["0.png"].rgb.shape == (3, 48, 64)
    assert photos["0.png"].focal == pytest.approx(1.0)
    assert len(subsets) == 1
    table = evaluate_photos(FlareSmall(SIZES["tiny"]), [tmp_path / "tall"], 64)
    assert set(table) == {"tall", "mean"}
    assert {"rotation", "direction_coarse", "auc30_matches", "focal"} <= table["tall"].keys()
    with pytest.raises(InputError, match="no subset of 4 photos"):
        evaluate_photos(FlareSmall(SIZES["tiny"]), [tmp_path / "tall"], 64, count=4)
    with pytest.raises(InputError, match="no folder of posed photos"):
        load_scene(tmp_path, 64, 8)


@pytest.mark.parametrize("tall", [False, True])
def test_perfect_descriptors_give_the_true_pose(tall):
    """Random points seen by two cameras get one-hot descriptors in the cells where they appear."""
    height, width, focal = 30, 40, 1.1
    rng = np.random.default_rng(0)
    rotation = rotation_from_vector(torch.tensor([0.05, -0.2, 0.1])).double().numpy()
    shift = np.array([0.8, 0.1, -0.2])
    descriptors = torch.zeros(2, 90, height, width)
    placed = 0
    for world in rng.uniform([-1.2, -1, 3], [1.2, 1, 7], (4000, 3)):
        cells = []
        for p in (world, rotation.T @ (world - shift)):
            x, y = p[:2] / p[2] * focal * width
            column, row = (y, x) if tall else (x, y)
            cells.append((int(np.floor(row + height / 2)), int(np.floor(column + width / 2))))
        inside = all(0 <= r < height and 0 <= c < width for r, c in cells)
        if placed < 90 and inside and not any(descriptors[i, :, r, c].any() for i, (r, c) in enumerate(cells)):
            for i, (r, c) in enumerate(cells):
                descriptors[i, placed, r, c] = 1
            placed += 1
    assert placed == 90
    none = torch.zeros(2, height, width, 3)
    prediction = Prediction(
        torch.eye(4).expand(2, 4, 4), torch.eye(4).expand(2, 4, 4), torch.tensor([focal, focal]),
        none, none[..., 0], none, none[..., 0], descriptors,
    )  # fmt: skip
    found = pose_from_descriptors(prediction, torch.tensor([tall, tall]), 0, 1)
    assert rotation_degrees(found[:3, :3], torch.from_numpy(rotation).float()) < 3
    assert direction_degrees(found[:3, 3], torch.from_numpy(shift).float()) < 8
    few = pose_from_descriptors(
        Prediction(prediction.coarse_c2w, prediction.refined_c2w, prediction.focal, none, none[..., 0], none,
                   none[..., 0], torch.zeros(2, 3, height, width)), torch.tensor([tall, tall]), 0, 1
    )  # fmt: skip
    assert few.isnan().all()
