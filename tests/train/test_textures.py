import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flarecli.errors import InputError
from flarecli.train.textures import TextureFiles, list_textures, load_stack, pack_stack, split_textures, unpack


def _tar(path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, data in entries:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), colour).save(buffer, "png")
    return buffer.getvalue()


def test_pack_keeps_colours_and_puts_photographs_first(tmp_path):
    pack = _tar(
        tmp_path / "t.tar",
        [
            (tarfile.TarInfo("a/wood.png"), _png((10, 20, 30))),
            (tarfile.TarInfo("photo/sky.png"), _png((200, 100, 50))),
            (tarfile.TarInfo("FILES.tsv"), b"file\tlicence\n"),
            (tarfile.TarInfo("a/script.sh"), b"echo no"),
        ],
    )
    written = unpack(pack, tmp_path / "out")
    assert sorted(p.name for p in written) == ["FILES.tsv", "sky.png", "wood.png"]
    stack = load_stack(list_textures(tmp_path / "out"), 16)
    assert (stack.count, stack.photos, len(stack.offsets)) == (2, 1, 2)
    assert stack.texels[0].item() == 200 | 100 << 8 | 50 << 16
    assert stack.texels[int(stack.offsets[1]) + 64].item() == 10 | 20 << 8 | 30 << 16


@pytest.mark.parametrize("name", ["../evil.png", "/abs.png"])
def test_entries_that_leave_the_folder_are_refused(tmp_path, name):
    pack = _tar(tmp_path / "t.tar", [(tarfile.TarInfo(name), _png((0, 0, 0)))])
    with pytest.raises(InputError, match="refused"):
        unpack(pack, tmp_path / "out")
    assert not (tmp_path / "evil.png").exists()


def test_links_are_refused(tmp_path):
    link = tarfile.TarInfo("photo/x.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(InputError, match="refused"):
        unpack(_tar(tmp_path / "t.tar", [(link, b"")]), tmp_path / "out")


def test_damaged_pack_missing_pictures_and_bad_sizes_are_named(tmp_path):
    (tmp_path / "t.tar").write_bytes(b"not a tar")
    with pytest.raises(InputError, match=r"t\.tar"):
        unpack(tmp_path / "t.tar", tmp_path / "out")
    with pytest.raises(InputError, match="no pictures"):
        list_textures(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"broken\.png"):
        load_stack(TextureFiles((tmp_path / "broken.png",), 0), 16)
    with pytest.raises(InputError, match="power of two"):
        load_stack(TextureFiles((tmp_path / "broken.png",), 0), 24)


def test_held_out_pictures_are_disjoint():
    files = TextureFiles(tuple(Path(f"{i:03d}.png") for i in range(40)), 15)
    kept, held_out = split_textures(files)
    assert len(held_out.paths) == 4
    assert not set(kept.paths) & set(held_out.paths)
    assert set(kept.paths) | set(held_out.paths) == set(files.paths)
    assert (kept.photos, held_out.photos) == (14, 1)
    few = TextureFiles(files.paths[:9], 4)
    assert split_textures(few) == (few, few)


def test_only_folders_inside_the_pack_make_photographs(tmp_path):
    """The pack itself may lie below a folder named photo."""
    pack = tmp_path / "photo" / "pack"
    for name in ("a/wood.png", "photo/set/sky.png"):
        (pack / name).parent.mkdir(parents=True)
        (pack / name).write_bytes(_png((1, 2, 3)))
    files = list_textures(pack)
    assert [path.name for path in files.paths] == ["sky.png", "wood.png"]
    assert load_stack(files, 16).photos == files.photos == 1


def test_mip_levels_average():
    picture = np.zeros((1, 16, 16, 3), np.uint8)
    picture[:, :, 8:] = 100
    stack = pack_stack(torch.from_numpy(picture), 0)
    half = stack.texels[int(stack.offsets[1]) :] & 255
    assert half.view(8, 8)[:, :4].max() == 0
    assert half.view(8, 8)[:, 4:].min() == 100
