"""The README tells the truth: its blocks run, its tables agree with the program, its links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from flarecli.cli.app import app
from flarecli.model.config import MODELS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "examples/README.md"]
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>\S.*?) -->\n$")


@dataclass(frozen=True)
class Block:
    """A fenced block of the README, and why it is not run, if so."""

    language: str
    code: str
    reason: str | None


def blocks() -> list[Block]:
    found = []
    for match in FENCE.finditer(README):
        before = NOT_RUN.search(README[: match.start()])
        found.append(Block(match["language"], match["code"], before["reason"] if before else None))
    return found


def runnable() -> list:
    parameters = []
    for number, block in enumerate(each for each in blocks() if each.language in {"sh", "python"}):
        marks = [pytest.mark.skip(reason=f"not run: {block.reason}")] if block.reason else [pytest.mark.slow]
        parameters.append(pytest.param(block, id=f"{number}-{block.code.split(chr(10))[0][:40]}", marks=marks))
    return parameters


def options(command: typer.core.TyperGroup) -> set[str]:
    names: set[str] = set()
    for parameter in command.params:
        names |= {*parameter.opts, *parameter.secondary_opts}
    for child in getattr(command, "commands", {}).values():
        names |= options(child)
    return names


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """The folder of somebody who tries the README: photos, captures and truth under the names that it uses."""
    folder = tmp_path_factory.mktemp("reader")
    photos = sorted((ROOT / "examples/photos").glob("*.jpg"))
    for name, chosen in {"photos": photos[2:6], "captures/one": photos[:2], "captures/two": photos[5:7]}.items():
        (folder / name).mkdir(parents=True)
        for photo in chosen:
            shutil.copy(photo, folder / name)
    shutil.copytree(ROOT / "examples/truth", folder / "truth")
    return folder


@pytest.mark.parametrize("block", runnable())
def test_block_runs(block, reader):
    # The blocks share the folder and run in the order of the text, as a reader would.
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", block.code] if block.language == "sh" else [sys.executable, "-"]
    done = subprocess.run(
        command,
        cwd=reader,
        env=os.environ | {"PATH": search},
        input=block.code if block.language == "python" else None,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert block.language != "python" or done.stdout


@pytest.mark.slow
def test_the_quick_start_writes_the_files_that_the_readme_shows(reader):
    tree = next(block.code for block in blocks() if block.language == "text" and block.code.startswith("scene/\n"))
    names = re.findall(r"^  (\S+)", tree, re.M)
    assert len(names) >= 8
    scene = reader / "scene"
    if not scene.exists():
        pytest.skip("the quick start did not run before this test")
    assert [name for name in names if not (scene / name).exists()] == []


def test_only_marked_shell_blocks_are_left_out():
    markers = README.count("<!-- not run:")
    left_out = [block for block in blocks() if block.reason]
    assert markers == len(left_out), "a marker does not stand right before a block"
    ran = [block for block in blocks() if block.language in {"sh", "python"} and not block.reason]
    assert len(ran) >= 3
    assert all(block.language in {"sh", "python", "text"} for block in blocks())


def test_the_install_paragraph_names_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    install = README[README.index("## Install") : README.index("## Quick start")]
    for extra in set(project["optional-dependencies"]) - {"test"}:
        assert f"[{extra}]" in install or f"`{extra}`" in install, extra


def test_blocks_that_run_need_no_extra():
    """The environment of the tests has all extras, that of a reader has none."""
    ran = "".join(block.code for block in blocks() if block.language in {"sh", "python"} and not block.reason)
    assert [word for word in ("exr", ".heic", ".mp4", "--lpips-weights") if word in ran.lower()] == []


def test_the_table_of_commands_is_that_of_the_program():
    rows = re.findall(r"^\| `flare ([\w-]+)` \|", README, re.M)
    assert rows == list(typer.main.get_command(app).commands)


def test_every_option_that_the_text_names_exists():
    command = typer.main.get_command(app)
    prose = FENCE.sub("", README)
    named = set(re.findall(r"`(?:flare )?(--[a-z][a-z-]*)", prose))
    assert {"--overwrite", "--license-policy"} <= named
    assert named - options(command) == set()


def test_the_table_of_models_is_that_of_the_program():
    rows = {row[0]: row[1] for row in re.findall(r"^\| `([\w-]+)` \| (.*) \|$", README, re.M)}
    for model in MODELS.values():
        if model.hidden or model.weights is None:
            continue
        cells = [cell.strip() for cell in rows[model.name].split(" | ")]
        assert cells[1].split(",")[0] == model.weights.licence
        assert model.weights.commercial == ("no commercial use" not in cells[1])
        value, unit = cells[2].split()
        shown = float(value) * {"MB": 1e6, "GB": 1e9}[unit]
        assert shown == pytest.approx(model.weights.size_bytes, rel=0.1)
        assert int(cells[3].split()[0]) == model.canvas.long_side
        assert int(cells[4]) == model.max_views


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    path = ROOT / document
    targets = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (path.parent / target).exists()] == []


def test_exit_codes_are_those_of_the_errors():
    import flarecli.errors as errors

    shown = set(map(int, re.findall(r"^\| (\d+) \|", README, re.M)))
    raised = {each.exit_code for each in vars(errors).values() if isinstance(each, type) and each.__doc__}
    assert raised - {errors.FlareError.exit_code} <= shown
    assert {0, 2, 130} <= shown
