"""Settings of a training run, read from TOML; unknown keys are errors."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from flarecli.errors import InputError
from flarecli.model.config_small import SIZES
from flarecli.train.losses import LossWeights
from flarecli.train.ranges import PHASE_RANGES, RUN_RANGES, WEIGHT_RANGES, check_ranges

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One part of a run.

    Attributes:
        share: share of the run's minutes.
        shards: folder of rendered shards; None renders on the fly.
        photos: folder of shards of real photos that take part, see ``flarecli.train.captures``; None for none.
        photo_share: share of the steps that see them.
        stages: 1 trains up to the coarse pose and descriptors, 3 everything.
        images: images per step; a step has images // views scenes.
        views: numbers of views that occur.
        view_weights: how often each of them occurs.
        canvases: (height, width) of images rendered on the fly.
        train_only: "gaussians" freezes everything but the Gaussian head and trains that by rendering.
        targets: further views of each scene that the network does not see and that the rendering is judged by.
        halved: share of the steps in which the network sees images of half the size of those that are rendered.
    """

    share: float
    shards: str | None = None
    photos: str | None = None
    photo_share: float = 0.25
    stages: int = 3
    images: int = 96
    views: tuple[int, ...] = (2,)
    view_weights: tuple[float, ...] = (1.0,)
    canvases: tuple[tuple[int, int], ...] = ((160, 224), (144, 224), (128, 224), (192, 192))
    train_only: str | None = None
    targets: int = 0
    halved: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, "of a phase", PHASE_RANGES)
        if len(self.views) != len(self.view_weights):
            raise InputError("views and view_weights of a phase must have the same length", "give each its weight")
        if self.stages not in {1, 3}:
            raise InputError(
                f"stages of a phase must be 1 or 3, not {self.stages}",
                "stop after the coarse pose with 1, or train all with 3",
            )
        if self.train_only not in {None, "gaussians"}:
            raise InputError(
                f"train_only of a phase must be 'gaussians', not {self.train_only!r}",
                "leave it out to train everything",
            )
        if sum(self.view_weights) <= 0:
            raise InputError("one of the view_weights of a phase must be above 0", "say how often each number occurs")
        if not self.canvases or any(height > width for height, width in self.canvases):
            raise InputError(
                "canvases of a phase must be pairs (height, width) that are not taller than wide",
                "turn them; photos in portrait format are stored lying",
            )
        if self.train_only is None and (self.targets or self.halved):
            raise InputError(
                "targets and halved are for phases with train_only = 'gaussians'",
                "leave them out, or say train_only = 'gaussians'",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A training run.

    Attributes:
        output: folder for checkpoints and metrics; an existing checkpoint there is continued.
        minutes: time box of the whole run, resumed parts included.
        phases: parts in order.
        size: row of ``flarecli.model.config_small.SIZES``.
        start: weights file or checkpoint folder to start from; None starts at random.
        textures: folder of pictures for rendering on the fly.
        texture_size: side of the textures in pixels.
        validation: folder of held-out shards, or None.
        device: auto, cpu, cuda, cuda:N.
        threads: CPU threads of torch; None leaves them as they are.
        compile: translate the attention blocks by torch.compile, which needs a C++ compiler and up to two minutes
            at the start of every run. From 192 px on it pays on the CPU too.
        seed: seed of weights, batches and noise.
        lr: AdamW's learning rate.
        muon_lr: Muon's.
        weight_decay: AdamW's, on matrices.
        clip: largest gradient norm.
        warmup: steps of linear warm-up.
        decay: share of the run over which the rates fall.
        ema: smoothing of the weights that are evaluated and exported.
        pose_noise: factor on the noise of the poses that later stages are given.
        log_every: steps between lines of metrics.
        checkpoint_minutes: minutes between checkpoints.
        max_steps: stop after this many steps in all, phases and decay included; None only minds the minutes.
        weights: weights of the losses.
    """

    output: str
    minutes: float
    phases: tuple[Phase, ...]
    size: str = "xs"
    start: str | None = None
    textures: str | None = None
    texture_size: int = 128
    validation: str | None = None
    device: str = "auto"
    threads: int | None = None
    compile: bool = False
    seed: int = 0
    lr: float = 8e-4
    muon_lr: float = 0.01
    weight_decay: float = 0.03
    clip: float = 1.0
    warmup: int = 150
    decay: float = 0.18
    ema: float = 0.998
    pose_noise: float = 1.0
    log_every: int = 20
    checkpoint_minutes: float = 4.0
    max_steps: int | None = None
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise InputError(f"unknown network size {self.size!r}", f"use one of {', '.join(SIZES)}")
        check_ranges(self, "of a training", RUN_RANGES)
        check_ranges(self.weights, "among the weights", WEIGHT_RANGES)
        patch = SIZES[self.size].patch
        for height, width in (c for phase in self.phases if phase.shards is None for c in phase.canvases):
            if height % patch or width % patch:
                raise InputError(
                    f"canvases of size {self.size} must have sides that are multiples of {patch}, not {height}x{width}",
                    f"round them to multiples of {patch}",
                )
        if not self.phases or abs(sum(p.share for p in self.phases) - 1) > 1e-6:
            raise InputError("the shares of the phases must add up to 1", "change them so that they do")

    def progress(self, minutes: float, step: int) -> float:
        """Share of the run that is over, by minutes or by steps, whichever is farther."""
        return max(minutes / self.minutes, step / self.max_steps if self.max_steps else 0.0)

    def phase_at(self, progress: float) -> Phase:
        """The phase that is due at this share of the run."""
        end = 0.0
        for phase in self.phases:
            end += phase.share
            if progress < end:
                return phase
        return self.phases[-1]


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """Read a TOML file with the fields of :class:`TrainConfig`, tables ``[[phases]]`` and ``[weights]``.

    Args:
        path: the file.
        overrides: fields that replace the file's; None values are ignored.

    Raises:
        InputError: the file can't be read, or has unknown, missing or unsuitable values.
    """
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"can't read the training configuration {path}: {error}", "check the path and the syntax of TOML"
        ) from error
    weights = _make(LossWeights, values.pop("weights", {}), f"{path} [weights]")
    phases = tuple(_make(Phase, table, f"{path} [[phases]]") for table in values.pop("phases", []))
    config = _make(TrainConfig, {**values, "weights": weights, "phases": phases}, str(path))
    return replace(config, **{k: v for k, v in (overrides or {}).items() if v is not None})


def _make(kind: type[_T], values: Any, where: str) -> _T:
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must be a table of {kind.__name__}", "see examples/05_train_small.py")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r}", f"known keys: {', '.join(known)}")
    required = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise InputError(f"{where}: {missing[0]!r} is missing", f"needed are {', '.join(required)}")
    given, types = {name: _tuples(value) for name, value in values.items()}, get_type_hints(kind)
    wrong = [name for name, value in given.items() if not _fits(value, types[name])]
    if wrong:
        raise InputError(f"{where}: {wrong[0]} can't be {given[wrong[0]]!r}", f"its type is {known[wrong[0]].type}")
    try:
        return kind(**given)
    except InputError as error:
        raise InputError(f"{where}: {error.message}", error.hint) from error


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value has an annotated type; whole numbers are numbers too, truth values are none."""
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin is UnionType:
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        many = len(parts) == 2 and parts[1] is Ellipsis
        if not isinstance(value, tuple) or not (many or len(value) == len(parts)):
            return False
        return all(map(_fits, value, parts[:1] * len(value) if many else parts))
    if wanted in (int, float):
        return isinstance(value, int if wanted is int else int | float) and not isinstance(value, bool)
    return isinstance(value, wanted)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
