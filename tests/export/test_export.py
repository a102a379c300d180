import dataclasses
import importlib
import subprocess
import sys

import pytest

from flarecli.errors import InputError
from flarecli.export import EXPORTERS, write_formats
from flarecli.job import DEFAULT_EXPORTS


def test_table_names_functions_that_are_there():
    for name, exporter in EXPORTERS.items():
        module, function = exporter.function.split(":")
        assert exporter.name == name and exporter.description and exporter.files
        assert callable(getattr(importlib.import_module(f"flarecli.export.{module}"), function))
    assert set(DEFAULT_EXPORTS) <= set(EXPORTERS)


def test_each_exporter_writes_what_its_row_says(synthetic, scene):
    stages = []
    written = write_formats(
        synthetic.reconstruction, scene, ["points", "points", "depth"], lambda *args: stages.append(args)
    )
    assert list(written.files) == ["points", "depth"] and written.warnings == ()
    assert stages == [("export points", 0, 2), ("export depth", 1, 2)]
    assert all(path.is_file() for paths in written.files.values() for path in paths)


def test_wrong_names(synthetic, tmp_path):
    with pytest.raises(InputError, match="unknown format 'obj'") as error:
        write_formats(synthetic.reconstruction, tmp_path, ["points", "obj"])
    assert "gaussians" in error.value.hint and not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="same files"):
        write_formats(synthetic.reconstruction, tmp_path, ["mesh", "mesh-poisson"])


def test_nothing_to_write_is_a_warning(synthetic, tmp_path):
    bare = dataclasses.replace(synthetic.reconstruction, depth_maps=())
    assert write_formats(bare, tmp_path, ["depth"]).warnings == ("depth: nothing to write (depth/NAME.npz)",)


def test_export_needs_no_torch(scene, tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom flarecli.export import write_formats\n"
        "from flarecli.export.archive import load_scene\n"
        f"scene, out = Path({str(scene)!r}), Path({str(tmp_path)!r})\n"
        "write_formats(load_scene(scene), out, ['colmap', 'points', 'transforms'])\n"
        "bad = {'torch', 'gsplat', 'open3d', 'pycolmap', 'typer', 'rich'} & set(sys.modules)\nassert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
