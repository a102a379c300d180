"""Photos in: find them, decode each once to know that it is sound, and describe them.

No pixels are kept; a :class:`Photo` decodes again when it is asked.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from flarecli.errors import InputError, MissingDependency
from flarecli.images.decoding import Decoded, UnreadablePhoto, decode, open_image
from flarecli.images.discovery import FoundFile, count_suffixes, find_files, numbered
from flarecli.images.exif import camera_tags
from flarecli.images.masks import find_mask, read_mask
from flarecli.runtime import cpu_count
from flarecli.scene.reconstruction import PhotoVerdict

Progress = Callable[[str, int, int], None]

MIN_SIDE_PX = 32
_BLANK_STD = 1.0  # of 255, after scaling down: a lens cap or a blown-out sky stays below, a misty wall above
_PROBE_SIDE = 256
_MAX_NAME_BYTES = 255  # of every usual file system
_LOSSY_FORMATS = frozenset({"JPEG", "MPO", "WEBP", "AVIF", "HEIF", "JPEG2000"})


@dataclass(frozen=True, slots=True)
class Photo:
    """One input photo.

    Attributes:
        path: the original file.
        name: unique name of the copy that goes into a reconstruction, relative, forward slashes.
        size_hw: height and width of the upright photo.
        orientation: EXIF orientation 1..8 of the original (HEIC: 1, its decoder turns it).
        exif_focal_px: focal length in pixels of the upright photo as EXIF tells, or None.
        camera_id: equal for photos by the same body, lens and focal length, or None where EXIF does not say. Landscape
            and portrait photos share it; their ``size_hw`` differ.
        mask_path: mask file, or None.
        has_alpha: the file has transparent pixels, which count as a mask.
        is_plain: an upright 8-bit RGB or grey JPEG or PNG that other programs read as it is.
        sha256: of the file's content.
    """

    path: Path
    name: str
    size_hw: tuple[int, int]
    orientation: int = 1
    exif_focal_px: float | None = None
    camera_id: str | None = None
    mask_path: Path | None = None
    has_alpha: bool = False
    is_plain: bool = False
    sha256: str = ""

    def decode(self, size_hw: tuple[int, int] | None = None) -> Decoded:
        """Upright RGB and alpha as Pillow images, scaled to a size where one is given.

        Raises:
            InputError: the file changed or vanished since it was loaded.
        """
        try:
            return decode(open_image(self.path), size_hw)
        except UnreadablePhoto as error:
            raise InputError(f"{self.path}: {error.reason}", error.hint) from error

    def rgb(self) -> UInt8[np.ndarray, "H W 3"]:
        """Upright pixels at full size."""
        return np.array(self.decode().rgb)

    def mask(self) -> Bool[np.ndarray, "H W"] | None:
        """Which upright pixels to use (True), from the mask file and alpha together; None where all are to be used.

        Raises:
            InputError: the mask does not fit the photo, or a file can't be read.
        """
        alpha = self.decode().alpha if self.has_alpha else None
        opaque = None if alpha is None else np.asarray(alpha) > 127
        if self.mask_path is None:
            return opaque
        use = read_mask(self.mask_path, self.size_hw, self.orientation)
        return use if opaque is None else use & opaque


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """The photos of one scene.

    Attributes:
        photos: usable photos, at least two.
        dropped: verdicts of files that can't be used, with the reason.
    """

    photos: tuple[Photo, ...]
    dropped: tuple[PhotoVerdict, ...] = ()

    def __len__(self) -> int:
        return len(self.photos)

    def fingerprint(self) -> str:
        """Hash over names and contents of all photos and masks; equal for equal input."""
        total = hashlib.sha256()
        for photo in self.photos:
            mask = "" if photo.mask_path is None else hashlib.sha256(photo.mask_path.read_bytes()).hexdigest()
            total.update(f"{photo.name}\0{photo.sha256}\0{mask}\n".encode())
        return total.hexdigest()


def load_photos(
    sources: Sequence[str | Path],
    *,
    masks: Path | None = None,
    strict: bool = False,
    on_progress: Progress | None = None,
) -> PhotoSet:
    """Find, check and describe the photos of a scene.

    Args:
        sources: folders, globs, files, ``.txt`` lists or ``-``; see :func:`flarecli.images.discovery.find_files`.
        masks: folder with one mask per photo (black = ignore), named ``a.jpg.png``, ``a.png`` or ``a.jpg``.
        strict: raise at the first file that would be dropped.
        on_progress: told about every checked file.

    Raises:
        InputError: fewer than two usable photos, a source that does not exist, a mask that does not fit; with strict
            also any unusable file.
        MissingDependency: with strict, a photo whose format needs a package that is not installed.
    """
    if masks is not None and not masks.is_dir():
        raise InputError(f"{masks}: no such folder of masks", "give the folder, not a single mask")
    found = find_files(sources, exclude=masks)
    if masks is not None and masks.resolve() in {item.path.resolve().parent for item in found}:
        raise InputError(f"{masks}: the photos are in the folder of masks", "give masks a folder of their own")
    mask_names = _mask_names(found)
    if masks is not None and found and not any(find_mask(masks, names) for names in mask_names.values()):
        raise InputError(f"{masks}: no mask belongs to any photo", "name the mask of a.jpg a.jpg.png or a.png")
    jobs = [partial(_inspect, item, masks, mask_names[item.name]) for item in found]
    photos, dropped = _check_all(found, jobs, strict, on_progress)
    _require_enough(sources, photos, dropped)
    return PhotoSet(_named(photos), tuple(dropped))


def _check_all(
    found: Sequence[FoundFile], inspect: Sequence[Callable[[], Photo]], strict: bool, on_progress: Progress | None
) -> tuple[list[Photo], list[PhotoVerdict]]:
    """Inspect every file, in threads; usable photos and verdicts of the others, in order."""
    photos: list[Photo] = []
    dropped: list[PhotoVerdict] = []
    first_of: dict[str, str] = {}
    pool = ThreadPoolExecutor(min(cpu_count(), 8))
    try:
        jobs = [pool.submit(job) for job in inspect]
        for done, (item, job) in enumerate(zip(found, jobs, strict=True), 1):
            try:
                photo = job.result()
                if photo.sha256 in first_of:
                    raise UnreadablePhoto(f"the same picture as {first_of[photo.sha256]}", "remove one of them")
                first_of[photo.sha256] = item.name
                photos.append(photo)
            except UnreadablePhoto as error:
                if strict:
                    raise _fatal(item.path, error) from error
                reason = f"{error.reason} ({error.hint})" if error.hint else error.reason
                dropped.append(PhotoVerdict(item.name, "dropped", reason))
            if on_progress is not None:
                on_progress("photos", done, len(found))
    finally:
        pool.shutdown(cancel_futures=True)
    return photos, dropped


def _fatal(path: Path, error: UnreadablePhoto) -> InputError | MissingDependency:
    if error.missing is not None:
        return MissingDependency(f"{path}: {error.missing.message}", error.missing.hint)
    return InputError(f"{path}: {error.reason}", error.hint or "remove the file, or run without --strict")


def _require_enough(sources: Sequence[str | Path], photos: list[Photo], dropped: list[PhotoVerdict]) -> None:
    """Refuse fewer than two photos and say what was found instead."""
    if len(photos) >= 2:
        return
    where = ", ".join("standard input" if str(source) == "-" else str(source) for source in sources) or "no source"
    if dropped:
        hint = f"{len(dropped)} dropped, first {dropped[0].name}: {dropped[0].reason}"
    elif not photos and (there := count_suffixes(sources)):
        hint = f"found {there}; photos are JPEG, PNG, TIFF, WebP, BMP, HEIC or AVIF"
    else:
        hint = "a reconstruction needs two photos of the same scene or more"
    what = f"only one usable photo ({photos[0].name})" if photos else "no usable photos"
    raise InputError(f"{where}: {what}", hint)


def _mask_names(found: Sequence[FoundFile]) -> dict[str, tuple[str, ...]]:
    """Names by which each photo's mask may go: its name, its path below its source, its bare name where unique."""
    bare = Counter(PurePosixPath(item.name).name for item in found)
    names: dict[str, tuple[str, ...]] = {}
    for item in found:
        inside = [item.path.relative_to(item.root).as_posix()] if item.path.is_relative_to(item.root) else []
        alone = [item.path.name] if bare[item.path.name] == 1 else []
        names[item.name] = tuple(dict.fromkeys([item.name, *(inside if item.name in inside else []), *alone]))
    return names


def _inspect(item: FoundFile, masks: Path | None, mask_names: tuple[str, ...]) -> Photo:
    """Decode one file and describe it; the name is still the original's.

    Raises:
        UnreadablePhoto: the file is no usable photo.
        InputError: its mask is damaged or does not fit.
    """
    if item.problem:
        raise UnreadablePhoto(item.problem, item.hint)
    try:
        content = item.path.read_bytes()
    except OSError as error:
        raise UnreadablePhoto(f"can't be read: {error.strerror}") from error
    image = open_image(content)
    tags = camera_tags(image)
    size_hw = (image.width, image.height) if tags.orientation >= 5 else (image.height, image.width)
    is_jpeg = image.format in {"JPEG", "MPO"}
    decoded = decode(image, _probe_size(size_hw) if is_jpeg else None)
    if not is_jpeg:
        # Only the decoder knows whether the size in the header is the upright one (TIFF differs between versions).
        size_hw = decoded.rgb.height, decoded.rgb.width
    if min(size_hw) < MIN_SIDE_PX:
        raise UnreadablePhoto(f"only {size_hw[1]} x {size_hw[0]} pixels", "give the photo at its full size")
    if _is_blank(decoded.rgb):
        raise UnreadablePhoto("blank: all pixels are nearly alike")
    mask_path = None if masks is None else find_mask(masks, mask_names)
    if mask_path is not None and not read_mask(mask_path, size_hw, tags.orientation).any():
        raise UnreadablePhoto(f"its mask {mask_path.name} ignores every pixel")
    photo = Photo(
        path=item.path,
        name=item.name,
        size_hw=size_hw,
        orientation=tags.orientation,
        exif_focal_px=tags.focal_px,
        camera_id=tags.camera_id,
        mask_path=mask_path,
        has_alpha=decoded.alpha is not None,
        sha256=hashlib.sha256(content).hexdigest(),
    )
    suffix = _copy_suffix(image, photo)
    name = item.name if suffix is None else str(PurePosixPath(item.name).with_suffix(suffix))
    _require_writable(name, with_mask=photo.has_alpha or mask_path is not None)
    plain = suffix is None and tags.orientation == 1 and _is_plain(image, content, item.path.suffix.lower())
    return replace(photo, name=name, is_plain=plain)


def _require_writable(name: str, *, with_mask: bool) -> None:
    """Refuse a name that no file of a reconstruction can have, before the work and not after it.

    Raises:
        UnreadablePhoto: the copy's name is too long, or that of its mask, which has another suffix behind it.
    """
    longest = _MAX_NAME_BYTES - len(".png") * with_mask
    if len(PurePosixPath(name).name.encode()) > longest:
        of_mask = ", and its mask's is longer" if with_mask else ""
        raise UnreadablePhoto(f"its copy's name would be too long{of_mask}", f"rename it to at most {longest} bytes")


def _probe_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    factor = min(1.0, _PROBE_SIDE / max(size_hw))
    return max(1, round(size_hw[0] * factor)), max(1, round(size_hw[1] * factor))


def _is_blank(rgb: Image.Image) -> bool:
    factor = max(1, max(rgb.size) // (2 * _PROBE_SIDE))
    return bool(np.asarray(rgb.reduce(factor), np.float32).reshape(-1, 3).std(0).max() < _BLANK_STD)


def _copy_suffix(image: Image.Image, photo: Photo) -> str | None:
    """Suffix of the copy, or None where the original name can stay."""
    lossy = image.format in _LOSSY_FORMATS or image.format is None  # HEIC comes without a format
    suffix = photo.path.suffix.lower()
    if suffix == ".png" or (suffix in {".jpg", ".jpeg"} and not photo.has_alpha and (lossy or image.format == "PNG")):
        return None
    return ".jpg" if lossy and not photo.has_alpha else ".png"


def _is_plain(image: Image.Image, content: bytes, suffix: str) -> bool:
    """Whether every other program reads the same 8-bit pixels from the file itself."""
    if image.format in {"JPEG", "MPO"}:
        return suffix in {".jpg", ".jpeg"} and image.mode in {"L", "RGB"}
    bit_depth = content[24]  # of a PNG's IHDR; Pillow shows 16-bit RGB as 8-bit
    return image.format == "PNG" and suffix == ".png" and image.mode in {"L", "RGB"} and bit_depth == 8


def _named(photos: list[Photo]) -> tuple[Photo, ...]:
    """Unique names; a photo that keeps its original name goes before one that is renamed."""
    renamed = {i for i, photo in enumerate(photos) if PurePosixPath(photo.name).suffix != photo.path.suffix}
    taken = {photo.name for i, photo in enumerate(photos) if i not in renamed}
    named = list(photos)
    for i in sorted(renamed):
        named[i] = replace(photos[i], name=numbered(photos[i].name, taken))
        taken.add(named[i].name)
    return tuple(named)
