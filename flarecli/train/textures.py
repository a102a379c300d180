"""Photo textures for the procedural scenes: unpack a pack safely, load a folder, build the mip-mapped stack."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from flarecli.errors import InputError
from flarecli.scene.names import stays_inside

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_HELD_OUT_EVERY = 10
_MAX_UNPACKED = 4 * 2**30


@dataclass(frozen=True, slots=True, eq=False)
class TextureStack:
    """All textures with all mip levels in one flat buffer, so that the kernel fetches a texel with one load.

    Attributes:
        texels: int32 ``red | green << 8 | blue << 16``; level by level, in a level texture by texture.
        offsets: int32 start of each level in ``texels``.
        size: side of level 0 in pixels; a power of two.
        photos: how many of the first textures are photographs (used for skies and pictures).
        count: number of textures.
    """

    texels: Tensor
    offsets: Tensor
    size: int
    photos: int
    count: int

    def to(self, device: torch.device) -> TextureStack:
        """The same stack on another device."""
        return TextureStack(self.texels.to(device), self.offsets.to(device), self.size, self.photos, self.count)


@dataclass(frozen=True, slots=True)
class TextureFiles:
    """Picture files of a texture folder.

    Attributes:
        paths: photographs first.
        photos: how many of them are photographs.
    """

    paths: tuple[Path, ...]
    photos: int


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Extract the pictures and tables of a texture pack.

    Only regular files with relative paths inside ``folder`` are written; links, devices and executables are refused.

    Returns:
        The written files.

    Raises:
        InputError: the archive can't be read, or holds something that must not be extracted.
    """
    written, total = [], 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isdir():
                    continue
                path = PurePosixPath(member.name)
                if not member.isfile() or not stays_inside(member.name):
                    raise InputError(
                        f"{archive}: refused entry {member.name!r}", "a texture pack holds plain files only"
                    )
                total += member.size
                if total > _MAX_UNPACKED:
                    raise InputError(
                        f"{archive}: unpacks to more than {_MAX_UNPACKED >> 30} GiB", "give the archive of textures"
                    )
                source = tar.extractfile(member)
                if source is None or path.suffix.lower() not in IMAGE_SUFFIXES | {".tsv", ".txt", ".md"}:
                    continue
                target = folder.joinpath(*path.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read())
                written.append(target)
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"can't unpack {archive}: {error}", "give a tar file of pictures, or a folder") from error
    return written


def list_textures(folder: Path) -> TextureFiles:
    """Pictures below a folder in a stable order; those under a folder named ``photo`` come first.

    Raises:
        InputError: there are none.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not files:
        raise InputError(f"{folder} holds no pictures", "give a folder of images or a texture pack")
    photos = [file for file in files if "photo" in file.relative_to(folder).parts]
    others = [file for file in files if "photo" not in file.relative_to(folder).parts]
    return TextureFiles((*photos, *others), len(photos))


def split_textures(files: TextureFiles) -> tuple[TextureFiles, TextureFiles]:
    """(training, held out): every tenth picture is held out. With fewer than ten both are the whole list."""
    kept = [i for i in range(len(files.paths)) if i % _HELD_OUT_EVERY != _HELD_OUT_EVERY - 1]
    held_out = list(range(_HELD_OUT_EVERY - 1, len(files.paths), _HELD_OUT_EVERY))
    training, rest = (
        TextureFiles(tuple(files.paths[i] for i in chosen), sum(i < files.photos for i in chosen))
        for chosen in (kept, held_out)
    )
    return training, rest if held_out else files


def load_stack(files: TextureFiles, size: int, device: torch.device | None = None) -> TextureStack:
    """Read pictures, resize them to squares and pack them with their mip levels (down to 8 pixels).

    Raises:
        InputError: a picture can't be read, or ``size`` is no power of two of at least 8.
    """
    if size < 8 or size & (size - 1):
        raise InputError(f"texture size must be a power of two of at least 8, not {size}", "give 64, 128 or 256")
    pictures = np.stack([_read(file, size) for file in files.paths])
    return pack_stack(torch.from_numpy(pictures), files.photos, device)


def pack_stack(pictures: Tensor, photos: int, device: torch.device | None = None) -> TextureStack:
    """Pack uint8 pictures of shape (N, S, S, 3), photographs first."""
    count, size = pictures.shape[:2]
    level = pictures.permute(0, 3, 1, 2).float()
    packed, offsets, start = [], [], 0
    while True:
        whole = level.round().clamp(0, 255).to(torch.int32)
        texels = (whole[:, 0] | whole[:, 1] << 8 | whole[:, 2] << 16).reshape(-1)
        packed.append(texels)
        offsets.append(start)
        start += texels.numel()
        if level.shape[-1] <= 8:
            break
        level = torch.nn.functional.avg_pool2d(level, 2)
    stack = TextureStack(torch.cat(packed), torch.tensor(offsets, dtype=torch.int32), size, photos, count)
    return stack if device is None else stack.to(device)


def _read(file: Path, size: int) -> np.ndarray:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"can't read the texture {file}: {error}", "remove or repair it") from error
