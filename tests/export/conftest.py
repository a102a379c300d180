"""One written scene for all tests of the exporters; tests that change it copy it first."""

import shutil
from pathlib import Path

import pytest

from flarecli.export import write_formats
from flarecli.export.archive import save_scene
from flarecli.export.manifest import build_manifest, write_manifest
from tests.synthetic import SyntheticScene, make_scene

ALL = ("colmap", "colmap-text", "points", "gaussians", "mesh", "depth", "transforms")


@pytest.fixture(scope="session")
def synthetic() -> SyntheticScene:
    return make_scene(4, (96, 128))


@pytest.fixture(scope="session")
def written_once(synthetic: SyntheticScene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "scene"
    synthetic.write_images(folder / "images")
    written = write_formats(synthetic.reconstruction, folder, ALL)
    assert not written.warnings
    save_scene(synthetic.reconstruction, folder)
    exports = {name: [p.relative_to(folder).as_posix() for p in paths] for name, paths in written.files.items()}
    manifest = build_manifest(
        synthetic.reconstruction, folder, options={"seed": 0}, timings_s={"export": 0.1234567}, exports=exports
    )
    write_manifest(folder, manifest)
    return folder


@pytest.fixture
def scene(written_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written_once, tmp_path / "scene"))
