"""The fit: better pictures, the same after an interruption, guarded, and with gsplat's strategy."""

from dataclasses import replace

import pytest
import torch

from flarecli.appearance.fit import GAUSSIAN_PARAMS, FitOptions, current_splats, fit, mean_psnr, start_fit
from flarecli.appearance.fit_checkpoint import load_checkpoint, save_checkpoint
from flarecli.appearance.holdout import gaussians_without
from flarecli.appearance.photos import load_views
from flarecli.errors import InputError
from flarecli.render.splats import Splats

OPTIONS = FitOptions(steps=32, checks=4)


@pytest.fixture(scope="module")
def views(exact_once, exact):
    return load_views(exact_once, exact.reconstruction, 48)


@pytest.fixture(scope="module")
def first(exact):
    return Splats.of(gaussians_without(exact.reconstruction, ["photo_02.png"]))


@pytest.fixture(scope="module")
def parts(views):
    return [v for v in views if v.name != "photo_02.png"], [v for v in views if v.name == "photo_02.png"]


def test_new_views_get_better(parts, first):
    rest, held = parts
    state = fit(start_fit(first, 4, OPTIONS), rest, held, OPTIONS)
    assert [step for step, _ in state.history] == [0, 8, 16, 24, 32]
    assert max(score for _, score in state.history) > state.history[0][1] + 2
    assert mean_psnr(state.best, held) == pytest.approx(max(score for _, score in state.history), abs=1e-4)
    assert mean_psnr(current_splats(state.params), rest) > mean_psnr(first, rest) + 3


def test_a_run_that_makes_it_worse_ends_where_it_began(parts, first):
    rest, held = parts
    wild = replace(OPTIONS, steps=8, rates={**OPTIONS.rates, "sh0": 3.0, "means": 1.0})
    state = fit(start_fit(first, 4, wild), rest, held, wild)
    assert state.best_step == 0 and state.history[-1][1] < state.history[0][1]
    torch.testing.assert_close(state.best.means, first.means)
    assert mean_psnr(state.best, held) == pytest.approx(state.history[0][1], abs=1e-3)


def test_resuming_changes_nothing(parts, first, tmp_path):
    rest, held = parts
    whole = fit(start_fit(first, 4, OPTIONS), rest, held, OPTIONS, stop_at=16)
    half = fit(start_fit(first, 4, OPTIONS), rest, held, OPTIONS, stop_at=8)
    signature = {"options": {"steps": 32, "checks": 4}}
    save_checkpoint(tmp_path / "c.pt", "guard", half, signature, {"a": 1})
    phase, loaded, guard = load_checkpoint(tmp_path / "c.pt", signature, torch.device("cpu"))
    assert (phase, guard) == ("guard", {"a": 1}) and loaded is not None and loaded.step == 8
    fit(loaded, rest, held, OPTIONS, stop_at=16)
    for name, param in whole.params.items():
        assert torch.equal(loaded.params[name], param), name
    assert loaded.history == whole.history
    with pytest.raises(InputError, match="other options"):
        load_checkpoint(tmp_path / "c.pt", {"options": {"steps": 33}}, torch.device("cpu"))
    (tmp_path / "c.pt").write_bytes(b"damaged")
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(tmp_path / "c.pt", signature, torch.device("cpu"))


def test_exposure_is_taken_out(parts, first):
    rest, held = parts
    darker = [replace(view, rgb=view.rgb * (0.4 if index == 1 else 1.0)) for index, view in enumerate(rest)]
    with_it = fit(start_fit(first, 4, OPTIONS), darker, held, OPTIONS)
    without = fit(start_fit(first, 4, OPTIONS), darker, held, replace(OPTIONS, adapt_exposure=False))
    gains = with_it.params["exposure"][:, 0].mean(1)
    assert gains.argmin() == 1
    # The dark photo no longer pulls the others down.
    bright = [mean_psnr(each.best, darker[:1] + darker[2:]) for each in (with_it, without)]
    assert bright[0] > bright[1]


def test_strategy_of_gsplat_adds_and_removes(parts, first):
    rest, held = parts
    options = replace(OPTIONS, steps=40, densify=True)
    state = start_fit(first, 4, options)
    fit(state, rest, held, options)
    assert len(state.params["means"]) != len(first)
    assert {len(state.params[name]) for name in GAUSSIAN_PARAMS} == {len(state.params["means"])}
    assert max(score for _, score in state.history) > state.history[0][1] + 0.5


def test_degrees_of_colour(parts, first):
    rest, _ = parts
    options = replace(OPTIONS, sh_degree=2, steps=8)
    state = fit(start_fit(first, 4, options), rest, (), options)
    assert state.best.sh_degree == 2 and state.best.sh[:, 1:].abs().max() > 0 and state.best_step == 8


def test_a_deadline_ends_it(parts, first):
    rest, held = parts
    state = fit(start_fit(first, 4, OPTIONS), rest, held, OPTIONS, deadline=0.0)
    assert state.step == 0 and state.best_step == 0 and len(state.history) == 1
