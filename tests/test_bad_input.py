"""Input and machines that are not as they should be: one clear line, the documented code, and nothing left behind."""

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flarecli.cli.app import run

EXAMPLES = Path(__file__).parents[1] / "examples/photos"
FLARE = [sys.executable, "-m", "flarecli"]
QUICK = ["--model", "flare-test", "--export", "points"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two small photos that overlap."""
    folder = tmp_path_factory.mktemp("good") / "photos"
    folder.mkdir()
    for name in ("IMG_0001.jpg", "IMG_0002.jpg"):
        with Image.open(EXAMPLES / name) as picture:
            picture.resize((320, 240)).save(folder / name)
    return folder


@pytest.fixture
def copies(photos, tmp_path) -> Path:
    return Path(shutil.copytree(photos, tmp_path / "photos"))


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def refused(capsys, arguments: list[str], code: int, *words: str) -> None:
    """The command ends with this code and says so in an error line and at most one hint."""
    assert run(arguments) == code
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith(("error:", "hint:"))]
    assert lines and lines[0].startswith("error:") and len(lines) <= 2
    assert "Traceback" not in said.err and "internal" not in said.err and said.out == ""
    for word in words:
        assert word in " ".join(lines)


def noise(seed: int, size_hw: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), np.uint8))


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def _no_photos(folder: Path) -> None:
    (folder / "notes.txt").write_text("nothing to see")


def _one(folder: Path) -> None:
    noise(0, (200, 300)).save(folder / "a.jpg")


def _text(folder: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_text(f"I am {name}")


def _tiny(folder: Path) -> None:
    for index in range(3):
        noise(index, (20, 20)).save(folder / f"{index}.png")


def _thin(folder: Path) -> None:
    for index in range(3):
        noise(index, (500, 1)).save(folder / f"{index}.png")


def _huge(folder: Path) -> None:
    for index in range(2):
        (folder / f"{index}.png").write_bytes(png_that_claims(100_000 + index, 100_000))


def _cut_huge(folder: Path) -> None:
    for index in range(2):
        (folder / f"{index}.png").write_bytes(png_that_claims(4000 + index, 3000))


def _blank(folder: Path) -> None:
    for index in range(3):
        Image.new("RGB", (400, 300), (60 * index,) * 3).save(folder / f"{index}.jpg")


def _all_the_same(folder: Path) -> None:
    for index in range(3):
        noise(0, (200, 300)).save(folder / f"{index}.png")


def _broken(folder: Path) -> None:
    for index in range(3):
        noise(index, (200, 300)).save(folder / f"{index}.jpg")
        (folder / f"{index}.jpg").write_bytes((folder / f"{index}.jpg").read_bytes()[:400])


@pytest.mark.parametrize(
    ("fill", "word"),
    [
        (lambda folder: None, "no usable photos"),
        (_no_photos, "1 .txt"),
        (_one, "only one usable photo"),
        (_text, "not a picture"),
        (_tiny, "only 20 x 20 pixels"),
        (_thin, "only 1 x 500 pixels"),
        (_huge, "larger than 500 megapixels"),
        (_cut_huge, "damaged picture"),
        (_blank, "blank"),
        (_all_the_same, "the same picture as 0.png"),
        (_broken, "3 dropped"),
    ],
)
def test_photos_that_are_none(fill: Callable[[Path], None], word, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    fill(folder)
    before = everything(tmp_path)
    refused(capsys, ["reconstruct", str(folder), "-o", str(tmp_path / "scene"), *QUICK], 3, "photos: ", word)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (["--device", "banana"], 3, "unknown device 'banana'"),
        (["--device", "cuda:99"], 3, "cuda:99 is not available"),
        (["--model", "flare-giant"], 3, "flare-giant"),
        (["--weights", "nothere.safetensors"], 5, "nothere.safetensors"),
        (["--weights", "IMG_0001.jpg"], 5, "IMG_0001.jpg"),
        (["--intrinsics", "35mm=0"], 3, "35mm=0"),
        (["--intrinsics", "35mm=."], 3, "35mm=."),
        (["--intrinsics", "nothere"], 3, "nothere"),
        (["--intrinsics", "exif"], 3, "EXIF focal length"),
        (["--poses", "nothere.json"], 3, "nothere.json"),
        (["--masks", "nothere"], 3, "nothere"),
        (["--masks", "."], 3, "folder of masks"),
        (["--masks", ".."], 3, "no mask belongs"),
    ],
)
def test_options_that_contradict_the_data(options, code, word, copies, capsys, monkeypatch):
    monkeypatch.chdir(copies)
    before = everything(copies.parent)
    refused(capsys, ["reconstruct", str(copies), "-o", "../scene", "--model", "flare-test", *options], code, word)
    assert everything(copies.parent) == before


@pytest.mark.parametrize("place", ["photos", "photos/scene", "file", "file/scene"])
def test_outputs_that_can_not_be(place, copies, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    before = everything(tmp_path)
    refused(capsys, ["reconstruct", str(copies), "-o", str(tmp_path / place), *QUICK], 3, place)
    assert everything(tmp_path) == before and (tmp_path / "file").read_text() == "mine"


def test_a_broken_photo_among_good_ones_is_dropped_and_strict_refuses_it(copies, tmp_path, capsys):
    whole = (EXAMPLES / "IMG_0003.jpg").read_bytes()
    (copies / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    strict = ["reconstruct", str(copies), "-o", str(tmp_path / "strict"), "--strict", *QUICK]
    refused(capsys, strict, 3, "cut.jpg", "damaged")
    assert not (tmp_path / "strict").exists()
    assert run(["reconstruct", str(copies), "-o", str(tmp_path / "scene"), *QUICK]) == 0
    assert "1 dropped" in capsys.readouterr().err


def test_photos_that_show_different_things_are_marked_so(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        noise(index, (240, 320)).save(folder / f"{index}.png")
    line = ["reconstruct", str(folder), "-o", str(tmp_path / "scene"), "--min-registered", "0.5", *QUICK]
    assert run(line) == 6
    assert "3 network-only" in capsys.readouterr().err
    assert (tmp_path / "scene/flare.json").is_file()


def test_a_network_that_does_not_fit_is_code_4(copies, tmp_path, capsys):
    before = everything(tmp_path)
    line = ["reconstruct", str(copies), "-o", str(tmp_path / "scene"), "--max-memory", "1M", *QUICK]
    refused(capsys, line, 4, "memory")
    assert everything(tmp_path) == before


def _nobody_can_run() -> bool:
    """Whether this is root, who can start the program as a user without rights."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    try:
        return subprocess.run([sys.executable, "-c", "import flarecli"], user=65534, check=False).returncode == 0
    except PermissionError:
        return False


def test_photos_and_folders_without_rights(copies, tmp_path):
    if not _nobody_can_run():
        pytest.skip("needs root, and an interpreter that every user may start")
    (copies / "IMG_0001.jpg").chmod(0)
    where = tmp_path
    while where != where.parent and where.stat().st_uid == 0 and str(where).startswith("/tmp/"):
        where.chmod(where.stat().st_mode | 0o055)
        where = where.parent
    line = [*FLARE, "reconstruct", str(copies), "-o", str(tmp_path / "scene"), *QUICK]
    done = subprocess.run(line, capture_output=True, text=True, user=65534, check=False, env=os.environ | {"HOME": "/"})
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "IMG_0001.jpg: can't be read: Permission denied" in done.stderr
    (copies / "IMG_0001.jpg").chmod(0o644)
    done = subprocess.run(line, capture_output=True, text=True, user=65534, check=False, env=os.environ | {"HOME": "/"})
    assert done.returncode == 3 and "Permission denied" in done.stderr and "Traceback" not in done.stderr
    assert everything(tmp_path) == ["photos", "photos/IMG_0001.jpg", "photos/IMG_0002.jpg"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("photos", signal.SIGINT),
        ("network", signal.SIGTERM),
        ("features", signal.SIGINT),
        ("features", signal.SIGTERM),
        ("images", signal.SIGINT),
    ],
)
def test_an_interrupt_in_the_middle_leaves_nothing(stage, number, copies, tmp_path):
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    before = everything(tmp_path)
    line = [*FLARE, "reconstruct", str(copies), "-o", str(tmp_path / "scene"), *QUICK, "-vv"]
    environment = os.environ | {"TMPDIR": str(scratch)}
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for said in process.stderr:
            if f"{stage} " in said or said.startswith(stage):
                break
        time.sleep(0.05)
        process.send_signal(number)
        rest = process.stderr.read()
        code = process.wait(60)
    assert code == 130, rest
    assert "Traceback" not in rest and rest.splitlines()[-1] == "interrupted"
    assert everything(tmp_path) == before
