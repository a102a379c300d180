"""One small exact scene on disk with photos, archive and manifest."""

import shutil

import pytest

from flarecli.export import write_formats
from flarecli.export.archive import save_scene
from flarecli.export.manifest import build_manifest, write_manifest
from tests.synthetic import make_scene


@pytest.fixture(scope="session")
def exact():
    return make_scene(5, (72, 96), num_tracks=60, arc_deg=24)


@pytest.fixture(scope="session")
def exact_once(exact, tmp_path_factory):
    folder = tmp_path_factory.mktemp("appearance") / "scene"
    exact.write_images(folder / "images")
    written = write_formats(exact.reconstruction, folder, ("colmap", "points", "gaussians", "spz"))
    save_scene(exact.reconstruction, folder)
    exports = {name: [p.relative_to(folder).as_posix() for p in paths] for name, paths in written.files.items()}
    manifest = build_manifest(exact.reconstruction, folder, options={}, timings_s={}, exports=exports)
    write_manifest(folder, manifest)
    return folder


@pytest.fixture
def scene(exact_once, tmp_path):
    return shutil.copytree(exact_once, tmp_path / "scene")
