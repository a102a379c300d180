"""A folder of PNG frames: which of them this program wrote, and how new ones take their place."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flarecli.errors import OutputError, OutputExists
from flarecli.export.atomic import OutputFolder, move_all

FrameSink = Callable[[np.ndarray], None]
"""Takes frames (H, W, 3) of uint8 one after the other."""

# Written into every frame. Names tell nothing: photos cut from a video are often called frame_0001.png too.
_MARK = ("Software", "flare render")
_NAME = re.compile(r"frame_\d{4,}\.png")


@contextmanager
def frame_folder(output: Path, count: int, *, overwrite: bool = False) -> Iterator[FrameSink]:
    """Take frames and write them as frame_0000.png and so on; none appears before all are whole.

    With ``overwrite`` they may go into a folder that holds something: all frames of an earlier film make room, also
    those beyond the new end, and every other file stays.

    Args:
        output: the folder; made where it is not there.
        count: how many frames will come.
        overwrite: replace frames that carry the mark of this program.

    Raises:
        OutputExists: the folder holds something, without ``overwrite``; or a file that is no frame of ours has the name
            of a new one.
        InputError: the output is a file.
        OutputError: it can't be written.
    """
    try:
        folder = OutputFolder(output)
    except OutputExists as error:
        if not overwrite:
            hint = "--overwrite replaces the frames that flare render wrote there, or choose another -o"
            raise OutputExists(error.message, hint) from error
    else:
        with folder as staging:
            yield _saver(staging)
        return
    ours = [path for path in sorted(output.iterdir()) if _NAME.fullmatch(path.name) and _is_ours(path)]
    for number in range(count):
        place = output / _name(number)
        if os.path.lexists(place) and place not in ours:
            raise OutputExists(f"{place} was not written by flare render", "move it away, or choose another -o")
    try:
        # On the same disk as the frames, under a name that an output folder takes for no content.
        with tempfile.TemporaryDirectory(prefix=".flare-partial-", dir=output) as beside:
            new, old = Path(beside) / "new", Path(beside) / "old"
            new.mkdir()
            old.mkdir()
            yield _saver(new)
            away = [(path, old / path.name) for path in ours]
            move_all([*away, *((path, output / path.name) for path in sorted(new.iterdir()))])
    except OSError as error:
        hint = "check the folder, its permissions and its space"
        raise OutputError(f"{output} can't be written: {error.strerror or error}", hint) from error


def _name(number: int) -> str:
    return f"frame_{number:04d}.png"


def _saver(folder: Path) -> FrameSink:
    mark = PngInfo()
    mark.add_text(*_MARK)
    count = 0

    def save(frame: np.ndarray) -> None:
        nonlocal count
        Image.fromarray(frame).save(folder / _name(count), compress_level=3, pnginfo=mark)
        count += 1

    return save


def _is_ours(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get(_MARK[0]) == _MARK[1]
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
