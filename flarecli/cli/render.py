"""`flare render`: films, frames and contact sheets of a scene's Gaussians."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from flarecli.cli.console import Talk
from flarecli.cli.options import TalkOptions, take_groups
from flarecli.errors import InputError

_FILM = "Films and frames"

EPILOG = """
[bold]Examples[/bold]

flare render scene -o fly.mp4

flare render scene -o frames --path between --show depth

flare render scene -o sheet.png --contact-sheet
"""


@take_groups
def render(
    scene: Annotated[Path, typer.Argument(help="Folder that flare reconstruct wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="fly.mp4, a folder for PNG frames, or sheet.png.")],
    talking: TalkOptions,
    path: Annotated[
        Literal["orbit", "between", "spiral"] | None,
        typer.Option(
            help="Around the scene (default), through the cameras of the photos, or around the mean camera.",
            rich_help_panel=_FILM,
            show_default=False,
        ),
    ] = None,
    show: Annotated[
        Literal["color", "depth", "normals"] | None,
        typer.Option(help="What the frames show; default: color.", rich_help_panel=_FILM, show_default=False),
    ] = None,
    contact_sheet: Annotated[
        bool, typer.Option("--contact-sheet", help="One PNG: photo, render, error, depth, normals of every photo.")
    ] = False,
    gaussians: Annotated[
        Path | None, typer.Option(help="Gaussians from this .ply, .splat, .spz or .sog instead of the scene's own.")
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(min=1, help="Number of frames; default: 120.", rich_help_panel=_FILM, show_default=False),
    ] = None,
    fps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Frames per second of an .mp4; default: 30.", rich_help_panel=_FILM, show_default=False
        ),
    ] = None,
    long_side: Annotated[
        int | None, typer.Option(min=16, help="Longer side of the pictures; default 640, of a sheet 240.")
    ] = None,
    background: Annotated[
        Literal["black", "white"] | None,
        typer.Option(help="Behind the scene; default: black.", rich_help_panel=_FILM, show_default=False),
    ] = None,
    antialiased: Annotated[bool, typer.Option("--antialiased", help="Keep small Gaussians small.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a film, a sheet, or frames that flare render wrote.")
    ] = False,
) -> None:
    """Render a film, frames, or a contact sheet of a finished scene."""
    from flarecli.appearance.film import FilmLook, write_film
    from flarecli.appearance.paths import make_path
    from flarecli.appearance.photos import load_views, rendering_device, scaled_size
    from flarecli.appearance.sheet import write_contact_sheet
    from flarecli.export.archive import load_scene
    from flarecli.export.gaussian_files import read_gaussians, scene_gaussians
    from flarecli.render.splats import Splats

    with Talk(talking) as talk, talk.progress() as on_progress:
        film_only = [path, show, frames, fps, background]
        _check(output, contact_sheet, any(value is not None for value in film_only), fps is not None)
        reconstruction = load_scene(scene)
        target = rendering_device(device)
        splats = Splats.of(scene_gaussians(reconstruction) if gaussians is None else read_gaussians(gaussians), target)
        result: dict[str, object] = {"command": "render", "exit_code": 0, "output": output, "gaussians": len(splats)}
        if contact_sheet:
            views = load_views(scene, reconstruction, long_side or 240, target)
            scores = write_contact_sheet(
                splats, views, output, antialiased=antialiased, overwrite=overwrite, on_progress=on_progress
            )
            result["psnr_db"] = scores
            talk.say(f"PSNR of the photos: {sum(scores.values()) / len(scores):.2f} dB on average")
        else:
            size_hw = scaled_size([int(v) for v in reconstruction.cameras.size_hw[0]], long_side or 640)
            look = FilmLook(background=float(background == "white"), antialiased=antialiased)
            look = replace(look, quantity=show or look.quantity, fps=fps or look.fps)
            way = make_path(path or "orbit", reconstruction, frames or 120, size_hw)
            write_film(splats, way, output, look, overwrite=overwrite, on_progress=on_progress)
            result |= {"frames": len(way.w2c), "size_hw": size_hw}
        talk.say(f"wrote {output}")
        talk.result(result)


def _check(output: Path, contact_sheet: bool, has_film_options: bool, has_fps: bool) -> None:
    """Refuse options that nothing would come of."""
    if contact_sheet and has_film_options:
        raise InputError(
            "--path, --show, --frames, --fps and --background are for films and frames, not for --contact-sheet",
            "see flare render --help",
        )
    if has_fps and output.suffix.lower() != ".mp4":
        raise InputError(f"--fps is for an .mp4, which {output} is not", "leave it out, or write -o fly.mp4")
