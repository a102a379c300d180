import json

import numpy as np
import pytest
from PIL import Image

from flarecli.appearance.film import FilmLook, write_film
from flarecli.appearance.paths import make_path
from flarecli.appearance.pictures import error_picture, ramp
from flarecli.cli.app import run
from flarecli.errors import InputError, OutputExists
from flarecli.export.splats import gaussians_from_points
from flarecli.render.splats import Splats


@pytest.fixture(scope="module")
def splats(exact):
    return Splats.of(gaussians_from_points(exact.reconstruction))


def test_film_plays_back(exact, splats, tmp_path):
    av = pytest.importorskip("av", reason="films need the extra video")
    path = make_path("between", exact.reconstruction, 6, (49, 65))
    output = write_film(splats, path, tmp_path / "new" / "fly.mp4", FilmLook(fps=10))
    with av.open(str(output)) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert film.streams.video[0].average_rate == 10
    assert len(frames) == 6 and frames[0].shape == (48, 64, 3)
    write_film(splats, path, tmp_path / "frames", FilmLook())
    still = np.asarray(Image.open(tmp_path / "frames" / "frame_0003.png")).astype(float)
    assert still.shape == (49, 65, 3)
    # The film halves the resolution of colour, so brightness is compared; another frame must fit worse.
    off = [np.abs(frame.mean(-1) - still[:48, :64].mean(-1)).mean() for frame in frames]
    assert off[3] < 6 and off[3] < 0.5 * min(off[:3] + off[4:]), off
    with pytest.raises(OutputExists, match=r"fly\.mp4 exists"):
        write_film(splats, path, output, FilmLook())
    write_film(splats, path, output, FilmLook(), overwrite=True)
    assert [each.name for each in output.parent.iterdir()] == ["fly.mp4"]
    with pytest.raises(InputError, match=r"an \.mp4"):
        write_film(splats, path, tmp_path / "fly.gif", FilmLook())


def test_every_command_line(scene, tmp_path, capsys):
    arguments = ["render", str(scene), "--long-side", "48", "--frames", "2", "--json"]
    for show in ("color", "depth", "normals"):
        assert run([*arguments, "-o", str(tmp_path / show), "--show", show, "--path", "spiral"]) == 0
        value = json.loads(capsys.readouterr().out)
        assert value["frames"] == 2 and value["size_hw"] == [36, 48]
    pictures = [np.asarray(Image.open(tmp_path / show / "frame_0001.png")) for show in ("color", "depth", "normals")]
    assert all(picture.std() > 5 for picture in pictures)
    # A surface that faces the camera is blue: z towards it.
    assert pictures[2][..., 2].mean() > 180
    sheet = tmp_path / "sheet.png"
    assert run(["render", str(scene), "-o", str(sheet), "--contact-sheet", "--long-side", "48", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["psnr_db"]
    assert set(scores) == {f"photo_{i:02d}.png" for i in range(5)} and min(scores.values()) > 13
    assert Image.open(sheet).size == (5 * 52, 5 * (36 + 18))
    packed = ["--gaussians", str(scene / "gaussians.spz"), "--overwrite"]
    assert run(["render", str(scene), "-o", str(sheet), "--contact-sheet", "--long-side", "48", "--json", *packed]) == 0
    again = json.loads(capsys.readouterr().out)["psnr_db"]
    assert all(abs(again[name] - scores[name]) < 0.3 for name in scores)
    assert run(["render", str(scene), "-o", str(sheet), "--contact-sheet"]) == 3
    assert "exists" in capsys.readouterr().err


FILM = "--path, --show, --frames, --fps and --background are for films and frames, not for --contact-sheet"


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("sheet.png", "--contact-sheet --path spiral", FILM),
        ("sheet.png", "--contact-sheet --path orbit", FILM),  # the default, but asked for
        ("sheet.png", "--contact-sheet --show depth", FILM),
        ("sheet.png", "--contact-sheet --frames 3", FILM),
        ("sheet.png", "--contact-sheet --background white", FILM),
        ("frames", "--fps 24", "--fps is for an .mp4"),
        ("sheet.jpg", "--contact-sheet", "sheet.jpg: a contact sheet is a .png"),
        ("sheet", "--contact-sheet", "sheet: a contact sheet is a .png"),
        ("folder", "--contact-sheet --overwrite", "folder is a folder"),
        ("folder.mp4", "--overwrite", "folder.mp4 is a folder"),
    ],
)
def test_what_would_be_ignored_or_misnamed_is_refused(scene, tmp_path, capsys, output, options, message):
    for name in ("folder", "folder.mp4"):
        (tmp_path / name).mkdir()
    assert run(["render", str(scene), "-o", str(tmp_path / output), "--long-side", "16", *options.split()]) == 3
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "folder.mp4", "scene"]


def test_frames_are_rendered_again_over_the_old_ones(scene, tmp_path, capsys):
    def render(frames, *options):
        arguments = ["render", str(scene), "-o", str(tmp_path / "frames"), "--long-side", "16", "--frames", frames]
        return run([*arguments, *options])

    assert render("3") == 0
    (tmp_path / "frames" / "notes.txt").write_text("mine")
    assert render("2") == 3
    assert "--overwrite replaces the frames" in capsys.readouterr().err
    assert render("2", "--overwrite") == 0
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == ["frame_0000.png", "frame_0001.png", "notes.txt"]


def test_colours_of_values():
    assert ramp(np.array([0.0, 1.0, 2.0])).tolist() == [[20, 8, 60], [253, 235, 120], [253, 235, 120]]
    brightness = ramp(np.linspace(0, 1, 50)).astype(float).sum(-1)
    assert (np.diff(brightness) > 0).all()
    black = np.zeros((2, 2, 3), np.uint8)
    assert error_picture(black, black).max() == 0 and error_picture(black, black + 255).min() == 200
