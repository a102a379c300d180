"""``.spz`` files: Gaussians in about a tenth of a .ply, gzipped (versions 2 and 3 of the format; 3 is written).

A header of 16 bytes, then one block per attribute: centres as 24-bit fixed point, opacities, colours, logarithms of
scales, quaternions (version 3: the three smallest components in 10 bits each; version 2: x y z in 8 bits each),
spherical harmonics with the colour as the fastest axis. The format's axes are x right, y up, z back, so y and z change
sign against the cameras' world, and with them quaternions and harmonics.

Source: README.md and load-spz of nianticlabs/spz, format version 3.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from pathlib import Path

import numpy as np

from flarecli.errors import InputError, OutputError
from flarecli.scene.gaussians import Gaussians

_MAGIC, _VERSION, _MAX_SH_DEGREE = 0x5053474E, 3, 3
_HEADER = struct.Struct("<IIIBBBB")
_MAX_COUNT = 100_000_000
_GZIP = 16 + zlib.MAX_WBITS
_COLOUR_SCALE = 0.15 * 255
_INDEX_SHIFT, _BITS = 30, 10
_MAGNITUDE = (1 << (_BITS - 1)) - 1
_FLIP_XYZ = np.array([1, -1, -1], np.float32)
# Sign of each basis function above degree 0 when y and z change theirs.
_FLIP_SH = np.array([-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1], np.float32)


def write_spz(gaussians: Gaussians, path: Path) -> None:
    """Write Gaussians; degrees above 3 are cut to 3.

    Centres get as many fractional bits as the farthest one leaves; scales are kept from e^-10 to e^5.9 world units.

    Raises:
        OutputError: a centre is too far away for 24 bits.
    """
    farthest = float(np.abs(gaussians.means).max(initial=1e-3))
    fraction_bits = min(int(np.floor(np.log2((2**23 - 1) / farthest))), 23)
    if fraction_bits < 0:
        raise OutputError(
            f"{path}: a Gaussian lies {farthest:.3g} units away, too far for this format",
            "write another format, or a scene of a smaller unit",
        )
    degree = min(gaussians.sh_degree, _MAX_SH_DEGREE)
    rest = gaussians.sh[:, 1 : (degree + 1) ** 2] * _FLIP_SH[: (degree + 1) ** 2 - 1, None]
    fixed = np.rint(gaussians.means.astype(np.float64) * _FLIP_XYZ * 2.0**fraction_bits).astype("<i4")
    blocks = [
        _HEADER.pack(_MAGIC, _VERSION, len(gaussians), degree, fraction_bits, 0, 0),
        np.ascontiguousarray(fixed).view(np.uint8).reshape(-1, 4)[:, :3].tobytes(),
        _bytes(255 * gaussians.opacities),
        _bytes(_COLOUR_SCALE * gaussians.sh[:, 0] + 127.5),
        _bytes((np.log(gaussians.scales) + 10) * 16),
        _pack_quats(gaussians.quats_wxyz).tobytes(),
        _bytes(128 * rest + 128),
    ]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    path.write_bytes(squeeze.compress(b"".join(blocks)) + squeeze.flush())


def read_spz(path: Path) -> Gaussians:
    """Gaussians of a file of version 2 or 3.

    Raises:
        InputError: can't be read, is damaged, or of another version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}", "check the path and its permissions") from error
    if data[:4] == struct.pack("<I", _MAGIC):
        raise InputError(f"{path} is an .spz of version 4 or later", "this program reads versions 2 and 3")
    try:
        return _decode(data)
    except (zlib.error, struct.error, ValueError) as error:
        raise InputError(f"{path} is no readable .spz: {error}", "copy the file again, or write it anew") from error


def _decode(data: bytes) -> Gaussians:
    stream = zlib.decompressobj(_GZIP)
    magic, version, count, degree, fraction_bits, _, _ = _HEADER.unpack(stream.decompress(data, _HEADER.size))
    if magic != _MAGIC or version not in (2, 3):
        raise ValueError(f"version {version} is not known" if magic == _MAGIC else "no header")
    if count > _MAX_COUNT or degree > _MAX_SH_DEGREE or fraction_bits > 24:
        raise ValueError("impossible values in the header")
    quat_bytes = 4 if version == 3 else 3
    widths = [9, 1, 3, 3, quat_bytes, 3 * ((degree + 1) ** 2 - 1)]
    # No more is unpacked than the header announces, whatever a hostile file would swell to.
    body = stream.decompress(stream.unconsumed_tail, max(count * sum(widths), 1))
    if len(body) != count * sum(widths):
        raise ValueError(f"it announces {count} Gaussians and is too short for them")
    ends = np.cumsum([0, *widths]) * count
    block = [
        np.frombuffer(body[a:b], np.uint8).reshape(count, width)
        for (a, b), width in zip(itertools.pairwise(ends), widths, strict=True)
    ]
    place = np.zeros((count * 3, 4), np.uint8)
    place[:, 1:] = block[0].reshape(-1, 3)
    # Three bytes in the upper part of an integer: shifting them down keeps the sign.
    means = (place.view("<i4")[:, 0].reshape(count, 3) >> 8) / 2.0**fraction_bits * _FLIP_XYZ
    first = (block[2].astype(np.float32) - 127.5) / _COLOUR_SCALE
    rest = (
        (block[5].reshape(count, widths[5] // 3, 3).astype(np.float32) - 128) / 128 * _FLIP_SH[: widths[5] // 3, None]
    )
    return Gaussians(
        means,
        np.exp(block[3].astype(np.float32) / 16 - 10),
        _unpack_quats(block[4]) if version == 3 else _unpack_first_three(block[4]),
        block[1][:, 0] / np.float32(255),
        np.concatenate([first[:, None], rest], 1),
    )


def _flipped_xyzw(quats_wxyz: np.ndarray) -> np.ndarray:
    """Quaternion in the format's order and axes."""
    return np.concatenate([quats_wxyz[:, 1:] * _FLIP_XYZ, quats_wxyz[:, :1]], 1)


def _from_xyzw(quats_xyzw: np.ndarray) -> np.ndarray:
    quats = np.concatenate([quats_xyzw[:, 3:], quats_xyzw[:, :3] * _FLIP_XYZ], 1)
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)


def _pack_quats(quats_wxyz: np.ndarray) -> np.ndarray:
    """Index of the largest component in 2 bits, the others in order in 10 bits each: a sign and 9 bits of magnitude."""
    xyzw = _flipped_xyzw(quats_wxyz)
    largest = np.abs(xyzw).argmax(1)
    sign = np.take_along_axis(xyzw, largest[:, None], 1) < 0
    others = np.array([[j for j in range(4) if j != i] for i in range(4)])[largest]
    small = np.take_along_axis(xyzw, others, 1)
    magnitude = np.rint(_MAGNITUDE * np.abs(small) * np.sqrt(2)).clip(0, _MAGNITUDE).astype(np.uint32)
    negative = ((small < 0) ^ sign).astype(np.uint32)
    packed = largest.astype(np.uint32)
    for j in range(3):
        packed = (packed << _BITS) | (negative[:, j] << (_BITS - 1)) | magnitude[:, j]
    return packed.astype("<u4")


def _unpack_quats(rows: np.ndarray) -> np.ndarray:
    packed = np.ascontiguousarray(rows).view("<u4")[:, 0]
    largest = (packed >> _INDEX_SHIFT).astype(int)
    small = np.zeros((len(packed), 3))
    for j in range(3):
        part = packed >> (_BITS * (2 - j))
        value = (part & _MAGNITUDE) / _MAGNITUDE / np.sqrt(2)
        small[:, j] = np.where(part >> (_BITS - 1) & 1, -value, value)
    others = np.array([[j for j in range(4) if j != i] for i in range(4)])[largest]
    xyzw = np.zeros((len(packed), 4))
    np.put_along_axis(xyzw, others, small, 1)
    np.put_along_axis(xyzw, largest[:, None], np.sqrt(np.maximum(1 - (small**2).sum(1), 0))[:, None], 1)
    return _from_xyzw(xyzw)


def _unpack_first_three(rows: np.ndarray) -> np.ndarray:
    xyz = rows.astype(np.float64) / 127.5 - 1
    return _from_xyzw(np.concatenate([xyz, np.sqrt(np.maximum(1 - (xyz**2).sum(1, keepdims=True), 0))], 1))


def _bytes(values: np.ndarray) -> bytes:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8).tobytes()
