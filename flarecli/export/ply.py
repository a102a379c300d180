"""PLY files of points and of 3D Gaussians.

Gaussians are stored as the programs of 3D Gaussian splatting do: opacity as logit, scale as natural logarithm, rotation
w x y z, colours as spherical-harmonic coefficients with ``f_rest`` ordered by channel (all red, all green, all blue).
The hub's ``Gaussians`` hold activated values; the conversion happens only here. The world is the cameras' world.

Source: Kerbl et al. 2023, 3D Gaussian Splatting, layout of the reference program's point_cloud.ply.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flarecli.errors import InputError
from flarecli.scene.gaussians import Gaussians
from flarecli.scene.reconstruction import Reconstruction

MAX_SH_DEGREE = 3
_MIN_OPACITY = 1e-6
_LAYOUT = "give a .ply in the layout of 3DGS, as flare reconstruct writes it"
_FRAME = ("frame: world of the cameras, OpenCV axes (x right, y down, z forward)",)
_ENCODED = "opacity: logit, scale: ln, rot: wxyz"
_NAMES = {
    "i1": "char",
    "u1": "uchar",
    "i2": "short",
    "u2": "ushort",
    "i4": "int",
    "u4": "uint",
    "f4": "float",
    "f8": "double",
}
_SIZED = {"i1": "int8", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32"}
_SIZED |= {"f4": "float32", "f8": "float64"}
_TYPES = {name: code for names in (_NAMES, _SIZED) for code, name in names.items()}


@dataclass(frozen=True, eq=False)
class PlyFile:
    """Vertices of a .ply as a structured array, its comments, and the number of entries of each element."""

    vertices: np.ndarray
    comments: tuple[str, ...]
    counts: dict[str, int]


@dataclass(frozen=True, eq=False)
class GaussianFile:
    """Gaussians of a .ply, how many rows were not finite, and whether opacities look activated instead of logits.

    Opacities look activated where all lie in [0, 1] and the file does not say that they are logits; then they are
    taken as they are.
    """

    gaussians: Gaussians
    dropped: int
    looks_activated: bool


def write_ply(
    path: Path, vertices: np.ndarray, comments: tuple[str, ...] = (), faces: np.ndarray | None = None
) -> None:
    """Write a structured array as the vertices of a binary little-endian .ply, with optional triangles (F 3)."""
    assert vertices.dtype.names is not None
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in comments)]
    lines.append(f"element vertex {len(vertices)}")
    lines += [f"property {_NAMES[vertices.dtype[name].str[1:]]} {name}" for name in vertices.dtype.names]
    body = [vertices.astype(vertices.dtype.newbyteorder("<")).tobytes()]
    if faces is not None:
        lines += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
        rows = np.zeros(len(faces), [("n", "u1"), ("v", "<i4", 3)])
        rows["n"], rows["v"] = 3, faces
        body.append(rows.tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join([*lines, "end_header", ""])).encode("ascii", "replace") + b"".join(body))


def point_vertices(xyz: np.ndarray, rgb: np.ndarray, confidence: np.ndarray | None = None) -> np.ndarray:
    """Vertices with colour and, where given, confidence; rows that are not finite are left out."""
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    out = np.zeros(len(xyz), fields + ([] if confidence is None else [("confidence", "<f4")]))
    out["x"], out["y"], out["z"] = np.asarray(xyz, np.float32).T
    out["red"], out["green"], out["blue"] = np.asarray(rgb, np.uint8).T
    if confidence is not None:
        out["confidence"] = confidence
    return out[np.isfinite(np.asarray(xyz, np.float32)).all(1)]


def write_points_ply(reconstruction: Reconstruction, scene_folder: Path) -> list[Path]:
    """Write ``points.ply``: the dense cloud with colours and confidence."""
    points = reconstruction.points
    path = scene_folder / "points.ply"
    unit = "unit: metre" if reconstruction.metric_scale else "unit: arbitrary"
    write_ply(path, point_vertices(points.xyz, points.rgb, points.confidence), (*_FRAME, unit))
    return [path]


def write_gaussians_ply(
    gaussians: Gaussians, path: Path, *, comments: tuple[str, ...] = (), pad_degree: int | None = None
) -> int:
    """Write Gaussians in the common layout; returns how many were left out because they would not be finite.

    Args:
        gaussians: activated values; degrees above 3 are truncated to 3, the most that viewers read.
        path: file to write.
        comments: further comment lines.
        pad_degree: fill up with zero coefficients to this degree (some loaders insist on 3).
    """
    sh = gaussians.sh[:, : (MAX_SH_DEGREE + 1) ** 2]
    if pad_degree is not None and (pad_degree + 1) ** 2 > sh.shape[1]:
        sh = np.pad(sh, ((0, 0), (0, (pad_degree + 1) ** 2 - sh.shape[1]), (0, 0)))
    rest = np.swapaxes(sh[:, 1:], 1, 2).reshape(len(sh), 3 * (sh.shape[1] - 1))
    opacity = np.clip(gaussians.opacities.astype(np.float64), _MIN_OPACITY, 1 - _MIN_OPACITY)
    quats = gaussians.quats_wxyz / np.linalg.norm(gaussians.quats_wxyz, axis=1, keepdims=True)
    columns = [
        gaussians.means,
        np.zeros_like(gaussians.means),
        sh[:, 0],
        rest,
        np.log(opacity / (1 - opacity))[:, None],
        np.log(gaussians.scales),
        quats,
    ]
    table = np.concatenate(columns, 1).astype("<f4")
    finite = np.isfinite(table).all(1)
    names = [*"xyz", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(rest.shape[1]))]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    vertices = np.ascontiguousarray(table[finite]).view([(name, "<f4") for name in names])[:, 0]
    write_ply(path, vertices, (*_FRAME, _ENCODED, "SplatRenderMode: default", *comments))
    return int((~finite).sum())


def read_ply(path: Path) -> PlyFile:
    """Read the vertices of a .ply (binary of either byte order, or ASCII); other elements are only counted.

    Raises:
        InputError: not a .ply, damaged, or its vertices are not the first element or hold lists.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}", "check the path and its permissions") from error
    try:
        return _parse_ply(data)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a readable .ply: {error}", "copy the file again, or write it anew") from error


def _parse_ply(data: bytes) -> PlyFile:
    end = data.find(b"end_header", 0, 2**20)
    if not data.startswith(b"ply") or end < 0:
        raise ValueError("no header")
    header = data[:end].decode("ascii", "replace").splitlines()
    body = data[data.index(b"\n", end) + 1 :]
    kind, comments, counts, fields, element = "", [], {}, [], ""
    for line in header[1:]:
        words = line.split()
        if not words:
            continue
        if words[0] == "format":
            kind = words[1]
        elif words[0] in ("comment", "obj_info"):
            comments.append(line.partition(" ")[2])
        elif words[0] == "element":
            element = words[1]
            counts[element] = int(words[2])
        elif words[0] == "property" and element == "vertex":
            if words[1] == "list":
                raise ValueError("a list property among the vertices")
            fields.append((words[2], _TYPES[words[1]]))
    if not counts or next(iter(counts)) != "vertex" or not fields or min(counts.values()) < 0:
        raise ValueError("vertices must come first and have properties")
    vertices = _parse_vertices(body, kind, fields, counts["vertex"])
    return PlyFile(vertices, tuple(comments), counts)


def _parse_vertices(body: bytes, kind: str, fields: list[tuple[str, str]], count: int) -> np.ndarray:
    order = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}.get(kind)
    if order is None:
        raise ValueError(f"unknown format {kind!r}")
    dtype = np.dtype([(name, order + code) for name, code in fields])
    if kind != "ascii":
        if count * dtype.itemsize > len(body):
            raise ValueError(f"it announces {count} vertices and is too short for them")
        return np.frombuffer(body, dtype, count)
    words = body.split()[: count * len(fields)]
    if len(words) < count * len(fields):
        raise ValueError(f"it announces {count} vertices and is too short for them")
    rows = [tuple(map(float, words[i : i + len(fields)])) for i in range(0, len(words), len(fields))]
    return np.array(rows, dtype)


def read_points_ply(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Coordinates (N 3, float32) and colours (N 3, uint8; None without) of a .ply.

    Raises:
        InputError: as :func:`read_ply`, or there are no coordinates.
    """
    vertices = read_ply(path).vertices
    names = vertices.dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise InputError(f"{path} has no coordinates x, y, z", "give a .ply of points, Gaussians or a mesh")
    xyz = np.stack([vertices[axis] for axis in "xyz"], 1).astype(np.float32)
    if not {"red", "green", "blue"} <= set(names):
        return xyz, None
    rgb = np.stack([vertices[channel] for channel in ("red", "green", "blue")], 1)
    return xyz, (rgb if rgb.dtype == np.uint8 else np.clip(np.round(rgb * 255.0), 0, 255)).astype(np.uint8)


def load_gaussians_ply(path: Path) -> GaussianFile:
    """Gaussians of a .ply with a report of what is odd about the file.

    Raises:
        InputError: as :func:`read_ply`, or properties are missing.
    """
    ply = read_ply(path)
    vertices, names = ply.vertices, ply.vertices.dtype.names or ()
    needed = [*"xyz", *(f"f_dc_{i}" for i in range(3)), "opacity", *(f"scale_{i}" for i in range(3))]
    needed += [f"rot_{i}" for i in range(4)]
    missing = [name for name in needed if name not in names]
    if missing:
        raise InputError(
            f"{path} holds no Gaussians: {', '.join(missing[:5])} missing",
            _LAYOUT,
        )
    num_rest = sum(name.startswith("f_rest_") for name in names)
    if num_rest not in (0, 9, 24, 45, 72):
        raise InputError(
            f"{path} has {num_rest} f_rest properties; no degree has that many",
            _LAYOUT,
        )
    rest_names = [f"f_rest_{i}" for i in range(num_rest)]
    columns = [*needed, *rest_names]
    if any(name not in names for name in rest_names):
        raise InputError(
            f"{path} has f_rest properties with gaps in their numbers",
            _LAYOUT,
        )
    table = np.stack([vertices[name].astype(np.float64) for name in columns], 1).reshape(len(vertices), -1)
    finite = np.isfinite(table).all(1) & (np.linalg.norm(table[:, 10:14], axis=1) > 0) & (table[:, 7:10] < 80).all(1)
    table = table[finite]
    opacity, quats = table[:, 6], table[:, 10:14]
    activated = bool(len(table)) and opacity.min() >= 0 and opacity.max() <= 1 and _ENCODED not in ply.comments
    rest = np.swapaxes(table[:, 14:].reshape(len(table), 3, num_rest // 3), 1, 2)
    gaussians = Gaussians(
        table[:, :3],
        np.maximum(np.exp(np.maximum(table[:, 7:10], -80)), 1e-35),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        opacity if activated else 1 / (1 + np.exp(-np.clip(opacity, -80, 80))),
        np.concatenate([table[:, None, 3:6], rest], 1),
    )
    return GaussianFile(gaussians, int((~finite).sum()), activated)
