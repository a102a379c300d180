"""`flare train`: train a network from a TOML file, or the shipped one further on own scenes or photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flarecli.cli.console import Talk
from flarecli.cli.evaluate import held_out_choice
from flarecli.cli.options import TalkOptions, take_groups
from flarecli.errors import InputError

_FINE_TUNE_MINUTES = 20.0
_SELF_SUPERVISED_MINUTES = 10.0
_OWN, _SELF = "Own scenes and photos", "Self-supervised"

EPILOG = """
[bold]Examples[/bold]

flare train --config run.toml

flare train --fine-tune scene other-scene -o tuned

flare train --self-supervised photos -o adapted --minutes 10

flare reconstruct photos -o scene --weights adapted/flare-small.safetensors --refine none
"""


@take_groups
def train(
    talking: TalkOptions,
    scenes: Annotated[
        list[Path] | None,
        typer.Argument(
            help="With --fine-tune: scenes with cameras (COLMAP, transforms.json, or made by flarecli). "
            "With --self-supervised: photos of one scene.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file of the run.", show_default=False)
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Stop after this time, whatever the file says; 20 for --fine-tune, 10 for --self-supervised, which "
            "solves cameras before and compares afterwards on top of it; none where --steps are given.",
            min=0,
            show_default=False,
        ),
    ] = None,
    fine_tune: Annotated[
        bool,
        typer.Option("--fine-tune", help="Train the shipped network further on SCENES.", rich_help_panel=_OWN),
    ] = False,
    self_supervised: Annotated[
        bool,
        typer.Option(
            "--self-supervised",
            help="Adapt the shipped network to photos alone, as long as held-out photos look better for it.",
            rich_help_panel=_OWN,
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write.", show_default=False, rich_help_panel=_OWN)
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Begin with this file, not the shipped one.", show_default=False, rich_help_panel=_OWN),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Stop after this many steps; without --minutes the same run gives the same weights.",
            show_default=False,
            rich_help_panel=_OWN,
        ),
    ] = None,
    hold_out: Annotated[
        str | None,
        typer.Option(
            help="Photos that guard: a number k for every k-th, or names with commas; default: every 5th.",
            show_default=False,
            rich_help_panel=_SELF,
        ),
    ] = None,
    intrinsics: Annotated[
        str | None,
        typer.Option(help="Known intrinsics, as for flare reconstruct.", show_default=False, rich_help_panel=_SELF),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a run was cut short.", rich_help_panel=_OWN)
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of the photos.", rich_help_panel=_OWN)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_OWN)] = "auto",
) -> None:
    """Train a network; a run with --config that was stopped goes on where it was."""
    both = {"steps": steps, "resume": resume, "seed": seed, "device": device}
    own = {"hold_out": held_out_choice(hold_out), "intrinsics": intrinsics}
    with Talk(talking) as talk:
        _check(
            [config is not None, fine_tune, self_supervised],
            bool(scenes) and output is not None,
            scenes is not None or output is not None or weights is not None,
            own != {"hold_out": None, "intrinsics": None},
            both != {"steps": None, "resume": False, "seed": 0, "device": "auto"},
        )
        if config is not None:
            _run(talk, config, {} if minutes is None else {"minutes": minutes})
            return
        assert scenes and output is not None  # looked at above
        usual = _FINE_TUNE_MINUTES if fine_tune else _SELF_SUPERVISED_MINUTES
        both |= {"minutes": usual if minutes is None and steps is None else minutes}
        both |= {"output": output, "weights": weights}
        if fine_tune:
            _fine_tune(talk, {"scenes": tuple(scenes)} | both)
        else:
            _adapt(talk, {"sources": tuple(map(str, scenes))} | own | both)


def _check(
    ways: list[bool], has_scenes_and_output: bool, has_any: bool, has_self_options: bool, has_run_options: bool
) -> None:
    """Refuse options that contradict each other."""
    config, fine_tune, self_supervised = ways
    if sum(ways) != 1:
        raise InputError(
            "give one of --config FILE.toml, --fine-tune SCENES... and --self-supervised PHOTOS...",
            "see flare train --help",
        )
    if config and has_any:
        raise InputError("--config takes no SCENES, --output or --weights", "write them into the file")
    if config and has_run_options:
        raise InputError(
            "--config takes no --steps, --seed or --device, and always goes on where it was",
            "write max_steps, seed and device into the file",
        )
    if (fine_tune or self_supervised) and not has_scenes_and_output:
        way, what = ("--fine-tune", "SCENES") if fine_tune else ("--self-supervised", "PHOTOS")
        raise InputError(f"{way} needs {what} and --output", "see flare train --help")
    if has_self_options and not self_supervised:
        raise InputError("--hold-out and --intrinsics are for --self-supervised", "see flare train --help")


def _run(talk: Talk, config: Path, overrides: dict[str, Any]) -> None:
    from flarecli.train.loop import train_from_toml
    from flarecli.train.ship import WEIGHTS_NAME

    with talk.progress() as on_progress:
        checkpoint = train_from_toml(config, on_progress, **overrides)
    weights = checkpoint.parent / WEIGHTS_NAME
    talk.say(f"wrote {checkpoint} and {weights}")
    talk.result({"command": "train", "exit_code": 0, "checkpoint": checkpoint, "weights": weights})


def _fine_tune(talk: Talk, options: dict[str, Any]) -> None:
    from flarecli.train.finetune import FineTuneJob, fine_tune

    with talk.progress() as on_progress:
        made = fine_tune(FineTuneJob(**options), on_progress)
    talk.say(f"wrote {made}")
    talk.result({"command": "train", "exit_code": 0, "weights": made})


def _adapt(talk: Talk, options: dict[str, Any]) -> None:
    from flarecli.adapt.run import AdaptJob, adapt

    with talk.progress() as on_progress:
        done = adapt(AdaptJob(**options), on_progress)
    before, after = done["held_out_psnr_db"]
    held_out = ", ".join(done["held_out"])
    if done["unverified"]:
        talk.say(f"not learned from, for their cameras are not verified: {', '.join(done['unverified'])}")
    if done["improved"]:
        talk.say(f"held out ({held_out}): {before:.2f} -> {after:.2f} dB, weights of step {done['best_step']}")
    else:
        talk.say(f"nothing was gained on {held_out} ({before:.2f} dB); the weights are those it began with")
    talk.say(f"wrote {done['weights']}")
    talk.result({"command": "train", "exit_code": 0} | done)
