"""Find photo files: folders, globs, single files, text lists, standard input. No decoding.

Order: sources as they were given; inside a folder, a glob or a run of single files by natural sort (``IMG_2`` before
``IMG_10``); inside a list as listed.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from flarecli.errors import InputError

PHOTO_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .tif .tiff .webp .bmp .dib .heic .heif .hif .avif .jp2 .ppm .pgm .pnm".split()
)
RAW_SUFFIXES = frozenset(".dng .cr2 .cr3 .crw .nef .nrw .arw .srf .orf .rw2 .raf .pef .srw .3fr .iiq .x3f".split())
VIDEO_SUFFIXES = frozenset(".mp4 .mov .m4v .avi .mkv .webm .mts .m2ts .insv .360".split())
_IGNORED_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN"})


@dataclass(frozen=True, slots=True)
class FoundFile:
    """One file that may be a photo.

    Attributes:
        path: absolute path.
        name: path relative to the source, forward slashes; unique among all found files.
        root: folder that ``name`` is relative to.
        problem: why it can't be a photo; empty when it has to be decoded to know.
        hint: what to do about the problem.
    """

    path: Path
    name: str
    root: Path
    problem: str = ""
    hint: str = ""


def natural_key(name: str) -> tuple[object, ...]:
    """Sort key under which numbers inside names count as numbers and folders keep together."""
    parts = [re.findall(r"\d+|\D+", part) for part in name.split("/")]
    return tuple(tuple((0, int(t), "") if t[0].isdecimal() else (1, 0, t.casefold()) for t in p) for p in parts), name


def find_files(sources: Sequence[str | Path], *, exclude: Path | None = None) -> tuple[FoundFile, ...]:
    """Find the files that the sources name, each file once.

    Args:
        sources: folders (searched recursively), glob patterns, files, ``.txt`` lists with one path per line relative to
            the list's folder, or ``-`` for such a list on standard input.
        exclude: folder whose content is no photo even when it lies inside a source (the masks).

    Raises:
        InputError: a source does not exist or a pattern matches nothing.
    """
    found: list[FoundFile] = []
    run_of_files: list[Path] = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_file() and path.suffix.lower() != ".txt":
            run_of_files.append(path)
            continue
        found += _rooted(run_of_files)
        run_of_files = []
        found += _expand(str(source), path)
    found += _rooted(run_of_files)
    return tuple(_unique_names(_once(found, exclude)))


def count_suffixes(sources: Sequence[str | Path]) -> str:
    """What lies in the folders among the sources, for an error: ``3 .mp4, 2 .txt``; empty when nothing does."""
    counts: Counter[str] = Counter()
    for source in sources:
        folder = Path(source).expanduser()
        if folder.is_dir():
            counts.update(path.suffix.lower() or "without suffix" for path in _walk(folder))
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(4))


def _expand(text: str, path: Path) -> list[FoundFile]:
    """Files of a folder, list, standard input or glob."""
    if text == "-":
        return _listed(sys.stdin.read(), Path.cwd())
    if path.is_dir():
        root = _absolute(path)
        return [_found(item, root) for item in _sorted(_walk(root), root) if _is_candidate(item)]
    if path.is_file():
        try:
            return _listed(path.read_text(encoding="utf-8-sig"), _absolute(path).parent)
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not a text list of photos", "write one path per line, in UTF-8") from error
    if glob.has_magic(text):
        matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        files = [match for match in matches if match.is_file() and _is_candidate(match)]
        if not files:
            raise InputError(f"no photo matches {text}", "check the pattern; capital letters count")
        fixed = [part for part in path.parts[: next(i for i, p in enumerate(path.parts) if glob.has_magic(p))]]
        root = _absolute(Path(*fixed))
        return [_found(item, root) for item in _sorted(files, root)]
    raise InputError(f"{text}: no such file or folder", "give a folder, photos, a glob in quotes, or a .txt list")


def _absolute(path: Path) -> Path:
    """Absolute and without "..", but through links as they were named: names come from here."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (resolve() would follow links)


def _walk(root: Path) -> Iterator[Path]:
    """All files below a folder, links followed, without hidden files and folders of other programs."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _IGNORED_FOLDERS]
        yield from (Path(folder, name) for name in files if not name.startswith("."))


def _is_candidate(path: Path) -> bool:
    """Whether a file that was not named itself may be a photo; raw files only when no developed copy is beside."""
    suffix = path.suffix.lower()
    if suffix in RAW_SUFFIXES:
        beside = (path.with_suffix(form) for low in PHOTO_SUFFIXES for form in (low, low.upper()))
        return not any(copy.exists() for copy in beside)
    return suffix in PHOTO_SUFFIXES and not path.name.startswith(".")


def _listed(text: str, base: Path) -> list[FoundFile]:
    """Files of a list; a listed folder or glob is expanded in its place."""
    found: list[FoundFile] = []
    files: list[Path] = []
    for raw in text.split("\0") if "\0" in text else text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        path = base / Path(line).expanduser()
        if path.is_dir() or (glob.has_magic(line) and not path.exists()):
            found += _rooted(files, ordered=True) + _expand(str(path), path)
            files = []
        else:
            files.append(path)
    return found + _rooted(files, ordered=True)


def _rooted(files: Iterable[Path], *, ordered: bool = False) -> list[FoundFile]:
    """Files named one by one; their names are relative to the folder that they share."""
    paths = [_absolute(path) for path in files]
    if not paths:
        return []
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return [_found(path, root) for path in (paths if ordered else _sorted(paths, root))]


def _sorted(paths: Iterable[Path], root: Path) -> list[Path]:
    absolute = {_absolute(path) for path in paths}
    return sorted(absolute, key=lambda path: natural_key(path.relative_to(root).as_posix()))


def _found(path: Path, root: Path) -> FoundFile:
    problem = hint = ""
    suffix = path.suffix.lower()
    if not path.is_file():
        problem, hint = "there is no such file", "check the list; its paths are relative to its own folder"
    elif suffix in RAW_SUFFIXES:
        problem, hint = "camera raw files are not read", "develop it to JPEG, or to 16-bit TIFF"
    elif suffix in VIDEO_SUFFIXES:
        problem, hint = "it is a video", "extract still frames first, for example with ffmpeg"
    name = path.relative_to(root).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError:
        name = name.encode(errors="surrogateescape").decode(errors="replace")
        problem, hint = "its name is not valid UTF-8", "rename the file"
    return FoundFile(path, name, root, problem, hint)


def _once(found: Iterable[FoundFile], exclude: Path | None) -> list[FoundFile]:
    """Drop files that were named before, through links too, and masks that lie inside a source."""
    masks = None if exclude is None else exclude.expanduser().resolve()
    kept: dict[Path, FoundFile] = {}
    for item in found:
        real = item.path.resolve()
        if masks is None or not _is_mask(real, item.root.resolve(), masks):
            kept.setdefault(real, item)
    return list(kept.values())


def _is_mask(path: Path, root: Path, masks: Path) -> bool:
    """Whether a file below the source ``root`` is in the masks folder, or a.jpg.png beside a.jpg where they are one."""
    if masks == root:
        return path.suffix.lower() == ".png" and path.with_suffix("").is_file()
    return masks.is_relative_to(root) and path.is_relative_to(masks)


def _unique_names(found: list[FoundFile]) -> list[FoundFile]:
    """Put the source folder's name before the names of sources that collide with each other."""
    counts = Counter(item.name for item in found)
    roots = list(dict.fromkeys(item.root for item in found if counts[item.name] > 1))
    labels: dict[Path, str] = {}
    for root in roots:
        labels[root] = numbered(root.name or "root", set(labels.values()))
    taken: set[str] = set()
    unique: list[FoundFile] = []
    for item in found:
        name = f"{labels[item.root]}/{item.name}" if item.root in labels else item.name
        unique.append(replace(item, name=numbered(name, taken)))
        taken.add(unique[-1].name)
    return unique


def numbered(name: str, taken: set[str]) -> str:
    """The name itself, or with the first free number behind its stem: ``a.jpg``, ``a_2.jpg``."""
    path, number, candidate = PurePosixPath(name), 1, name
    while candidate in taken:
        number += 1
        candidate = path.with_name(f"{path.stem}_{number}{path.suffix}").as_posix()
    return candidate
