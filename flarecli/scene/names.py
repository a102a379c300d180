"""Names of photos and files: paths relative to a scene's folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath


def stays_inside(name: str) -> bool:
    """Whether a relative path with forward slashes names something below the folder that it is put behind."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def match_names(names: Sequence[str], known: Sequence[str], originals: Sequence[str] | None = None) -> dict[str, str]:
    """Which known name each name means.

    The same one; else that of the photo's own file, because copies in a scene have other suffixes than a TIFF or HEIC
    that another program was given; else the one with the same base name; else the one that differs by its suffix alone,
    with and then without its folder. All but the first only where it is unique on both sides and not meant by a better
    match.

    Args:
        names: to be matched, each once.
        known: that are looked in.
        originals: name of the file behind each name, where that is known.

    Returns:
        The known name of each name that has one, in the order of ``names``.
    """
    originals = names if originals is None else originals
    known = list(dict.fromkeys(known))
    ways: tuple[tuple[Callable[[str], str], Sequence[str]], ...] = (
        (str, names),
        (str, originals),
        (_base, names),
        (_base, originals),
        (_without_suffix, originals),
        (_stem, originals),
    )
    found: dict[str, str] = {}
    for key, spoken in ways:
        here, there = [key(name) for name in spoken], [key(name) for name in known]
        times_here, times_there = Counter(here), Counter(there)
        meant = dict(zip(there, known, strict=True))
        taken = set(found.values())
        for name, each in zip(names, here, strict=True):
            unique = times_here[each] == 1 and times_there[each] == 1
            if name not in found and unique and meant[each] not in taken:
                found[name] = meant[each]
    return {name: found[name] for name in names if name in found}


def _base(name: str) -> str:
    return PurePosixPath(name).name


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if _base(name) else name


def _stem(name: str) -> str:
    return PurePosixPath(name).stem
