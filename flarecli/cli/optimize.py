"""`flare optimize`: fit a scene's Gaussians to its photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flarecli.cli.console import Talk
from flarecli.cli.evaluate import held_out_choice
from flarecli.cli.options import TalkOptions, take_groups

EPILOG = """
[bold]Examples[/bold]

flare optimize scene

flare optimize scene --minutes 10 --long-side 400

flare optimize scene --steps 1000 --hold-out 6 --resume
"""


@take_groups
def optimize(
    scene: Annotated[Path, typer.Argument(help="Folder that flare reconstruct wrote.")],
    talking: TalkOptions,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Steps of each of the two runs; default 300 on a CPU, 7000 on CUDA.", show_default=False
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Time limit; what is best then is kept.", show_default=False)
    ] = None,
    hold_out: Annotated[
        str | None,
        typer.Option(
            help="Photos that guard: a number k for every k-th, or names with commas; default: every 8th.",
            show_default=False,
        ),
    ] = None,
    long_side: Annotated[
        int | None,
        typer.Option(min=32, help="Longer side of the photos; default 256 on a CPU, 1024 on CUDA.", show_default=False),
    ] = None,
    sh_degree: Annotated[int, typer.Option(min=0, max=3, help="Degree of colours that depend on the direction.")] = 0,
    fixed_cameras: Annotated[bool, typer.Option("--fixed-cameras", help="Trust the cameras as they are.")] = False,
    fixed_exposure: Annotated[
        bool, typer.Option("--fixed-exposure", help="Trust that all photos are exposed alike.")
    ] = False,
    densify: Annotated[
        bool | None,
        typer.Option("--densify/--no-densify", help="Add and remove Gaussians; default on CUDA.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run was cut short.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the order of the photos.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Fit the Gaussians to the photos, as long as held-out photos look better for it."""
    from flarecli.appearance.optimize import OptimizeJob, optimize_scene

    job = OptimizeJob(
        scene=scene,
        steps=steps,
        minutes=minutes,
        hold_out=held_out_choice(hold_out),
        long_side=long_side,
        sh_degree=sh_degree,
        move_cameras=not fixed_cameras,
        adapt_exposure=not fixed_exposure,
        densify=densify,
        resume=resume,
        seed=seed,
        device=device,
    )
    with Talk(talking) as talk:
        with talk.progress() as on_progress:
            done = optimize_scene(job, on_progress)
        before, after = done["held_out_psnr_db"]
        talk.say(
            f"held out ({', '.join(done['held_out'])}): {before:.2f} -> {after:.2f} dB at step {done['best_step']}"
        )
        if done["photos_psnr_db"]:
            talk.say(f"all photos: {done['photos_psnr_db'][0]:.2f} -> {done['photos_psnr_db'][1]:.2f} dB")
        talk.say(
            f"wrote {', '.join(done['files'])}" if done["improved"] else "nothing got better; the scene is as it was"
        )
        talk.result({"command": "optimize", "exit_code": 0, "output": scene} | done)
