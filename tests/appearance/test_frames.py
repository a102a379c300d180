import shutil

import numpy as np
import pytest
from PIL import Image

from flarecli.appearance import frames
from flarecli.appearance.frames import frame_folder
from flarecli.errors import InputError, OutputError, OutputExists


def write(folder, greys, **options):
    with frame_folder(folder, len(greys), **options) as add:
        for grey in greys:
            add(np.full((4, 6, 3), grey, np.uint8))


def greys(folder):
    return {path.name: Image.open(path).getpixel((0, 0))[0] for path in folder.glob("*.png")}


def test_a_new_folder_and_an_empty_one(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new/frames", "empty"):
        write(tmp_path / name, [10, 20])
        assert greys(tmp_path / name) == {"frame_0000.png": 10, "frame_0001.png": 20}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        write(tmp_path / "file", [10], overwrite=True)


def test_a_folder_that_holds_something_is_refused_with_a_way_out_that_works(tmp_path):
    write(tmp_path, [10, 20, 30])
    with pytest.raises(OutputExists, match="not empty") as error:
        write(tmp_path, [40])
    assert "--overwrite" in error.value.hint and "--resume" not in error.value.hint
    assert len(greys(tmp_path)) == 3
    write(tmp_path, [40], overwrite=True)
    # The rest of a longer film would play on after the new one.
    assert {path.name for path in tmp_path.iterdir()} == {"frame_0000.png"} and greys(tmp_path)["frame_0000.png"] == 40


def test_what_others_wrote_stays(tmp_path):
    write(tmp_path, [10, 20])
    (tmp_path / "notes.txt").write_text("mine")
    shutil.copy(tmp_path / "frame_0001.png", tmp_path / "frame_0001_best.png")
    Image.new("RGB", (2, 2), (99, 99, 99)).save(tmp_path / "frame_0007.png")  # a photo that was cut from a video
    (tmp_path / "frame_0008.png").write_bytes(b"no picture")
    (tmp_path / "frame_0009.png").symlink_to("frame_0000.png")
    write(tmp_path, [30] * 3, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine" and (tmp_path / "frame_0008.png").is_file()
    (tmp_path / "frame_0008.png").unlink()
    ours = dict.fromkeys(["frame_0000.png", "frame_0001.png", "frame_0002.png"], 30)
    assert greys(tmp_path) == ours | {"frame_0001_best.png": 20, "frame_0007.png": 99, "frame_0009.png": 30}


def test_a_foreign_file_with_the_name_of_a_new_frame_is_refused_before_any_work(tmp_path):
    Image.new("RGB", (2, 2), (99, 99, 99)).save(tmp_path / "frame_0001.png")
    with pytest.raises(OutputExists, match=r"frame_0001\.png was not written by flare render"):
        with frame_folder(tmp_path, 2, overwrite=True):
            pytest.fail("it must be refused before the frames are rendered")
    assert greys(tmp_path) == {"frame_0001.png": 99}


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_failure_while_files_move_takes_everything_back(tmp_path, rename_fails, at, problem):
    write(tmp_path, [10, 20, 30])
    rename_fails(at, problem)
    if at < 5:  # three old frames move away, two new ones in
        with pytest.raises(KeyboardInterrupt if problem is KeyboardInterrupt else OutputError):
            write(tmp_path, [40, 50], overwrite=True)
        assert greys(tmp_path) == {"frame_0000.png": 10, "frame_0001.png": 20, "frame_0002.png": 30}
    else:
        write(tmp_path, [40, 50], overwrite=True)
        assert greys(tmp_path) == {"frame_0000.png": 40, "frame_0001.png": 50}
    assert {path.suffix for path in tmp_path.iterdir()} == {".png"}


def test_an_error_while_rendering_leaves_the_old_frames(tmp_path):
    write(tmp_path, [10])
    with pytest.raises(RuntimeError), frame_folder(tmp_path, 1, overwrite=True) as add:
        add(np.zeros((4, 6, 3), np.uint8))
        raise RuntimeError
    assert greys(tmp_path) == {"frame_0000.png": 10} and len(list(tmp_path.iterdir())) == 1


def test_a_picture_that_announces_too_much_is_foreign(tmp_path, monkeypatch):
    write(tmp_path, [10])
    monkeypatch.setattr(frames.Image, "MAX_IMAGE_PIXELS", 2)
    assert not frames._is_ours(tmp_path / "frame_0000.png")
