import json
from pathlib import Path

import pytest
import torch

from flarecli.errors import InputError, OutputExists
from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.model.layers import EncBlock
from flarecli.model.loading import load_model
from flarecli.model.shards import load_shards
from flarecli.model.small_pose import rotations
from flarecli.train.config import Phase, TrainConfig, load_config
from flarecli.train.data import ShardPlan, ShardSource, prerender
from flarecli.train.evaluate import rotation_degrees
from flarecli.train.loop import _average, run, train_from_toml
from flarecli.train.losses import LossWeights, compute_losses
from flarecli.train.optimizer import build_optimizers
from flarecli.train.primitives import Draw
from flarecli.train.targets import make_targets

TOML = """
output = "{folder}/run"
minutes = 30
max_steps = 3
size = "tiny"
device = "cpu"
validation = "{folder}/data"
warmup = 1
log_every = 1
seed = 7

[weights]
focal = 0.5

[[phases]]
share = 1.0
shards = "{folder}/data"
images = 8
views = [2, 3]
view_weights = [0.5, 0.5]
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory, textures):
    folder = tmp_path_factory.mktemp("loop")
    prerender(textures, folder / "data", ShardPlan(1, 4, ((24, 32),), seed=1))
    return folder


@pytest.fixture
def config(tmp_path, shards):
    path = tmp_path / "train.toml"
    path.write_text(TOML.format(folder=tmp_path))
    (tmp_path / "data").symlink_to(shards / "data")
    return path


def _rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_metrics_validation_and_a_checkpoint(config, tmp_path):
    told = []
    checkpoint = train_from_toml(config, lambda *args: told.append(args))
    assert sorted(p.name for p in checkpoint.iterdir()) == [
        "ema-00001-of-00001.safetensors", "model-00001-of-00001.safetensors", "state.json"
    ]  # fmt: skip
    rows = _rows(tmp_path)
    assert [r["step"] for r in rows] == [1, 2, 3, 3]
    assert {"rotation", "direction", "auc30", "absrel", "pck", "focal"} <= rows[-1]["validation"].keys()
    assert told == [("train", done, 1000) for done in (0, 333, 667)]


@pytest.mark.parametrize("limit", [{}, {"minutes": 0.0}])
def test_a_run_leaves_weights_that_flare_loads(config, tmp_path, limit):
    checkpoint = train_from_toml(config, **limit)
    weights = load_model("flare-small", weights=tmp_path / "run" / "flare-small.safetensors").network
    assert isinstance(weights, FlareSmall) and weights.config == SIZES["tiny"]
    average = load_shards(checkpoint, "ema")
    assert all(torch.equal(tensor, average[name]) for name, tensor in weights.state_dict().items())
    train_from_toml(config, max_steps=5, minutes=30)  # going on replaces them
    later = load_model("flare-small", weights=tmp_path / "run" / "flare-small.safetensors").network
    assert isinstance(later, FlareSmall)
    assert not torch.equal(later.state_dict()["stem.coarse.1.weight"], average["stem.coarse.1.weight"])


def test_weights_of_somebody_else_are_not_overwritten(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "flare-small.safetensors").write_text("theirs")
    with pytest.raises(OutputExists, match="not of this run"):
        train_from_toml(config)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["flare-small.safetensors"]
    assert (tmp_path / "run" / "flare-small.safetensors").read_text() == "theirs"


def test_a_run_goes_on_after_its_checkpoint_was_lost_in_being_replaced(config, tmp_path):
    train_from_toml(config)
    (tmp_path / "run" / "checkpoint").rename(tmp_path / "run" / "checkpoint.old")
    train_from_toml(config, max_steps=4)
    assert _rows(tmp_path)[-1]["step"] == 4
    assert sorted(path.name for path in (tmp_path / "run").glob("check*")) == ["checkpoint"]


@pytest.mark.parametrize(("threads", "used"), [(None, 1), (2, 2)])
def test_threads_are_only_set_where_asked_for(config, threads, used):
    train_from_toml(config, threads=threads)
    assert torch.get_num_threads() == used  # the tests begin with one


def test_resuming_is_deterministic_and_continues_the_count(config, tmp_path):
    train_from_toml(config)
    saved = {p.name: p.read_bytes() for p in (tmp_path / "run" / "checkpoint").iterdir()}
    outcomes = []
    for _ in range(2):
        for name, data in saved.items():
            (tmp_path / "run" / "checkpoint" / name).write_bytes(data)
        outcomes.append(load_shards(train_from_toml(config, max_steps=5), "model"))
        assert _rows(tmp_path)[-1]["step"] == 5
    worst = {n: float((outcomes[0][n] - outcomes[1][n]).abs().max()) for n in outcomes[0]}
    assert max(worst.values()) == 0, worst


def test_the_average_follows_whatever_is_trained_in_every_type_and_layout():
    starts = [torch.randn(3, 4, 5, 5), torch.randn(7).half(), torch.randn(2, 3).bfloat16(), torch.randn(4, 6).double()]
    starts.append(torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last))
    ema = torch.nn.ParameterList([*starts, torch.tensor([-0.0])])
    network = torch.nn.ParameterList([torch.randn_like(each) for each in ema])
    network[-1].requires_grad_(False)
    expected = [slow.detach().clone().lerp(fast.detach(), 0.125) for slow, fast in zip(ema, network, strict=True)]
    expected[-1] = torch.tensor([-0.0])  # stands still, down to the sign
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        _average(ema, network, 0.875)
    for found, wanted in zip(ema, expected, strict=True):
        assert torch.equal(found, wanted)
    assert torch.signbit(ema[-1])
    assert [event.count for event in seen.key_averages() if event.key == "aten::_foreach_lerp_"] == [1]


def test_two_runs_with_one_seed_are_equal_and_another_seed_differs(config, tmp_path):
    results = [
        load_shards(train_from_toml(config, output=str(tmp_path / name), max_steps=1, seed=seed), "model")
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    name = "stem.coarse.1.weight"
    assert torch.equal(results[0][name], results[1][name])
    assert not torch.equal(results[0][name], results[2][name])


def test_a_few_pairs_are_learned_by_heart(shards):
    """Without augmentation every term must fall a lot: the losses, the network and the optimisers fit together."""
    batch = ShardSource.open(shards / "data").next(Draw.seeded(0), 4, 2)
    network = FlareSmall(SIZES["tiny"]).eval()  # no noise between the stages
    optimizers = build_optimizers(network, 5e-3, 0.02, 0.0)
    targets, history = make_targets(batch), []
    for _ in range(80):
        out = network(batch.rgb / 1.6, batch.portrait)
        terms = compute_losses(out, targets, LossWeights(samples=16), Draw.seeded(0))
        network.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        history.append({name: float(term.detach()) for name, term in terms.items()})
    first, last = history[0], history[-1]
    for name, factor in {
        "pose_coarse": 0.4,
        "pose_refined": 0.4,
        "focal": 0.4,
        "descriptor": 0.6,
        "local": 0.8,
    }.items():
        assert last[name] < factor * first[name], name
    assert rotation_degrees(rotations(out.refined[-1][:, 1, 3:7]), targets.rotation[:, 1]).max() < 5


def test_phases_and_decay_follow_the_steps_of_a_run_that_counts_them(config, tmp_path):
    whole = config.read_text()
    first = whole[whole.index("[[phases]]") :].replace("share = 1.0", "share = 0.5") + "stages = 1\n"
    config.write_text(whole.replace("[[phases]]", first + "\n[[phases]]").replace("share = 1.0", "share = 0.5"))
    train_from_toml(config, minutes=1e6, max_steps=8, decay=0.25)
    rows = _rows(tmp_path)[:8]
    assert ["local" in row for row in rows] == [False] * 4 + [True] * 4
    assert rows[5]["rate"] == 1
    assert rows[7]["rate"] < 1


def test_translated_blocks_learn_the_same(config, tmp_path, monkeypatch):
    translate, blocks = EncBlock.compile, []
    monkeypatch.setattr(EncBlock, "compile", lambda block, **how: (blocks.append(block), translate(block, **how)))
    train_from_toml(config, pose_noise=0.0)
    assert not blocks
    train_from_toml(config, pose_noise=0.0, compile=True, output=str(tmp_path / "compiled" / "run"))
    assert len(blocks) == sum(isinstance(each, EncBlock) for each in FlareSmall(SIZES["tiny"]).modules())
    plain, translated = _rows(tmp_path), _rows(tmp_path / "compiled")
    assert len(plain) == len(translated)
    for ours, theirs in zip(plain, translated, strict=True):
        terms = {name for name in ours if name not in {"minutes", "validation", "norm"}}
        assert all(theirs[name] == pytest.approx(ours[name], rel=0.02, abs=0.02) for name in terms)
    before, after = (load_shards(each / "run" / "checkpoint", "ema") for each in (tmp_path, tmp_path / "compiled"))
    assert before.keys() == after.keys()


def test_the_time_box_ends_the_run(config, tmp_path):
    train_from_toml(config, minutes=0.0)
    assert _rows(tmp_path)[-1]["step"] == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 7", "sead = 7", "unknown key 'sead'"),
        ("focal = 0.5", "fokal = 0.5", r"\[weights\]: unknown key 'fokal'"),
        ("images = 8", "pictures = 8", r"\[\[phases\]\]: unknown key 'pictures'"),
        ("share = 1.0", "share = 0.7", "add up to 1"),
        ("minutes = 30", "", "'minutes' is missing"),
        ('size = "tiny"', 'size = "huge"', "unknown network size 'huge'"),
        ("views = [2, 3]", "views = [2]", "same length"),
        ("seed = 7", "seed = ", "can't read"),
        ("[[phases]]", "[phases]", r"\[\[phases\]\] must be a table"),
        ("seed = 7", 'seed = "7"', "seed can't be '7'"),
        ("seed = 7", "seed = true", "seed can't be True"),
        ("minutes = 30", "minutes = [30]", r"minutes can't be \(30,\)"),
        ("focal = 0.5", 'focal = "much"', r"\[weights\]: focal can't be 'much'"),
        ("views = [2, 3]", "views = [2, 3.5]", r"\[\[phases\]\]: views can't be \(2, 3.5\)"),
        ("images = 8", "images = 8\nphoto_share = 1.5", "photo_share of a phase must be between 0 and 1"),
        ("images = 8", "images = 8\ncanvases = [[16, 24], [16]]", "canvases can't be"),
        ("images = 8", "images = 8\ncanvases = [[32, 24]]", "not taller than wide"),
        ("images = 8", "images = 8\ncanvases = []", "not taller than wide"),
        ("images = 8", "images = 0", "images of a phase must be between 1 and"),
        ("views = [2, 3]", "views = [1, 2]", "views of a phase must be between 2 and 8, not 1"),
        ("[0.5, 0.5]", "[0.0, 0.0]", "view_weights of a phase must be above 0"),
        ("[0.5, 0.5]", "[1.0, -1.0]", "view_weights of a phase must be between 0 and"),
        ("[0.5, 0.5]", "[1.0, nan]", "view_weights of a phase must be between 0 and"),
        ("log_every = 1", "log_every = 0", "log_every of a training must be between 1 and"),
        ("log_every = 1", "threads = 0", "threads of a training must be between 1 and"),
        ("log_every = 1", "ema = 2.0", "ema of a training must be between 0 and 1, not 2.0"),
        ("log_every = 1", "decay = -1", "decay of a training"),
        ("log_every = 1", "clip = 0", "clip of a training"),
        ("minutes = 30", "minutes = nan", "minutes of a training"),
        ("minutes = 30", "minutes = -1", "minutes of a training"),
        ("max_steps = 3", "max_steps = 0", "max_steps of a training"),
        ("seed = 7", "seed = -1", "seed of a training"),
        ("seed = 7", "seed = 99999999999999999999", "seed of a training"),
        ("focal = 0.5", "focal = -0.5", "focal among the weights must be between 0 and"),
        ("focal = 0.5", "samples = 0", "samples among the weights must be between 1 and"),
    ],
)
def test_mistakes_in_the_configuration_are_named(config, old, new, message):
    config.write_text(config.read_text().replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        load_config(config)
    assert str(config) in caught.value.message and caught.value.hint


@pytest.mark.parametrize(("size", "canvas", "good"), [("xs", (20, 32), False), ("xs", (24, 32), True),
                                                      ("s", (24, 32), False), ("s", (32, 48), True)])  # fmt: skip
def test_images_that_are_rendered_are_whole_patches(size, canvas, good):
    phase = Phase(share=1.0, canvases=(canvas,))
    if good:
        assert TrainConfig(output="x", minutes=1.0, phases=(phase,), size=size)
    else:
        with pytest.raises(InputError, match="multiples of"):
            TrainConfig(output="x", minutes=1.0, phases=(phase,), size=size)
    assert TrainConfig(output="x", minutes=1.0, phases=(Phase(share=1.0),), size=size)


@pytest.mark.parametrize(("share", "folders"), [(0.0, {"data"}), (1.0, {"captured"})])
def test_photos_take_part_in_the_steps_that_are_theirs(config, tmp_path, textures, monkeypatch, share, folders):
    prerender(textures, tmp_path / "captured", ShardPlan(1, 4, ((24, 32),), seed=2))
    phase = f"images = 8\nphotos = '{tmp_path}/captured'\nphoto_share = {share}"
    config.write_text(config.read_text().replace("images = 8", phase))
    asked, original = [], ShardSource.next

    def noted(self, *args):
        asked.append(self.folder.name)
        return original(self, *args)

    monkeypatch.setattr(ShardSource, "next", noted)
    run(config)
    assert len(asked) == 3 and set(asked) == folders


@pytest.mark.parametrize("recipe", sorted((Path(__file__).parents[2] / "weights").glob("*.toml")), ids=lambda p: p.stem)
def test_the_recipes_of_the_shipped_weights_can_be_run(recipe):
    assert load_config(recipe).minutes > 0


def test_values_arrive_and_overrides_win(config):
    loaded = load_config(config, {"minutes": 2.0, "seed": None})
    assert (loaded.minutes, loaded.seed, loaded.weights.focal, loaded.phases[0].views) == (2.0, 7, 0.5, (2, 3))


def test_phases_follow_each_other(config):
    base = load_config(config)
    first, second = (base.phases[0].__class__(share=s, shards="x", stages=n) for s, n in ((0.25, 1), (0.75, 3)))
    two = TrainConfig(output="x", minutes=1.0, phases=(first, second))
    assert [two.phase_at(p).stages for p in (0.0, 0.25, 0.3, 1.0)] == [1, 3, 3, 3]


def test_a_run_without_shards_needs_textures(config):
    config.write_text(config.read_text().replace("shards = ", "#"))
    with pytest.raises(InputError, match="textures"):
        run(config)


def test_another_size_cannot_continue_a_checkpoint(config):
    train_from_toml(config, max_steps=1)
    with pytest.raises(InputError, match="size tiny"):
        train_from_toml(config, size="xs")
