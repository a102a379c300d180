"""Windows, the choice of the reference, and memory."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flarecli.errors import InputError, MemoryExceeded
from flarecli.images.loading import load_photos
from flarecli.inference.predict import OVERLAP, plan_windows, predict, reference_first
from flarecli.model.config import find_model
from flarecli.model.loading import LoadedModel
from flarecli.scene.views import Prediction, Views

from .perfect import photos_of

CPU = torch.device("cpu")


class Recorder:
    """A network that notes which views it sees; the colour of a view says which photo it is."""

    def __init__(self, fail_above: int = 99) -> None:
        self.seen: list[Views] = []
        self.fail_above = fail_above

    def predict(self, views: Views) -> Prediction:
        if len(views) > self.fail_above:
            raise torch.OutOfMemoryError("too much")
        self.seen.append(views)
        count, _, height, width = views.rgb.shape
        points = torch.ones(count, height, width, 3, dtype=torch.float64)
        ones = torch.ones(count, height, width)
        return Prediction(
            torch.eye(4).repeat(count, 1, 1), torch.eye(4).repeat(count, 1, 1), None, points, ones, points, ones
        )


def model(network: Recorder) -> LoadedModel:
    return LoadedModel(network, find_model("flare-test"), None, None, "none")  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photos_of(tmp_path_factory.mktemp("photos"), [(64, 128)] * 11)


@given(st.integers(2, 40), st.integers(2, 9))
def test_every_photo_is_in_a_window_and_neighbours_overlap(count, size):
    order = list(np.random.default_rng(count).permutation(count))
    plan = plan_windows(order, size)
    assert sorted({photo for window in plan for photo in window}) == list(range(count))
    assert all(2 <= len(window) <= size or len(plan) == 1 for window in plan)
    assert all(len(set(window)) == len(window) for window in plan)
    for a, b in pairwise(plan):
        assert len(set(a) & set(b)) >= min(OVERLAP, size - 1)
        assert a != b
    assert plan[0][0] == order[0]


def test_few_photos_are_one_window_with_each_photo_once(photos):
    network = Recorder()
    said = []
    found = predict(photos[:5], model(network), CPU, on_progress=lambda *step: said.append(step))
    assert len(found.windows) == 1 and sorted(found.windows[0].photos) == list(range(5))
    assert said == [("network", 1, 1)]
    for row, photo in enumerate(found.windows[0].photos):
        assert torch.equal(network.seen[0].rgb[row], found.prepared.views.rgb[photo])
    assert found.windows[0].prediction.points_local.dtype == torch.float32


def test_the_reference_is_the_photo_most_like_the_others(tmp_path):
    base = np.random.default_rng(0).integers(60, 190, (8, 16, 3)).astype(float)
    for index in range(5):
        near = base + np.random.default_rng(index + 1).normal(scale=5 if index == 3 else 45, size=base.shape)
        picture = Image.fromarray(near.clip(0, 255).astype(np.uint8)).resize((128, 64), Image.Resampling.BILINEAR)
        picture.save(tmp_path / f"{index}.png")
    found = predict(load_photos([tmp_path]).photos, model(Recorder()), CPU)
    assert found.windows[0].photos == (3, 0, 1, 2, 4)


def test_every_window_has_its_own_reference_among_its_neighbours(photos):
    found = predict(photos, model(Recorder()), CPU)
    assert [sorted(window.photos) for window in found.windows] == [list(range(8)), list(range(3, 11))]
    likeness = np.eye(6) + 0.5 * np.eye(6, k=1) + 0.5 * np.eye(6, k=-1)
    likeness[1, 5] = likeness[5, 1] = 9.0  # alike, but not in one window
    assert reference_first([0, 1, 2, 3], likeness) == [1, 0, 2, 3]
    assert reference_first([3, 4, 5], likeness) == [4, 3, 5]


def test_many_photos_are_split_and_all_predicted(photos):
    network = Recorder()
    found = predict(photos, model(network), CPU)
    assert len(found.windows) > 1 and max(len(window.photos) for window in found.windows) <= 8
    assert {photo for window in found.windows for photo in window.photos} == set(range(11))


def test_a_full_device_is_tried_again_with_fewer_photos(photos):
    network = Recorder(fail_above=3)
    found = predict(photos[:6], model(network), CPU)
    assert max(len(window.photos) for window in found.windows) <= 3
    assert {photo for window in found.windows for photo in window.photos} == set(range(6))
    with pytest.raises(MemoryExceeded, match="two photos"):
        predict(photos[:6], model(Recorder(fail_above=1)), CPU)


def test_what_failed_is_not_tried_again_and_nothing_is_shrunk_more_than_needed(photos):
    tried = []

    class Narrow(Recorder):
        def predict(self, views):
            tried.append(len(views))
            if len(views) > 3:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")
            return super().predict(views)

    predict(photos[:4], model(Narrow()), CPU)
    assert tried == [4, 3, 3]


def test_other_errors_of_a_network_are_not_taken_for_a_lack_of_memory(photos):
    class Broken(Recorder):
        def predict(self, views):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        predict(photos[:4], model(Broken()), CPU)


def test_the_budget_bounds_the_window(photos):
    per_view = 64 * 128 * 4200
    network = Recorder()
    predict(photos[:6], model(network), CPU, max_memory=4 * per_view)
    assert max(len(views) for views in network.seen) == 4
    with pytest.raises(MemoryExceeded, match="two photos") as caught:
        predict(photos[:6], model(Recorder()), CPU, max_memory=per_view)
    assert caught.value.exit_code == 4 and "--max-memory" in caught.value.hint


def test_known_poses_reach_the_network(photos):
    network = Recorder()
    c2w = np.tile(np.eye(4), (4, 1, 1))
    c2w[:, 0, 3] = np.arange(4)
    found = predict(photos[:4], model(network), CPU, c2w=c2w)
    assert network.seen[0].c2w is not None
    assert network.seen[0].c2w[:, 0, 3].tolist() == list(map(float, found.windows[0].photos))


def test_one_photo_is_no_scene(photos):
    with pytest.raises(InputError, match="two photos"):
        predict(photos[:1], model(Recorder()), CPU)


def test_intrinsics_reach_the_network_in_its_own_pixels(photos):
    network = Recorder()
    K = np.tile(np.array([[100.0, 0, 64], [0, 100, 32], [0, 0, 1]]), (2, 1, 1))
    predict(photos[:2], replace(model(network), spec=find_model("noposplat")), CPU, K=K)
    # 128 x 64 photos on a canvas of 256 x 256: four times as large, half of the width cut away.
    expected = torch.tensor([[400.0, 0, 128], [0, 400, 128], [0, 0, 1]])
    assert network.seen[0].K is not None
    torch.testing.assert_close(network.seen[0].K, expected.repeat(2, 1, 1), atol=1e-3, rtol=0)


def test_photos_beyond_the_view_count_run_in_overlapping_windows(photos):
    network = Recorder()
    K = np.tile(np.eye(3), (5, 1, 1))
    found = predict(photos[:5], replace(model(network), spec=find_model("noposplat")), CPU, K=K)
    assert [len(window.photos) for window in found.windows] == [2, 2, 2, 2]
    assert {photo for window in found.windows for photo in window.photos} == set(range(5))


def test_networks_say_what_they_need(photos):
    three = replace(model(Recorder()), spec=find_model("noposplat-3view"))
    with pytest.raises(
        InputError, match="noposplat-3view takes three photos at a time, and there are only 2"
    ) as caught:
        predict(photos[:2], three, CPU, K=np.tile(np.eye(3), (2, 1, 1)))
    assert "--model" in caught.value.hint
    with pytest.raises(InputError, match="noposplat needs the intrinsics") as caught:
        predict(photos[:2], replace(model(Recorder()), spec=find_model("noposplat")), CPU)
    assert "--intrinsics" in caught.value.hint
