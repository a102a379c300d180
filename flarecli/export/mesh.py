"""A coloured surface from the depth maps: TSDF fusion, or Poisson on the dense points (Open3D)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from flarecli.errors import InputError
from flarecli.export.glb import encode_glb
from flarecli.export.ply import write_ply
from flarecli.export.surface import far_limit, point_normals, trusted
from flarecli.runtime import require
from flarecli.scene.reconstruction import DepthMap, Reconstruction

LOGGER = logging.getLogger(__name__)
_TRUNCATION_VOXELS = 5.0
_VOXELS_PER_FOOTPRINT = 1.5
_MAX_BYTES = 1.5 * 2**30
_BYTES_PER_VOXEL = 20  # five floats
_BLOCK = 8
_MIN_WEIGHT = 0.5  # in photos: seen once is enough, cleaning comes before and after
_MIN_COMPONENT_SHARE = 0.01
_POISSON_DEPTH = 9
_POISSON_MAX_POINTS = 400_000


def write_mesh(reconstruction: Reconstruction, scene_folder: Path) -> list[Path]:
    """Write ``mesh.ply`` and ``mesh.glb`` by TSDF fusion of the depth maps.

    Colours come from the images of the scene folder. Returns no path, and says so in the log, when nothing is left
    after cleaning.

    Raises:
        InputError: there are no depth maps, or an image is missing.
        MissingDependency: Open3D does not load.
    """
    o3d = require("open3d", "meshes")
    far = far_limit(reconstruction)
    maps = [(view, m) for view, m in enumerate(reconstruction.depth_maps) if m is not None]
    if not maps:
        raise InputError("there are no depth maps to make a mesh from", "use --mesh poisson, or leave the mesh out")
    kept = {view: np.where(trusted(m, far), m.depth, 0).astype(np.float32) for view, m in maps}
    voxel = voxel_size(list(kept.values()), [m for _, m in maps])
    if voxel <= 0:
        LOGGER.warning("no pixel is trusted enough for a mesh")
        return []
    grid = _empty_grid(o3d, voxel)
    for view, depth_map in maps:
        colour = _colours(scene_folder, reconstruction.image_names[view], depth_map)
        _integrate(o3d, grid, (kept[view], colour, depth_map.K), reconstruction.cameras.w2c[view], far)
    if grid.hashmap().size() == 0:
        LOGGER.warning("no pixel is trusted enough for a mesh")
        return []
    mesh = grid.extract_triangle_mesh(weight_threshold=_MIN_WEIGHT)
    # A grid without any surface gives a mesh without attributes, which has no legacy form.
    legacy = mesh.to_legacy() if "indices" in mesh.triangle else o3d.geometry.TriangleMesh()
    return _finish(o3d, legacy, scene_folder)


def _empty_grid(o3d: Any, voxel: float) -> Any:
    f32 = o3d.core.float32
    return o3d.t.geometry.VoxelBlockGrid(
        attr_names=("tsdf", "weight", "color"),
        attr_dtypes=(f32, f32, f32),
        attr_channels=((1,), (1,), (3,)),
        voxel_size=voxel,
        block_resolution=_BLOCK,
        block_count=1000,
        device=o3d.core.Device("CPU:0"),
    )


def _integrate(o3d: Any, grid: Any, pixels: tuple[np.ndarray, ...], w2c: np.ndarray, far: float) -> None:
    """Fuse the depth, colour and K of one photo into the grid."""
    depth_values, colour_values, K_ours = pixels
    if not depth_values.any():
        return
    depth = o3d.t.geometry.Image(o3d.core.Tensor(depth_values))
    colour = o3d.t.geometry.Image(o3d.core.Tensor((colour_values / 255).astype(np.float32)))
    # The rest of Open3D has pixel centres at integers; this grid truncates a projection to find its pixel, so here the
    # centres are at 0.5 as ours. Moving K by half a pixel shifts tilted surfaces measurably.
    K = o3d.core.Tensor(np.array(K_ours))
    extrinsic = o3d.core.Tensor(np.ascontiguousarray(w2c))
    try:
        blocks = grid.compute_unique_block_coordinates(depth, K, extrinsic, 1.0, far, _TRUNCATION_VOXELS)
    except RuntimeError as error:
        # Open3D looks at every fourth pixel only, and stops when none of those has depth.
        if "No block is touched" not in str(error):
            raise
        LOGGER.info("a photo has too few trusted pixels for the mesh")
        return
    grid.integrate(blocks, depth, colour, K, K, extrinsic, 1.0, far, _TRUNCATION_VOXELS)


def voxel_size(depths: list[np.ndarray], depth_maps: list[DepthMap]) -> float:
    """Edge of a voxel in world units: 1.5 pixel footprints at the median depth, more where memory would not do.

    The volume is a shell of twice the truncation around the surface; its area is the sum of all pixels' footprints at
    worst (photos that overlap share it). 0 when there is no depth.
    """
    sides = [
        depth[depth > 0].astype(np.float64) / np.sqrt(m.K[0, 0] * m.K[1, 1])
        for depth, m in zip(depths, depth_maps, strict=True)
    ]
    footprints = np.concatenate(sides) if sides else np.zeros(0)
    if not len(footprints):
        return 0.0
    area = float((footprints**2).sum())
    shell = 2 * _TRUNCATION_VOXELS + 2 * _BLOCK  # blocks are opened whole, at both ends
    smallest = np.sqrt(area * shell * _BYTES_PER_VOXEL / _MAX_BYTES)
    return float(max(_VOXELS_PER_FOOTPRINT * np.median(footprints), smallest))


def _colours(scene_folder: Path, name: str, depth_map: DepthMap) -> np.ndarray:
    path = scene_folder / "images" / name
    height, width = depth_map.depth.shape
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BOX)).copy()
    except (OSError, UnidentifiedImageError) as error:
        hint = "put the photo back, or leave the mesh out"
        raise InputError(f"{path} can't be read for the colours of the mesh", hint) from error


def write_mesh_poisson(reconstruction: Reconstruction, scene_folder: Path) -> list[Path]:
    """Write ``mesh.ply`` and ``mesh.glb`` by Poisson reconstruction of the dense points, trimmed where there are none.

    Raises:
        InputError: fewer than a hundred points.
        MissingDependency: Open3D does not load.
    """
    o3d = require("open3d", "meshes")
    points = reconstruction.points
    least = 1 + 0.2 * (float(np.median(points.confidence)) - 1) if len(points) else 0.0
    pick = np.flatnonzero(points.confidence >= least)
    if len(pick) < 100:
        raise InputError(f"{len(pick)} trusted points are too few for a Poisson mesh", "use --mesh tsdf")
    pick = pick[np.linspace(0, len(pick) - 1, min(len(pick), _POISSON_MAX_POINTS)).astype(int)]
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points.xyz[pick].astype(np.float64)))
    cloud.colors = o3d.utility.Vector3dVector(points.rgb[pick] / 255.0)
    cloud.normals = o3d.utility.Vector3dVector(point_normals(reconstruction)[pick])
    # One thread, so that the same points give the same mesh; quiet, because stdout belongs to results.
    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        mesh, densities = o3d.geometry.TriangleMesh.create_from_point_cloud_poisson(
            cloud, depth=_POISSON_DEPTH, n_threads=1
        )
    density = np.asarray(densities)
    spacing = float(np.median(cloud.compute_nearest_neighbor_distance()))
    corners = o3d.geometry.PointCloud(mesh.vertices)
    distance = np.asarray(corners.compute_point_cloud_distance(cloud))
    # Poisson closes every surface; what it invents lies far from all points and has little support.
    mesh.remove_vertices_by_mask((distance > 6 * spacing) | (density < np.quantile(density, 0.01)))
    return _finish(o3d, mesh, scene_folder)


def _finish(o3d: Any, mesh: Any, scene_folder: Path) -> list[Path]:
    """Remove small pieces and write both files; no path for an empty mesh."""
    if len(mesh.triangles):
        labels, counts, _ = mesh.cluster_connected_triangles()
        counts = np.asarray(counts)
        small = counts < _MIN_COMPONENT_SHARE * counts.max()
        mesh.remove_triangles_by_mask(small[np.asarray(labels)])
        mesh.remove_unreferenced_vertices()
    if not len(mesh.triangles):
        LOGGER.warning("no surface was found; the mesh is left out")
        return []
    _sort(o3d, mesh)
    mesh.compute_vertex_normals()
    vertices, normals = np.asarray(mesh.vertices, np.float32), np.asarray(mesh.vertex_normals, np.float32)
    rgb = np.clip(np.round(np.asarray(mesh.vertex_colors) * 255), 0, 255).astype(np.uint8)
    faces = np.asarray(mesh.triangles, np.int64)
    names = [*"xyz", "nx", "ny", "nz"]
    table = np.zeros(len(vertices), [(n, "<f4") for n in names] + [(c, "u1") for c in ("red", "green", "blue")])
    for index, name in enumerate(names):
        table[name] = np.concatenate([vertices, normals], 1)[:, index]
    table["red"], table["green"], table["blue"] = rgb.T
    paths = [scene_folder / "mesh.ply", scene_folder / "mesh.glb"]
    write_ply(paths[0], table, ("frame: world of the cameras, OpenCV axes (x right, y down, z forward)",), faces)
    paths[1].write_bytes(encode_glb(vertices, normals, rgb, faces))
    return paths


def _sort(o3d: Any, mesh: Any) -> None:
    """Order vertices and triangles by coordinates: the grid's threads leave them in an order that changes by run."""
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.triangles)
    order = np.lexsort(vertices.T[::-1])
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    faces = place[faces]
    first = np.argmin(faces, 1)
    faces = np.take_along_axis(faces, (first[:, None] + np.arange(3)) % 3, 1)
    mesh.vertex_colors = o3d.utility.Vector3dVector(np.asarray(mesh.vertex_colors)[order])
    mesh.vertices = o3d.utility.Vector3dVector(vertices[order])
    mesh.triangles = o3d.utility.Vector3iVector(faces[np.lexsort(faces.T[::-1])])
