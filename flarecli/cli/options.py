"""Every option that more than one command has, declared once, in groups that commands take as one parameter."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from flarecli.errors import InputError
from flarecli.job import DEFAULT_EXPORTS, SceneJob
from flarecli.runtime import parse_size

Command = TypeVar("Command", bound=Callable[..., Any])


def _default(each: Field[Any]) -> Any:
    return each.default if each.default_factory is MISSING else each.default_factory()


def take_groups(command: Command) -> Command:
    """Let a command take option groups: each parameter whose type is a dataclass becomes the options of its fields."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint) and isinstance(hint, type)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        if group is None:
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY))
            continue
        types = get_type_hints(group, include_extras=True)
        parameters += [
            inspect.Parameter(each.name, parameter.KEYWORD_ONLY, default=_default(each), annotation=types[each.name])
            for each in fields(group)
        ]

    @functools.wraps(command)
    def with_groups(**values: Any) -> Any:
        made = {name: group(**{f.name: values.pop(f.name) for f in fields(group)}) for name, group in groups.items()}
        return command(**values, **made)

    with_groups.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_groups.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_groups  # type: ignore[return-value]


def split_commas(values: list[str]) -> tuple[str, ...]:
    """``["a,b", "c"]`` to ``("a", "b", "c")``: a list option may be repeated, joined by commas, or both."""
    names = [name.strip() for value in values for name in value.split(",")]
    return tuple(dict.fromkeys(name for name in names if name))


def check_formats(names: tuple[str, ...], option: str) -> tuple[str, ...]:
    """Refuse names that are no export format.

    Raises:
        typer.BadParameter: a name is unknown.
    """
    from flarecli.export import EXPORTERS

    unknown = [name for name in names if name not in EXPORTERS]
    if unknown:
        raise typer.BadParameter(
            f"unknown format {', '.join(unknown)}; known are {', '.join(EXPORTERS)}", None, None, option
        )
    return names


def _bytes(text: str) -> int:
    try:
        return parse_size(text)
    except InputError as error:
        raise typer.BadParameter(f"{error.message}. {error.hint}".rstrip(". ")) from error


@dataclass(frozen=True)
class TalkOptions:
    """How a command talks; every command has them."""

    json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON object on stdout and nothing else there.", rich_help_panel="Messages"
        ),
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only warnings and errors.", rich_help_panel="Messages")
    ] = False
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            show_default=False,
            help="More messages; -vv adds those of libraries.",
            rich_help_panel="Messages",
        ),
    ] = 0
    log_file: Annotated[
        Path | None,
        typer.Option(
            "--log-file", dir_okay=False, help="Also write all messages to this file.", rich_help_panel="Messages"
        ),
    ] = None
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel="Messages")
    ] = False


_INPUT, _MODEL, _MEMORY, _REFINE, _OUTPUT = "Input", "Model", "Memory", "Refine", "Output"


@dataclass(frozen=True)
class SceneOptions:
    """Options of one reconstruction: the fields of SceneJob that a command line may set. Used by reconstruct, batch."""

    masks: Annotated[
        Path | None,
        typer.Option(help="Folder with one mask per photo, black = ignore.", rich_help_panel=_INPUT),
    ] = SceneJob.masks
    poses: Annotated[
        Path | None,
        typer.Option(help="Known poses: a COLMAP model or transforms.json.", rich_help_panel=_INPUT),
    ] = SceneJob.poses
    intrinsics: Annotated[
        str | None,
        typer.Option(
            help="Known intrinsics: a COLMAP model, transforms.json, 35mm=28, or exif to trust the photos.",
            rich_help_panel=_INPUT,
        ),
    ] = SceneJob.intrinsics
    shared_camera: Annotated[
        Literal["auto", "none", "folder", "all"],
        typer.Option(help="Which photos share one camera.", rich_help_panel=_INPUT),
    ] = SceneJob.shared_camera
    strict: Annotated[
        bool,
        typer.Option("--strict", help="A broken photo is an error, not a line in the report.", rich_help_panel=_INPUT),
    ] = SceneJob.strict

    model: Annotated[str, typer.Option(help="Network; `flare weights list` shows them.", rich_help_panel=_MODEL)] = (
        SceneJob.model
    )
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights file instead of the shipped or downloaded one.", rich_help_panel=_MODEL),
    ] = SceneJob.weights
    preset: Annotated[
        Literal["fast", "balanced", "best"], typer.Option(help="Time against quality.", rich_help_panel=_MODEL)
    ] = SceneJob.preset
    seed: Annotated[int, typer.Option(help="Seed of every random choice.", rich_help_panel=_MODEL)] = SceneJob.seed
    license_policy: Annotated[
        Literal["any", "commercial"],
        typer.Option(help="commercial refuses weights that forbid commercial use.", rich_help_panel=_MODEL),
    ] = SceneJob.license_policy
    offline: Annotated[bool, typer.Option("--offline", help="Never download.", rich_help_panel=_MODEL)] = (
        SceneJob.offline
    )

    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=_MEMORY)] = (
        SceneJob.device
    )
    max_memory: Annotated[
        int | None,
        typer.Option(
            help="Memory the network may use, for example 4G; default: half of what is free.",
            parser=_bytes,
            metavar="SIZE",
            rich_help_panel=_MEMORY,
        ),
    ] = SceneJob.max_memory

    refine: Annotated[
        Literal["auto", "none", "ba"],
        typer.Option(
            help="auto verifies and refines, ba only adjusts the network's cameras, none keeps them.",
            rich_help_panel=_REFINE,
        ),
    ] = SceneJob.refine
    fit_poses: Annotated[
        Literal["auto", "on", "off"],
        typer.Option(
            help="Fit the network's cameras to how its Gaussians look in the photos; auto: networks without pose head.",
            rich_help_panel=_REFINE,
        ),
    ] = SceneJob.fit_poses
    min_registered: Annotated[
        float,
        typer.Option(
            help="Fraction of photos that need a verified camera; fewer is exit code 6. With --refine none nothing is "
            "verified: every photo that was not dropped counts.",
            min=0,
            max=1,
            rich_help_panel=_REFINE,
        ),
    ] = SceneJob.min_registered

    export: Annotated[
        list[str],
        typer.Option(
            help="Formats to write, comma-separated or repeated; `flare formats` lists them.", rich_help_panel=_OUTPUT
        ),
    ] = field(default_factory=lambda: list(DEFAULT_EXPORTS))
    mesh: Annotated[
        Literal["tsdf", "poisson", "none"], typer.Option(help="How the mesh is made.", rich_help_panel=_OUTPUT)
    ] = SceneJob.mesh
    depth_exr: Annotated[
        bool, typer.Option("--depth-exr", help="Also write depth as EXR.", rich_help_panel=_OUTPUT)
    ] = SceneJob.depth_exr
    colmap_text: Annotated[
        bool, typer.Option("--colmap-text", help="Also write the COLMAP model as text.", rich_help_panel=_OUTPUT)
    ] = SceneJob.colmap_text
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an earlier result in the output folder.", rich_help_panel=_OUTPUT),
    ] = SceneJob.overwrite
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep a finished result of the same photos and options, refuse another unless --overwrite is given.",
            rich_help_panel=_OUTPUT,
        ),
    ] = SceneJob.resume

    def to_job(self, sources: tuple[str, ...], output: Path) -> SceneJob:
        """The job that these options describe.

        Raises:
            typer.BadParameter: options that exclude each other or that nothing would come of, or an unknown export
                format.
        """
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "export"}
        exports = check_formats(split_commas(self.export), "--export")
        asked = {"mesh", "mesh-poisson"} & set(exports)
        # The formats of the default are no wish of the user's, so --mesh none may leave the mesh out of them.
        if self.mesh == "none" and asked and exports != DEFAULT_EXPORTS:
            raise typer.BadParameter(f"--mesh none and --export {min(asked)} exclude each other")
        if self.mesh == "poisson" and not asked:
            raise typer.BadParameter("--mesh poisson writes nothing without mesh among the formats of --export")
        return SceneJob(sources=sources, output=output, exports=exports, **values)
