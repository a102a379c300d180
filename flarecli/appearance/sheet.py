"""The contact sheet: every photo beside its rendering and the difference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from flarecli.appearance.photos import Progress, View, show
from flarecli.appearance.pictures import color_picture, depth_picture, error_picture, normals_picture
from flarecli.errors import InputError, OutputError, OutputExists
from flarecli.render.quality import psnr
from flarecli.render.splats import Splats

_TEXT_HEIGHT, _GAP, _COLUMNS = 14, 4, 5


def write_contact_sheet(
    splats: Splats,
    views: Sequence[View],
    output: Path,
    *,
    antialiased: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> dict[str, float]:
    """Write rows of photo, rendering, error, depth and normals as one PNG; returns the PSNR in dB of every photo.

    Raises:
        InputError: the output does not end in .png.
        OutputExists: the output is there already, without ``overwrite``, or a folder.
        OutputError: it can't be written.
    """
    if output.is_dir():
        raise OutputExists(f"{output} is a folder", "choose another -o, such as sheet.png")
    # JPEG can't hold the height of some hundred rows, so the sheet has one form only.
    if output.suffix.lower() != ".png":
        raise InputError(f"{output}: a contact sheet is a .png", "write -o sheet.png")
    if output.exists() and not overwrite:
        raise OutputExists(f"{output} exists", "--overwrite replaces it, or choose another -o")
    rows, scores = [], {}
    for index, view in enumerate(views):
        with torch.no_grad():
            rendered = show(splats, view, antialiased=antialiased, with_normals=True)
        scores[view.name] = psnr(rendered.color[0], view.rgb, view.weight)
        photo = (view.rgb * 255).round().byte().cpu().numpy()
        picture = color_picture(rendered)
        seen = rendered.depth[0][rendered.alpha[0] > 0.5].cpu().numpy()
        near, far = np.percentile(seen, (2, 98)) if seen.size else (0.1, 1.0)
        depth = depth_picture(rendered, (float(near), float(max(far, near * 1.001))))
        rows.append([photo, picture, error_picture(picture, photo), depth, normals_picture(rendered)])
        if on_progress:
            on_progress("sheet", index + 1, len(views))
    labels = [f"{name}   {score:.2f} dB   photo | render | error | depth | normals" for name, score in scores.items()]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        part = output.with_name(f".{output.name}.part")
        _paste(rows, labels).save(part, "PNG")
        part.replace(output)
    except OSError as error:
        raise OutputError(
            f"{output} can't be written: {error.strerror or error}", "check the folder, its permissions and its space"
        ) from error
    return scores


def _paste(rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str]) -> Image.Image:
    width = max(row[0].shape[1] for row in rows)
    height = sum(row[0].shape[0] + _TEXT_HEIGHT + _GAP for row in rows)
    sheet = Image.new("RGB", (_COLUMNS * (width + _GAP), height), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for row, label in zip(rows, labels, strict=True):
        draw.text((2, top + 1), label, fill="black")
        for column, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (column * (width + _GAP), top + _TEXT_HEIGHT))
        top += row[0].shape[0] + _TEXT_HEIGHT + _GAP
    return sheet
