"""`flare eval`: a reconstruction against a reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from flarecli.cli.console import Talk
from flarecli.cli.options import TalkOptions, split_commas, take_groups
from flarecli.errors import InputError

_HIDDEN = ("scene", "reference", "missing", "unmatched", "held_out", "photos_by_name")
_NOVEL = "Novel views"


@take_groups
def evaluate(
    scene: Annotated[Path, typer.Argument(help="Scene folder, COLMAP model or transforms.json to judge.")],
    talking: TalkOptions,
    reference: Annotated[
        Path | None,
        typer.Argument(help="COLMAP model, cameras.json or transforms.json that is true.", show_default=False),
    ] = None,
    photos: Annotated[
        str | None,
        typer.Option(
            help="Which photos count: all (of the reference) or a text file with one name per line; "
            "default: the input photos of the scene.",
            show_default=False,
        ),
    ] = None,
    nvs: Annotated[
        bool, typer.Option("--nvs", help="Also judge novel views: hold photos out and render them.")
    ] = False,
    hold_out: Annotated[
        str | None,
        typer.Option(
            help="Photos to hold out: a number k for every k-th, or names with commas; default: every 8th.",
            rich_help_panel=_NOVEL,
            show_default=False,
        ),
    ] = None,
    long_side: Annotated[
        int | None,
        typer.Option(
            min=32,
            help="Longer side of the pictures that are compared; default: 512.",
            rich_help_panel=_NOVEL,
            show_default=False,
        ),
    ] = None,
    lpips_weights: Annotated[
        Path | None,
        typer.Option(help="AlexNet or VGG-16 weights of torchvision, for LPIPS.", rich_help_panel=_NOVEL),
    ] = None,
    align_poses: Annotated[
        bool,
        typer.Option("--align-poses", help="Also after fitting each held-out camera.", rich_help_panel=_NOVEL),
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, cuda or cuda:N; default: auto.", rich_help_panel=_NOVEL, show_default=False),
    ] = None,
) -> None:
    """Compare cameras, depth and points with a reference, or novel views with held-out photos.

    A photo without a camera counts as 180 degrees.
    """
    if reference is None and not nvs:
        raise typer.BadParameter("give a REFERENCE, or --nvs for novel views", None, None, "REFERENCE")
    from flarecli.evaluate.scene import ALL_PHOTOS, evaluate_scene

    own: dict[str, Any] = {"hold_out": held_out_choice(hold_out), "long_side": long_side, "device": device}
    own |= {"lpips_weights": lpips_weights, "align_poses": align_poses or None}
    own = {name: value for name, value in own.items() if value is not None}
    with Talk(talking) as talk:
        _check(reference is not None, nvs, photos is not None, bool(own))
        numbers: dict[str, Any] = {"scene": str(scene)}
        title = str(scene)
        if reference is not None:
            names = photos if photos is None or photos == ALL_PHOTOS else _read_names(Path(photos))
            numbers |= evaluate_scene(scene, reference, photos=names)
            title = f"{scene} against {reference}"
        if nvs:
            from flarecli.evaluate.novel_views import NovelViewOptions, evaluate_novel_views

            with talk.progress() as on_progress:
                numbers["nvs"] = evaluate_novel_views(scene, NovelViewOptions(**own), on_progress)
        talk.result({"command": "eval", "exit_code": 0} | numbers)
        if not talking.json:
            talk.table(("metric", "value"), rows(numbers), title=title)
        _say(talk, numbers)


def _check(has_reference: bool, nvs: bool, has_photos: bool, has_novel_options: bool) -> None:
    """Refuse options that nothing would come of."""
    if has_photos and not has_reference:
        raise InputError("--photos is for the comparison with a REFERENCE", "see flare eval --help")
    if has_novel_options and not nvs:
        raise InputError(
            "--hold-out, --long-side, --lpips-weights, --align-poses and --device are for --nvs",
            "see flare eval --help",
        )


def _say(talk: Talk, numbers: Mapping[str, Any]) -> None:
    if numbers.get("missing"):
        talk.say(f"without a camera: {', '.join(numbers['missing'])}")
    if numbers.get("unmatched"):
        talk.say(f"not in the reference: {', '.join(numbers['unmatched'])}")
    if "nvs" in numbers:
        talk.say(f"held out: {', '.join(numbers['nvs']['held_out'])}")
        if numbers["nvs"]["lpips"] is None:
            talk.say("no LPIPS: it needs the weights of a backbone (--lpips-weights)")


def held_out_choice(text: str | None) -> int | list[str] | None:
    """What --hold-out says: every k-th photo, or names."""
    if text is None:
        return None
    return int(text) if text.isdecimal() else list(split_commas([text]))


def _read_names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        hint = "give a text file with one name per line, or all"
        raise InputError(f"{path}: the list of photos can't be read: {error}", hint) from error
    return [line.strip() for line in lines if line.strip()]


def rows(numbers: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The metrics as table rows; those of a group carry its name, and what is undefined shows a dash."""
    out: list[tuple[str, str]] = []
    for name, value in numbers.items():
        if name in _HIDDEN:
            continue
        if isinstance(value, Mapping):
            out += rows(value, f"{prefix}{name}.")
        elif value is None or value != value:
            out.append((prefix + name, "-"))
        else:
            out.append((prefix + name, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return out
