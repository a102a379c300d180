"""A folder that appears complete or not at all, and never takes anything away that is not ours."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from flarecli.errors import InputError, OutputError, OutputExists
from flarecli.export.manifest import MANIFEST_NAME, listed_files

# Made by viewers from our own files and never refreshed by them, so keeping one would show the old scene.
_CACHES = ("sparse/0/points3D.ply",)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class OutputFolder:
    """Context manager that stages a folder beside its final place and renames it when the block succeeds.

    ``with OutputFolder(path) as staging:`` gives an empty hidden sibling to write into. An error or an interrupt
    removes the sibling and leaves what was at ``path`` as it was. With ``overwrite``, files that the old ``flare.json``
    lists are replaced; everything else in the old folder stays.

    Args:
        target: folder to make; its parents are made too.
        overwrite: replace an existing output of this program.
        sources: photo files and folders that the output must not mix with.

    Raises:
        OutputExists: the target holds something and ``overwrite`` is false, or a foreign file has a new one's name.
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
        if self.overwrite or not self.target.is_dir():
            return
        try:
            empty = next(self.target.iterdir(), None) is None
        except OSError as error:
            raise OutputError(f"{self._shown} can't be read: {error.strerror}", "check its permissions") from error
        if not empty:
            raise OutputExists(
                f"{self._shown} exists and is not empty",
                "--overwrite replaces our files in it, --resume keeps a finished result, or choose another -o",
            )

    def __enter__(self) -> Path:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            staging = tempfile.mkdtemp(prefix=f".{self.target.name[:100]}.partial-", dir=self.target.parent)
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
        if self.target.is_dir() and next(self.target.iterdir(), None) is not None:
            self._replace(staging)
            return
        if self.target.is_dir():
            self.target.rmdir()
        staging.rename(self.target)

    def _replace(self, staging: Path) -> None:
        """Put the new folder in the place of the old one and move foreign files over."""
        self._check_existing()
        ours = {MANIFEST_NAME, *_CACHES, *listed_files(self.target)}
        foreign = [path for path in _entries(self.target) if path.as_posix() not in ours]
        for path in foreign:
            clash = _clash(staging, self.target, path)
            if clash:
                raise OutputExists(
                    f"{self._shown / path} is not ours and has the place of a new file",
                    "move it away, or choose another -o",
                )
        old = Path(tempfile.mkdtemp(prefix=f".{self.target.name[:100]}.old-", dir=self.target.parent))
        self.target.rename(old / "scene")
        try:
            staging.rename(self.target)
        except OSError:
            (old / "scene").rename(self.target)
            old.rmdir()
            raise
        for path in foreign:
            source, place = old / "scene" / path, self.target / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir() and not source.is_symlink():
                place.mkdir(exist_ok=True)
            else:
                source.rename(place)
        # All that is left in there was listed by the old manifest.
        shutil.rmtree(old)


def _entries(folder: Path) -> list[Path]:
    """Relative paths of all files, links and empty folders below a folder; links are not followed."""
    found = []
    for root, folders, files in os.walk(folder):
        base = Path(root).relative_to(folder)
        found += [base / name for name in files]
        found += [base / name for name in folders if (Path(root) / name).is_symlink()]
        if not files and not folders and base.parts:
            found.append(base)
    return found


def _clash(staging: Path, target: Path, path: Path) -> bool:
    """Whether a foreign entry can't be put into the new folder under its old path."""
    new = staging / path
    if any((staging / parent).is_file() for parent in path.parents):
        return True
    if new.is_symlink() or not new.exists():
        return new.is_symlink()
    return not (new.is_dir() and (target / path).is_dir())
