"""A folder that appears complete or not at all, and never takes anything away that is not ours."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from flarecli.errors import InputError, OutputError, OutputExists
from flarecli.export.colmap import CACHED_POINTS, refuse_text_model
from flarecli.export.manifest import MANIFEST_NAME, listed_files

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_PARTIAL, _OLD = ".flare-partial-", ".flare-old-"
_PHOTOS = ("images", "masks")


class OutputFolder:
    """Context manager that gives a hidden folder to write into; its files move to their place when the block succeeds.

    A new output is staged beside its place and renamed as a whole. A folder that is there already keeps its place (it
    may be a mount point, or the current folder of a shell): it is staged inside of it, and files move up one by one.
    An error or an interrupt removes the hidden folder and leaves what was at ``path`` as it was. With ``overwrite``,
    files that the old ``flare.json`` lists are replaced; everything else in the old folder stays untouched.

    Args:
        target: folder to make; its parents are made too.
        overwrite: replace an existing output of this program.
        sources: photo files and folders that the output must not mix with.

    Raises:
        OutputExists: the target holds something and ``overwrite`` is false, a foreign file has a new one's name, or
            a foreign COLMAP model would be read instead of a new one.
        InputError: the target is a file, a photo folder, or lies inside of one.
        OutputError: the disk is full or the place is not writable.
    """

    def __init__(self, target: Path, *, overwrite: bool = False, sources: Sequence[Path] = ()) -> None:
        self.target = target.expanduser().resolve()
        self.overwrite = overwrite
        self._shown = target
        self._staging: Path | None = None
        self._check_place(sources)
        self._check_existing()

    def _check_place(self, sources: Sequence[Path]) -> None:
        if not self.target.name:
            raise InputError(f"{self._shown} can't be an output folder", "choose another -o")
        if self.target.exists() and not self.target.is_dir():
            raise InputError(f"{self._shown} is a file, not a folder", "choose another -o")
        for source in sources:
            resolved = source.resolve()
            if self.target == resolved:
                raise InputError(f"{self._shown} is the photos folder itself", "choose another -o")
            if resolved.is_dir() and resolved in self.target.parents:
                raise InputError(
                    f"{self._shown} lies inside the photos folder {source}",
                    "choose an -o beside it, or its images would be input of the next run",
                )

    def _check_existing(self) -> None:
        if not self.target.is_dir():
            return
        if self.overwrite:
            refuse_text_model(self.target)
            return
        try:
            # What a killed run left behind is no content.
            empty = all(path.name.startswith((_PARTIAL, _OLD)) for path in self.target.iterdir())
        except OSError as error:
            raise OutputError(f"{self._shown} can't be read: {error.strerror}", "check its permissions") from error
        if not empty:
            raise OutputExists(
                f"{self._shown} exists and is not empty",
                "--overwrite replaces our files in it, --resume keeps a finished result if nothing that decides it "
                "changed, or choose another -o",
            )

    def keep_clear_of(self, photos: Iterable[Path]) -> None:
        """Refuse photos or masks that lie where the copies of the output go.

        Raises:
            InputError: one does; the message names it.
        """
        for photo in photos:
            for name in _PHOTOS:
                if self.target / name in photo.resolve().parents:
                    raise InputError(
                        f"{photo} lies in {self._shown / name}, where the output's own copies go", "choose another -o"
                    )

    def __enter__(self) -> Path:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            inside = self.target.is_dir()
            prefix, place = (_PARTIAL, self.target) if inside else (f".{self.target.name[:100]}.partial-", None)
            staging = tempfile.mkdtemp(prefix=prefix, dir=place or self.target.parent)
        except OSError as error:
            raise OutputError(f"{self._shown} can't be written: {error.strerror}", "choose another -o") from error
        self._staging = Path(staging)
        # mkdtemp makes private folders; a result has the permissions of any new folder.
        umask = os.umask(0)
        os.umask(umask)
        self._staging.chmod(0o777 & ~umask)
        return self._staging

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._staging is not None
        try:
            if error is None:
                self._publish(self._staging)
        except OSError as failure:
            raise self._output_error(failure) from failure
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
        if isinstance(error, OSError) and self._is_ours(error):
            raise self._output_error(error) from error

    def _is_ours(self, error: OSError) -> bool:
        """Whether an error of the block is about writing the output rather than about reading something else."""
        inside = isinstance(error.filename, str | os.PathLike) and str(self._staging) in os.fspath(error.filename)
        return error.errno in _NO_SPACE or inside

    def _output_error(self, error: OSError) -> OutputError:
        full = error.errno in _NO_SPACE
        hint = "free some space" if full else "check the permissions, or choose another -o"
        return OutputError(f"{self._shown} can't be written: {error.strerror or error}", hint)

    def _publish(self, staging: Path) -> None:
        if staging.parent != self.target:
            self._check_existing()  # somebody else may have made it meanwhile
            if self.target.is_dir():
                self.target.rmdir()
            staging.rename(self.target)
            return
        listed = {MANIFEST_NAME, CACHED_POINTS, *listed_files(self.target)}
        old = sorted(path for path in map(Path, listed) if _is_plain_file(self.target, path))
        new = sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_symlink() or path.is_file())
        self._check_existing_files(new, set(old))
        backup = self.target / staging.name.replace(_PARTIAL, _OLD, 1)
        away = [(self.target / path, backup / path) for path in old]
        move_all([*away, *((staging / path, self.target / path) for path in new)])
        shutil.rmtree(backup, ignore_errors=True)
        for folder in sorted({parent for path in old for parent in path.parents if parent.parts}, reverse=True):
            with contextlib.suppress(OSError):
                (self.target / folder).rmdir()  # refuses while anything is in there

    def _check_existing_files(self, new: Sequence[Path], ours: set[Path]) -> None:
        """Refuse new files whose place, or that of one of their folders, is taken by something that is not ours."""
        for path in new:
            taken = None if path in ours or not os.path.lexists(self.target / path) else path
            for parent in path.parents:
                place = self.target / parent
                if parent.parts and (place.is_symlink() or (os.path.lexists(place) and not place.is_dir())):
                    taken = None if parent in ours else parent
            if taken is not None:
                raise OutputExists(
                    f"{self._shown / taken} is not ours and has the place of a new file",
                    "move it away, or choose another -o",
                )


def _is_plain_file(folder: Path, path: Path) -> bool:
    """Whether a relative path leads to a file without passing links, which could lead out of the folder."""
    place = folder / path
    return place.is_file() and not place.is_symlink() and not any((folder / p).is_symlink() for p in path.parents)


def move_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename files in this order; an error or an interrupt takes all of it back."""
    begun: list[tuple[Path, Path]] = []
    made: list[Path] = []
    try:
        for source, place in moves:
            missing = [parent for parent in place.parents if not parent.exists()]
            made += reversed(missing)
            place.parent.mkdir(parents=True, exist_ok=True)
            begun.append((source, place))
            source.rename(place)
    except BaseException:
        for source, place in reversed(begun):
            if not os.path.lexists(source):
                place.rename(source)
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
