"""The procedural still life of the example photos: textures and meshes from seeded noise, no downloaded material.

Used by make_photos.py. Everything is in metres, z up, the table top at z = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

RGB = tuple[float, float, float]
Mesh = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Vertices (N x 3), texture coordinates (N x 2) and triangles (M x 3)."""


def fractal(rng: np.random.Generator, shape: tuple[int, int], slope: float, stretch: float = 1.0) -> np.ndarray:
    """Noise with an f^-slope amplitude spectrum, as ranks in [0, 1]; stretch > 1 makes streaks along the rows.

    Source: spectral synthesis, Peitgen and Saupe, The Science of Fractal Images, section 2.5.
    """
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :] * stretch)
    amplitude = np.maximum(radius, 1.0 / max(shape)) ** -slope
    amplitude[0, 0] = 0.0
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * amplitude, s=shape)
    noise = (noise - noise.mean()) / noise.std()
    return 1.0 / (1.0 + np.exp(-1.7 * noise))


def warp(image: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Move every pixel by smooth noise of up to about ``amount`` pixels (wraps at the border)."""
    height, width = image.shape[:2]
    dy = (fractal(rng, (height, width), 2.0) - 0.5) * 2 * amount
    dx = (fractal(rng, (height, width), 2.0) - 0.5) * 2 * amount
    rows = (np.arange(height)[:, None] + dy).astype(int) % height
    columns = (np.arange(width)[None, :] + dx).astype(int) % width
    return image[rows, columns]


def ramp(value: np.ndarray, *colours: RGB) -> np.ndarray:
    """Colour each value in [0, 1] by linear interpolation between evenly spaced colours."""
    stops = np.linspace(0, 1, len(colours))
    table = np.array(colours)
    return np.stack([np.interp(value, stops, table[:, channel]) for channel in range(3)], axis=-1)


def grain(rng: np.random.Generator, shape: tuple[int, int], strength: float) -> np.ndarray:
    """Fine multiplicative variation around 1, one channel, to be multiplied onto a colour image."""
    return 1.0 + strength * (fractal(rng, shape, 0.8)[..., None] - 0.5)


def wood(rng: np.random.Generator, shape: tuple[int, int], dark: RGB, light: RGB) -> np.ndarray:
    """Planks with growth rings, streaks and pores; the grain runs along the rows."""
    height = shape[0]
    field = fractal(rng, shape, 1.6, stretch=4.0)
    planks = np.minimum((np.arange(height) * 5) // height, 4)
    shift = rng.uniform(0, 3, 5)[planks][:, None]
    rings = 0.5 + 0.5 * np.sin((field * 9 + shift) * 2 * np.pi)
    value = 0.45 * rings + 0.35 * fractal(rng, shape, 0.9, stretch=6.0) + 0.2 * fractal(rng, shape, 1.2)
    image = ramp(value, dark, light) * (0.85 + 0.3 * rng.random(5)[planks][:, None, None])
    image *= 1.0 - 0.6 * (fractal(rng, shape, 0.5, stretch=5.0) > 0.86)[..., None]
    seam = np.abs((np.arange(height) * 5 / height) % 1.0 - 0.5) > 0.494
    image[seam] *= 0.35
    return image


def plaster(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """An old limewashed wall: stains, patches where the paint is gone, specks."""
    stains = fractal(rng, shape, 1.5)
    image = ramp(stains, (0.36, 0.40, 0.40), (0.58, 0.60, 0.55), (0.74, 0.71, 0.62))
    bare = fractal(rng, shape, 1.3)
    image[bare > 0.80] = ramp(fractal(rng, shape, 0.9), (0.33, 0.20, 0.14), (0.62, 0.44, 0.33))[bare > 0.80]
    image[(bare > 0.785) & (bare <= 0.80)] *= 0.6
    return image * grain(rng, shape, 0.5)


def stone(rng: np.random.Generator, shape: tuple[int, int], dark: RGB, light: RGB) -> np.ndarray:
    """Speckled granite with a few veins."""
    image = ramp(fractal(rng, shape, 1.0), dark, light)
    image[fractal(rng, shape, 0.7) > 0.84] *= 0.35
    image[fractal(rng, shape, 0.7) > 0.87] = (0.85, 0.83, 0.78)
    vein = np.abs(fractal(rng, shape, 1.5) - 0.5) < 0.012
    image[vein] = (0.80, 0.76, 0.68)
    return image


def glaze(rng: np.random.Generator, shape: tuple[int, int], *colours: RGB) -> np.ndarray:
    """Running ceramic glaze with drips, crackle and dark flecks."""
    image = ramp(warp(fractal(rng, shape, 1.5), rng, 60), *colours)
    crack = np.abs(warp(fractal(rng, shape, 1.1), rng, 20) - 0.5) < 0.014
    image[crack] *= 0.45
    image[fractal(rng, shape, 0.6) > 0.89] *= 0.3
    return image


def painting(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Abstract painting: warped Voronoi patches with brush strokes."""
    height, width = shape
    sites = rng.random((90, 2)) * (height, width)
    colours = ramp(rng.random(90), (0.10, 0.14, 0.30), (0.75, 0.25, 0.12), (0.93, 0.80, 0.45), (0.15, 0.45, 0.42))
    rows, columns = np.mgrid[0:height, 0:width]
    best, owner = np.full(shape, np.inf), np.zeros(shape, int)
    for index, (row, column) in enumerate(sites):
        distance = (rows - row) ** 2 + (columns - column) ** 2
        closer = distance < best
        best[closer], owner[closer] = distance[closer], index
    image = warp(colours[owner], rng, 45)
    strokes = fractal(rng, shape, 1.0, stretch=3.0)[..., None]
    return image * (0.6 + 0.8 * strokes) * grain(rng, shape, 0.4)


def printed(rng: np.random.Generator, shape: tuple[int, int], paper: RGB, ink: RGB) -> np.ndarray:
    """A page of invented writing: words of random strokes in lines, and an illustration."""
    height, width = shape
    image = np.ones((height, width, 3)) * paper * grain(rng, shape, 0.25)
    for top in range(height // 14, height - height // 10, height // 18):
        column = width // 12 + int(rng.integers(0, width // 12))
        while column < width - width // 8:
            letters = int(rng.integers(2, 9))
            for _ in range(letters):
                glyph = rng.random((5, 3)) > 0.45
                scale = max(height // 180, 1)
                patch = np.kron(glyph, np.ones((scale, scale), bool))
                area = image[top : top + patch.shape[0], column : column + patch.shape[1]]
                area[patch[: area.shape[0], : area.shape[1]]] = ink
                column += patch.shape[1] + scale
            column += 5 * max(height // 180, 1)
    picture = painting(rng, (height // 3, width // 2))
    image[height // 3 : height // 3 + picture.shape[0], width // 3 : width // 3 + picture.shape[1]] = picture
    return image


def globe(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Continents of an invented planet, with relief and coast lines."""
    height = warp(fractal(rng, shape, 1.45), rng, 25)
    land = ramp((height - 0.55) / 0.45, (0.25, 0.42, 0.18), (0.72, 0.62, 0.36), (0.50, 0.32, 0.20), (0.95, 0.95, 0.92))
    sea = ramp(height / 0.55, (0.04, 0.10, 0.25), (0.12, 0.34, 0.52), (0.45, 0.68, 0.72))
    image = np.where((height > 0.55)[..., None], land, sea)
    image[np.abs(height - 0.55) < 0.006] = (0.08, 0.07, 0.05)
    return image * grain(rng, shape, 0.35)


def rug(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A hand-woven mat: irregular stripes, knots, worn places."""
    rows = np.arange(shape[0])[:, None] / shape[0]
    bands = np.floor(rows * 26 + 0.8 * fractal(rng, shape, 1.8)).astype(int)
    colours = ramp(rng.random(64), (0.45, 0.08, 0.08), (0.80, 0.62, 0.30), (0.10, 0.16, 0.28), (0.82, 0.77, 0.66))
    image = colours[bands % 64]
    knots = fractal(rng, shape, 0.75) > 0.80
    image[knots] = colours[(bands[knots] * 7 + 3) % 64]
    thread = 0.85 + 0.15 * np.sin(np.arange(shape[1]) * 1.9)[None, :, None]
    return image * thread * grain(rng, shape, 0.6)


def revolve(profile: np.ndarray, segments: int = 128) -> Mesh:
    """Turn a profile of (radius, height) rows around z into (vertices, uv, faces)."""
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    radius, height = profile[:, 0], profile[:, 1]
    x, y = radius[:, None] * np.cos(angle), radius[:, None] * np.sin(angle)
    z = np.broadcast_to(height[:, None], x.shape)
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(profile, axis=0).T))])
    v = np.broadcast_to((length / length[-1])[:, None], x.shape)
    u = np.broadcast_to(angle / (2 * np.pi), x.shape)
    return np.stack([x, y, z], -1).reshape(-1, 3), np.stack([u, v], -1).reshape(-1, 2), grid_faces(*x.shape)


def grid_faces(rows: int, columns: int) -> np.ndarray:
    """Triangles of a grid of rows x columns vertices."""
    a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    return np.concatenate([np.stack([a, a + 1, a + columns], 1), np.stack([a + 1, a + columns + 1, a + columns], 1)])


def sheet(function: Callable[[np.ndarray, np.ndarray], np.ndarray], n: int = 96) -> Mesh:
    """Mesh of a surface given as function(u, v) -> xyz on the unit square."""
    u, v = np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n))
    return function(u, v).reshape(-1, 3), np.stack([u, v], -1).reshape(-1, 2), grid_faces(n, n)


def quad(origin: list[float], along: list[float], up: list[float]) -> Mesh:
    """A flat parallelogram."""
    o, a, b = np.array(origin), np.array(along), np.array(up)
    return sheet(lambda u, v: o + u[..., None] * a + v[..., None] * b, 2)


def pebble(rng: np.random.Generator, size: tuple[float, float, float]) -> Mesh:
    """A rounded stone: an ellipsoid with low-order bumps, resting on z = 0."""
    waves = rng.normal(size=(7, 3)) * np.linspace(1.5, 5.0, 7)[:, None]
    phase = rng.uniform(0, 2 * np.pi, 7)

    def surface(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        theta, phi = np.pi * v, 2 * np.pi * u
        direction = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1)
        bump = (np.sin(direction @ waves.T + phase) / np.linspace(1.5, 5.0, 7)).sum(-1)
        return direction * (1 + 0.10 * bump)[..., None] * np.array(size)

    vertices, uv, faces = sheet(surface)
    return vertices - [0, 0, vertices[:, 2].min() + 0.003], uv, faces


def place(mesh: Mesh, at: RGB, turn_deg: float = 0.0) -> Mesh:
    """Turn a mesh around z and move it."""
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    return mesh[0] @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + np.array(at), mesh[1], mesh[2]


def slab(size: RGB) -> list[Mesh]:
    """The six faces of a box that rests on z = 0: top, bottom, then the four sides; u runs along the longer edge."""
    x, y, z = size[0] / 2, size[1] / 2, size[2]
    corners = {
        "top": [(-x, -y, z), (x, -y, z), (-x, y, z)],
        "bottom": [(-x, y, 0), (x, y, 0), (-x, -y, 0)],
        "front": [(-x, -y, 0), (x, -y, 0), (-x, -y, z)],
        "back": [(x, y, 0), (-x, y, 0), (x, y, z)],
        "left": [(-x, y, 0), (-x, -y, 0), (-x, y, z)],
        "right": [(x, -y, 0), (x, y, 0), (x, -y, z)],
    }
    faces = []
    for origin, along, up in (np.array(corner, float) for corner in corners.values()):
        faces.append(
            sheet(lambda u, v, o=origin, a=along, b=up: o + u[..., None] * (a - o) + v[..., None] * (b - o), 2)
        )
    return faces


def write_ply(path: Path, mesh: Mesh) -> None:
    """Write a triangle mesh with texture coordinates as binary PLY."""
    vertices = np.zeros(len(mesh[0]), [(name, "<f4") for name in ("x", "y", "z", "u", "v")])
    for index, name in enumerate(("x", "y", "z")):
        vertices[name] = mesh[0][:, index]
    vertices["u"], vertices["v"] = mesh[1].T
    faces = np.zeros(len(mesh[2]), [("n", "u1"), ("i", "<i4", 3)])
    faces["n"], faces["i"] = 3, mesh[2]
    properties = "".join(f"property float {name}\n" for name in vertices.dtype.names or ())
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\n{properties}"
    header += f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    path.write_bytes(header.encode() + vertices.tobytes() + faces.tobytes())


def write_texture(path: Path, image: np.ndarray) -> None:
    """Write an image with values in [0, 1] as PNG."""
    Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8)).save(path)
