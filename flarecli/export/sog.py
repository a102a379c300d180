"""``.sog`` files: Gaussians as lossless WebP pictures and a ``meta.json`` in one zip, a sixth of a .ply or less.

Version 2 of the format. Every pixel is a Gaussian: 16 bits per coordinate after a logarithm, the three smallest parts
of the quaternion in 8 bits each, scales, colours and harmonics as indices into codebooks of 256 values, and the
harmonics of a Gaussian as an index into a palette of up to 65 536 entries. Gaussians are in Morton order, so that
neighbours in space are neighbours in the pictures. The specification calls the axes y up; the program that defined the
format writes and reads the numbers of a .ply as they are, and so does this module: the world is the cameras' world.

Source: PlayCanvas, "The SOG Format", version 2; axes and the logarithm of scales as in splat-transform's reader.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, UnidentifiedImageError

from flarecli.errors import InputError
from flarecli.scene.gaussians import Gaussians

_META = "meta.json"
_VERSION, _MAX_SH_DEGREE = 2, 3
_PALETTE, _PALETTE_COLUMNS = 65_536, 64
_LLOYD_STEPS = 30
_MORTON_BITS = 16
_FIRST_TAG = 252
_MAX_COUNT, _MAX_META_BYTES = 100_000_000, 2**20
_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip needs a date; the same Gaussians give the same bytes


def write_sog(gaussians: Gaussians, path: Path) -> None:
    """Write Gaussians; degrees above 3 are cut to 3.

    Opacities keep 8 bits; errors of the rest depend on how widely the values of a scene are spread.
    """
    order = _morton_order(gaussians.means)
    logs = np.log(gaussians.scales[order])
    means = np.sign(gaussians.means[order]) * np.log1p(np.abs(gaussians.means[order].astype(np.float64)))
    mins, maxs = means.min(0), means.max(0)
    fixed = np.rint((means - mins) / np.where(maxs > mins, maxs - mins, 1) * 65535).astype(np.uint16)
    scale_book, scale_index = _codebook(logs)
    colour_book, colour_index = _codebook(gaussians.sh[order, 0])
    alpha = np.rint(255 * gaussians.opacities[order]).astype(np.uint8)
    pictures = {
        "means_l.webp": _tiled((fixed & 255).astype(np.uint8)),
        "means_u.webp": _tiled((fixed >> 8).astype(np.uint8)),
        "scales.webp": _tiled(scale_index),
        "quats.webp": _tiled(_pack_quats(gaussians.quats_wxyz[order])),
        "sh0.webp": _tiled(np.column_stack([colour_index, alpha])),
    }
    meta: dict[str, Any] = {
        "version": _VERSION,
        "asset": {"generator": "flarecli"},
        "count": len(gaussians),
        "antialias": False,
        "means": {"mins": mins.tolist(), "maxs": maxs.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_book.tolist(), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": colour_book.tolist(), "files": ["sh0.webp"]},
    }
    degree = min(gaussians.sh_degree, _MAX_SH_DEGREE)
    if degree:
        rest = gaussians.sh[order, 1 : (degree + 1) ** 2]
        labels, palette = _palette(rest.reshape(len(rest), -1))
        book, index = _codebook(palette.reshape(len(palette), -1, 3))
        rows = -(-len(palette) // _PALETTE_COLUMNS)
        sheet = np.zeros((rows * _PALETTE_COLUMNS, *index.shape[1:]), np.uint8)
        sheet[: len(index)] = index
        pictures["shN_centroids.webp"] = sheet.reshape(rows, -1, 3)
        pictures["shN_labels.webp"] = _tiled(np.column_stack([labels & 255, labels >> 8, 0 * labels]).astype(np.uint8))
        files = ["shN_centroids.webp", "shN_labels.webp"]
        meta["shN"] = {"count": len(palette), "bands": degree, "codebook": book.tolist(), "files": files}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(_META, _EPOCH), json.dumps(meta, allow_nan=False))
        for name, picture in pictures.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), _webp(picture))


def read_sog(path: Path) -> Gaussians:
    """Gaussians of a bundle of version 2.

    Raises:
        InputError: can't be read, is damaged, or of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _decode(archive, read_meta(archive))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", "check the path") from error
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        UnidentifiedImageError,
        Image.DecompressionBombError,
    ) as error:
        raise InputError(f"{path} is no readable .sog: {error}", "copy the file again, or write it anew") from error


def read_meta(archive: zipfile.ZipFile) -> dict[str, Any]:
    """The description inside a bundle.

    Raises:
        KeyError: there is none.
        ValueError: it is too large, no JSON object, or of another version.
    """
    if archive.getinfo(_META).file_size > _MAX_META_BYTES:
        raise ValueError(f"{_META} is too large")
    meta = json.loads(archive.read(_META))
    if not isinstance(meta, dict) or meta.get("version") != _VERSION:
        found = meta.get("version") if isinstance(meta, dict) else None
        raise ValueError(f"version {found} is not known, this program reads {_VERSION}")
    count = meta["count"]
    if not isinstance(count, int) or not 0 <= count <= _MAX_COUNT:
        raise ValueError(f"{count} is no number of Gaussians")
    return meta


def _decode(archive: zipfile.ZipFile, meta: dict[str, Any]) -> Gaussians:
    count = meta["count"]

    def pixels(part: str, index: int = 0) -> Int[np.ndarray, "N 4"]:
        return _pixels(archive, meta[part]["files"][index], count).astype(np.int64)[:count]

    mins, maxs = (np.array(meta["means"][name], np.float64) for name in ("mins", "maxs"))
    fixed = (pixels("means", 0) + 256 * pixels("means", 1))[:, :3]
    logs = mins + (maxs - mins) * fixed / 65535
    colour = pixels("sh0")
    sh = _book(meta["sh0"])[colour[:, None, :3]]
    if meta.get("shN"):
        sh = np.concatenate([sh, _rest(archive, meta["shN"], pixels("shN", 1))], 1)
    return Gaussians(
        np.sign(logs) * np.expm1(np.abs(logs)),
        np.exp(_book(meta["scales"])[pixels("scales")[:, :3]]),
        _unpack_quats(pixels("quats")),
        colour[:, 3] / 255,
        sh,
    )


def _rest(archive: zipfile.ZipFile, part: dict[str, Any], label: np.ndarray) -> Float[np.ndarray, "N D 3"]:
    coefficients = {1: 3, 2: 8, 3: 15}[part["bands"]]
    size, index = int(part["count"]), label[:, 0] + 256 * label[:, 1]
    if not 0 < size <= _PALETTE or (len(index) and index.max() >= size):
        raise ValueError("a label names no entry of the palette")
    sheet = _pixels(archive, part["files"][0], size * coefficients)
    palette = sheet[: size * coefficients, :3].reshape(size, coefficients, 3)
    return _book(part)[palette][index]


def _pixels(archive: zipfile.ZipFile, name: str, least: int) -> np.ndarray:
    """All pixels of a picture (row-major, RGBA), after a look at its size."""
    with Image.open(io.BytesIO(archive.read(name))) as picture:
        number = picture.width * picture.height
        if not least <= number <= 4 * least + 2**20:
            raise ValueError(f"{name} has {picture.width} x {picture.height} pixels for {least} values")
        return np.asarray(picture.convert("RGBA")).reshape(-1, 4)


def _book(part: dict[str, Any]) -> Float[np.ndarray, "256"]:
    book = np.array(part["codebook"], np.float64)
    if book.shape != (256,) or not np.isfinite(book).all():
        raise ValueError("a codebook must hold 256 finite numbers")
    return book


def _webp(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    # "exact" keeps the colours of what is fully transparent.
    Image.fromarray(picture).save(out, "WEBP", lossless=True, exact=True, quality=75, method=4)
    return out.getvalue()


def _tiled(values: np.ndarray) -> np.ndarray:
    """One row per Gaussian to a picture about as high as wide; zeros at its end."""
    width = 4 * -(-int(np.ceil(np.sqrt(len(values)))) // 4)
    out = np.zeros((-(-len(values) // width) * width, values.shape[1]), np.uint8)
    out[: len(values)] = values
    return out.reshape(-1, width, values.shape[1])


def _codebook(values: np.ndarray) -> tuple[Float[np.ndarray, "256"], np.ndarray]:
    """256 values with the least squared error, near enough, and the index of every value (Lloyd's algorithm)."""
    ordered = np.sort(values, axis=None).astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    book = np.linspace(ordered[0], ordered[-1], 256)
    for _ in range(_LLOYD_STEPS):
        ends = np.concatenate([[0], np.searchsorted(ordered, (book[1:] + book[:-1]) / 2), [len(ordered)]])
        number = np.diff(ends)
        book = np.where(number > 0, np.diff(sums[ends]) / np.maximum(number, 1), book)
    book = np.sort(book)
    return book, np.searchsorted((book[1:] + book[:-1]) / 2, values).astype(np.uint8)


def _palette(vectors: Float[np.ndarray, "N C"]) -> tuple[Int[np.ndarray, "N"], Float[np.ndarray, "P C"]]:
    """Index of every vector and the entries: the vectors themselves where there is room, else means of alike ones.

    Groups are halved again and again at the median of the coordinate in which they are spread most.
    """
    if len(vectors) <= _PALETTE:
        return np.arange(len(vectors)), vectors
    group = np.zeros(len(vectors), np.int64)
    for level in range(_PALETTE.bit_length() - 1):
        number = np.bincount(group, minlength=2**level)
        mean, square = (_means(group, each, number) for each in (vectors, vectors**2))
        axis = (square - mean**2).argmax(1)
        order = np.lexsort((vectors[np.arange(len(vectors)), axis[group]], group))
        rank = np.arange(len(vectors)) - np.repeat(np.cumsum(number) - number, number)
        group[order] = 2 * group[order] + (rank >= number[group[order]] / 2)
    used, label = np.unique(group, return_inverse=True)
    return label, _means(label, vectors, np.bincount(label, minlength=len(used)))


def _means(group: np.ndarray, vectors: np.ndarray, number: np.ndarray) -> np.ndarray:
    sums = [np.bincount(group, column, minlength=len(number)) for column in vectors.T]
    return np.stack(sums, 1) / np.maximum(number, 1)[:, None]


def _morton_order(means: Float[np.ndarray, "N 3"]) -> Int[np.ndarray, "N"]:
    """Order along a curve that stays near: bits of the coordinates' ranks, interleaved."""
    place = np.argsort(np.argsort(means, axis=0, kind="stable"), axis=0, kind="stable").astype(np.uint64)
    cells = place * np.uint64(2**_MORTON_BITS) // np.uint64(max(len(means), 1))
    code = np.zeros(len(means), np.uint64)
    for bit in range(_MORTON_BITS):
        for axis in range(3):
            code |= (cells[:, axis] >> np.uint64(bit) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return np.argsort(code, kind="stable")


def _pack_quats(quats_wxyz: Float[np.ndarray, "N 4"]) -> np.ndarray:
    """Three bytes for the smaller components, the fourth tells which one is left out, from 252 for w to 255 for z."""
    largest = np.abs(quats_wxyz).argmax(1)
    sign = np.where(np.take_along_axis(quats_wxyz, largest[:, None], 1) < 0, -1, 1)
    small = np.take_along_axis(quats_wxyz, _OTHERS[largest], 1) * sign
    stored = np.rint((small * np.sqrt(2) / 2 + 0.5) * 255).clip(0, 255)
    return np.column_stack([stored, _FIRST_TAG + largest]).astype(np.uint8)


def _unpack_quats(pixels: Int[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    largest = pixels[:, 3] - _FIRST_TAG
    if len(largest) and largest.min() < 0:
        raise ValueError("a quaternion is damaged")
    small = (pixels[:, :3] / 255 - 0.5) * np.sqrt(2)
    quats = np.zeros((len(pixels), 4))
    np.put_along_axis(quats, _OTHERS[largest], small, 1)
    rest = np.sqrt(np.maximum(1 - (small**2).sum(1), 0))
    np.put_along_axis(quats, largest[:, None], rest[:, None], 1)
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)
