"""The arrangement of the example photos: which object lies where, with which texture. Used by make_photos.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mitsuba as mi  # pyright: ignore[reportMissingImports]
import numpy as np
from still_life import (
    Mesh,
    fractal,
    glaze,
    globe,
    painting,
    pebble,
    place,
    plaster,
    printed,
    quad,
    revolve,
    rug,
    sheet,
    slab,
    stone,
    wood,
    write_ply,
    write_texture,
)


class Builder:
    """Collects a Mitsuba scene dictionary; meshes and textures go to a folder.

    Args:
        folder: an empty folder.
        quality: factor on the texture sizes.
        seed: of every texture and shape.
    """

    def __init__(self, folder: Path, quality: float, seed: int = 20) -> None:
        self.folder, self.quality = folder, quality
        self.rng = np.random.default_rng(seed)
        self.scene: dict[str, Any] = {"type": "scene", "integrator": {"type": "path", "max_depth": 6}}

    def pixels(self, height: int, width: int) -> tuple[int, int]:
        """Size of a texture at this quality."""
        return int(height * self.quality), int(width * self.quality)

    def add(self, name: str, meshes: list[Mesh], texture: np.ndarray, shine: float | None = None) -> None:
        """Add meshes that share a texture; ``shine`` is the roughness of a coat of varnish."""
        write_texture(self.folder / f"{name}.png", texture)
        bitmap = {"type": "bitmap", "filename": str(self.folder / f"{name}.png")}
        bsdf: dict[str, Any] = {"type": "diffuse", "reflectance": bitmap}
        if shine is not None:
            bsdf = {"type": "roughplastic", "diffuse_reflectance": bitmap, "alpha": shine}
        for index, mesh in enumerate(meshes):
            path = self.folder / f"{name}-{index}.ply"
            write_ply(path, mesh)
            two_sided = {"type": "twosided", "bsdf": bsdf}
            self.scene[f"{name}{index}"] = {"type": "ply", "filename": str(path), "bsdf": two_sided}


def build_scene(folder: Path, quality: float) -> dict[str, Any]:
    """The whole still life as a Mitsuba scene dictionary.

    Args:
        folder: an empty folder for meshes and textures.
        quality: factor on the texture sizes.
    """
    builder = Builder(folder, quality)
    # The order fixes the random numbers that every part gets.
    for part in (_room, _rug, _vase, _globe, _books, _vessels, _stones, _pictures, _light):
        part(builder)
    return builder.scene


def _room(b: Builder) -> None:
    top = quad([-1.3, -0.75, 0], [2.6, 0, 0], [0, 1.4, 0])
    b.add("table", [top], wood(b.rng, b.pixels(2048, 3600), (0.20, 0.10, 0.05), (0.62, 0.40, 0.22)), 0.35)
    b.add("wall", [quad([-3.2, 0.95, -0.8], [6.4, 0, 0], [0, 0, 3.2])], plaster(b.rng, b.pixels(2048, 4096)))
    floor = quad([-3.2, -3, -0.8], [6.4, 0, 0], [0, 3.95, 0])
    b.add("floor", [floor], stone(b.rng, b.pixels(1024, 1024), (0.10, 0.08, 0.07), (0.35, 0.30, 0.26)))


def _rug(b: Builder) -> None:
    def woven(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        ripple = 0.004 + 0.003 * np.sin(9 * u + 4 * v) * np.sin(7 * v - 2 * u)
        x, y = (u - 0.5) * 1.0 + 0.02 * np.sin(6 * v), (v - 0.5) * 0.62 + 0.015 * np.sin(8 * u)
        return np.stack([x, y, ripple], -1)

    b.add("rug", [place(sheet(woven), (0.02, 0.0, 0.0), 4)], rug(b.rng, b.pixels(1024, 1700)))


def _vase(b: Builder) -> None:
    t = np.linspace(0, 1, 90)
    radius = 0.035 + 0.065 * np.sin(np.pi * np.clip(t * 1.12, 0, 1)) ** 1.3
    radius += 0.018 * np.exp(-(((t - 1.0) / 0.07) ** 2))
    outside = np.stack([radius, 0.30 * t], 1)
    inside = np.stack([radius[::-1] - 0.006, 0.30 * t[::-1] * 0.99 + 0.003], 1)
    vase = place(revolve(np.concatenate([outside, inside])), (0.05, 0.16, 0.006))
    colours = (0.05, 0.16, 0.24), (0.20, 0.48, 0.50), (0.80, 0.76, 0.62), (0.50, 0.22, 0.10)
    b.add("vase", [vase], glaze(b.rng, b.pixels(1600, 1024), *colours), 0.25)
    leaves = []
    for index in range(11):
        leaf = _leaf(b.rng.uniform(0.16, 0.30), b.rng.uniform(0.25, 1.0), b.rng.uniform(-0.6, 0.6))
        leaves.append(place(leaf, (0.05, 0.16, 0.27), index * 360 / 11 + b.rng.uniform(-12, 12)))
    size = b.pixels(512, 256)
    red = 0.10 + 0.35 * fractal(b.rng, size, 1.0)
    green = 0.25 + 0.40 * fractal(b.rng, size, 0.9)
    blue = 0.05 + 0.15 * fractal(b.rng, size, 1.2)
    b.add("leaves", leaves, np.stack([red, green, blue], -1))


def _leaf(length: float, lean: float, twist: float) -> Mesh:
    def blade(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        width = 0.030 * np.sin(np.pi * np.clip(v * 0.97 + 0.02, 0, 1)) ** 0.8
        across = (u - 0.5) * 2 * width
        out = length * lean * v**1.6
        up = length * v * (1.15 - 0.55 * lean * v) + 0.006 * np.cos(np.pi * (u - 0.5) * 2)
        return np.stack([out - 0.3 * across * np.sin(twist), across * np.cos(twist), up], -1)

    return sheet(blade, 32)


def _globe(b: Builder) -> None:
    def ball(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        x, y = np.sin(np.pi * v) * np.cos(2 * np.pi * u), np.sin(np.pi * v) * np.sin(2 * np.pi * u)
        return 0.085 * np.stack([x, y, -np.cos(np.pi * v) + 1.06], -1)

    b.add("globe", [place(sheet(ball), (-0.15, 0.0, 0.006), 75)], globe(b.rng, b.pixels(700, 1400)), 0.25)
    stand = revolve(np.array([[0.05, 0], [0.052, 0.008], [0.03, 0.014], [0.025, 0.02]]))
    texture = wood(b.rng, b.pixels(64, 512), (0.12, 0.06, 0.03), (0.4, 0.2, 0.1))
    b.add("stand", [place(stand, (-0.15, 0.0, 0.006))], texture)


def _books(b: Builder) -> None:
    cover = printed(b.rng, b.pixels(900, 1280), (0.80, 0.74, 0.58), (0.12, 0.06, 0.05))
    cloth = painting(b.rng, b.pixels(600, 860))
    size = b.pixels(128, 900)
    lines = fractal(b.rng, size, 0.8, stretch=12.0)[..., None]
    pages = (np.array([0.45, 0.40, 0.30]) + lines * [0.45, 0.43, 0.38]) * (
        0.8 + 0.4 * fractal(b.rng, size, 1.1)[..., None]
    )
    lower = [place(face, (-0.36, 0.19, 0.004), 24) for face in slab((0.30, 0.21, 0.045))]
    upper = [place(face, (-0.35, 0.20, 0.049), 4) for face in slab((0.24, 0.17, 0.038))]
    b.add("book1", lower[:2], cloth)
    b.add("pages1", lower[2:], pages)
    b.add("book2", upper[:2], cover)
    b.add("pages2", upper[2:], pages[::-1])
    letter = place(slab((0.21, 0.148, 0.0015))[0], (-0.17, -0.20, 0.008), -14)
    b.add("letter", [letter], printed(b.rng, b.pixels(800, 1100), (0.88, 0.86, 0.80), (0.08, 0.09, 0.25)))


def _vessels(b: Builder) -> None:
    crate = [place(face, (0.34, 0.13, 0.004), -22) for face in slab((0.22, 0.17, 0.15))]
    b.add("crate", crate, wood(b.rng, b.pixels(700, 900), (0.28, 0.16, 0.08), (0.80, 0.58, 0.34)))
    profile = [[0, 0], [0.042, 0], [0.05, 0.03], [0.053, 0.10], [0.049, 0.10], [0.046, 0.03], [0, 0.008]]
    colours = (0.55, 0.16, 0.08), (0.85, 0.45, 0.20), (0.92, 0.84, 0.66)
    mug = place(revolve(np.array(profile)), (0.17, -0.10, 0.006))
    b.add("mug", [mug], glaze(b.rng, b.pixels(700, 900), *colours), 0.3)


def _stones(b: Builder) -> None:
    on_crate = place(pebble(b.rng, (0.05, 0.042, 0.036)), (0.34, 0.12, 0.154), 30)
    granite = stone(b.rng, b.pixels(600, 900), (0.30, 0.29, 0.31), (0.68, 0.66, 0.64))
    b.add("pebbles", [place(pebble(b.rng, (0.052, 0.040, 0.026)), (0.03, -0.17, 0.006)), on_crate], granite)
    basalt = stone(b.rng, b.pixels(600, 900), (0.16, 0.11, 0.10), (0.55, 0.36, 0.27))
    by_the_mug = place(pebble(b.rng, (0.045, 0.05, 0.034)), (0.34, -0.14, 0.004))
    in_front = place(pebble(b.rng, (0.034, 0.03, 0.022)), (0.09, -0.22, 0.006))
    b.add("rocks", [by_the_mug, in_front], basalt)


def _pictures(b: Builder) -> None:
    upright = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])

    def hang(size: tuple[float, float, float], at: list[float]) -> list[Mesh]:
        return [(vertices @ upright + at, uv, faces) for vertices, uv, faces in slab(size)]

    picture = hang((0.78, 0.60, 0.03), [-0.25, 0.945, 0.62])
    b.add("painting", picture[:1], painting(b.rng, b.pixels(1100, 1430)))
    b.add("frame", picture[2:], wood(b.rng, b.pixels(64, 700), (0.1, 0.05, 0.03), (0.3, 0.18, 0.1)))
    poster = hang((0.5, 0.7, 0.01), [0.75, 0.945, 0.50])
    b.add("poster", poster[:1], printed(b.rng, b.pixels(1300, 930), (0.86, 0.80, 0.66), (0.35, 0.10, 0.08)))


def _light(b: Builder) -> None:
    window = mi.ScalarTransform4f().look_at(origin=[-1.7, -1.0, 1.9], target=[0, 0.1, 0.1], up=[0, 0, 1])
    b.scene["window"] = {
        "type": "rectangle",
        "to_world": window @ mi.ScalarTransform4f().scale([0.75, 0.75, 1]),
        "emitter": {"type": "area", "radiance": {"type": "rgb", "value": [13.5, 13.0, 12.0]}},
    }
    b.scene["sky"] = {"type": "constant", "radiance": {"type": "rgb", "value": [0.62, 0.66, 0.72]}}
