import io
from pathlib import Path

import pytest

from flarecli.errors import InputError
from flarecli.images.discovery import find_files, natural_key, numbered


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def names(*sources: object, **options: object) -> list[str]:
    return [item.name for item in find_files(sources, **options)]  # type: ignore[arg-type]


def test_natural_sort_counts_numbers_and_keeps_folders_together():
    given = ["b/1.jpg", "IMG_10.jpg", "img_2.jpg", "a/10.jpg", "a/9.jpg", "IMG_1.jpg", "a2/1.jpg", "²/1.jpg"]
    assert sorted(given, key=natural_key)[:6] == [
        "a/9.jpg", "a/10.jpg", "a2/1.jpg", "b/1.jpg", "IMG_1.jpg", "img_2.jpg",
    ]  # fmt: skip


def test_folder_is_searched_deeply_without_foreign_files(tmp_path: Path):
    for name in ["x/10.jpg", "x/9.JPG", "a.HEIC", "Thumbs.db", "notes.txt", ".hidden.jpg", "._a.HEIC",
                 "__MACOSX/a.jpg", ".cache/b.jpg", "x/y/deep.tiff"]:  # fmt: skip
        touch(tmp_path / name)
    assert names(tmp_path) == ["a.HEIC", "x/9.JPG", "x/10.jpg", "x/y/deep.tiff"]


def test_folder_of_links_and_a_link_in_a_circle(tmp_path: Path):
    touch(tmp_path / "store" / "1.jpg")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos", target_is_directory=True)
    (tmp_path / "photos" / "a.jpg").symlink_to(tmp_path / "store" / "1.jpg")
    assert names(tmp_path / "photos") == ["a.jpg"]


def test_glob_names_are_relative_to_its_fixed_part(tmp_path: Path):
    for name in ["cap/a/1.HEIC", "cap/b/1.HEIC", "cap/b/1.txt", "cap/c.HEIC"]:
        touch(tmp_path / name)
    assert names(f"{tmp_path}/cap/*/*") == ["a/1.HEIC", "b/1.HEIC"]
    assert names(f"{tmp_path}/cap/**/*.HEIC") == ["a/1.HEIC", "b/1.HEIC", "c.HEIC"]


def test_folder_whose_name_looks_like_a_glob(tmp_path: Path):
    touch(tmp_path / "set[1]" / "a.jpg")
    assert names(tmp_path / "set[1]") == ["a.jpg"]


def test_single_files_share_a_root_and_each_counts_once(tmp_path: Path):
    for name in ["a/1.jpg", "b/1.jpg", "b/10.jpg", "b/9.jpg"]:
        touch(tmp_path / name)
    b = tmp_path / "b"
    assert names(b / "10.jpg", b / "9.jpg", b / ".." / "b" / "9.jpg") == ["9.jpg", "10.jpg"]
    assert names(tmp_path / "a" / "1.jpg", b / "1.jpg") == ["a/1.jpg", "b/1.jpg"]
    assert len(names(b, b / "1.jpg")) == 3


def test_list_keeps_its_order_and_is_relative_to_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ["set/p/2.jpg", "set/p/1.jpg", "set/more/3.jpg"]:
        touch(tmp_path / name)
    listing = tmp_path / "set" / "list.txt"
    listing.write_text("\ufeff# two photos and a folder\np/2.jpg\n\np/1.jpg\r\nmore\nlost.jpg\n", encoding="utf-8")
    monkeypatch.chdir("/")
    found = find_files([listing])
    assert [item.path.name for item in found] == ["2.jpg", "1.jpg", "3.jpg", "lost.jpg"]
    assert [bool(item.problem) for item in found] == [False, False, False, True]


@pytest.mark.parametrize("separator", ["\n", "\0"])
def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: str):
    touch(tmp_path / "one two.jpg")
    touch(tmp_path / "b.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(separator.join(["one two.jpg", "./b.jpg", ""])))
    assert names("-") == ["one two.jpg", "b.jpg"]


def test_colliding_sources_get_their_folder_in_front(tmp_path: Path):
    for name in ["left/cam/1.jpg", "right/cam/1.jpg", "other/2.jpg"]:
        touch(tmp_path / name)
    found = names(tmp_path / "left" / "cam", tmp_path / "right" / "cam", tmp_path / "other")
    assert found == ["cam/1.jpg", "cam_2/1.jpg", "2.jpg"]


def test_masks_inside_the_source_are_no_photos(tmp_path: Path):
    for name in ["p/a.jpg", "p/masks/a.jpg.png", "p/b.jpg", "p/b.jpg.png"]:
        touch(tmp_path / name)
    assert names(tmp_path / "p", exclude=tmp_path / "p" / "masks") == ["a.jpg", "b.jpg", "b.jpg.png"]
    assert "b.jpg.png" not in names(tmp_path / "p", exclude=tmp_path / "p")
    assert names(tmp_path / "p" / "masks", exclude=tmp_path) == ["a.jpg.png"]


def test_raw_counts_only_without_a_developed_copy(tmp_path: Path):
    for name in ["a.CR2", "a.JPG", "b.CR2"]:
        touch(tmp_path / name)
    found = find_files([tmp_path])
    assert [item.name for item in found] == ["a.JPG", "b.CR2"]
    assert "raw" in found[1].problem
    assert "TIFF" in found[1].hint


def test_video_named_by_hand(tmp_path: Path):
    assert "video" in find_files([touch(tmp_path / "clip.MP4")])[0].problem


@pytest.mark.parametrize("source", ["nowhere", "nowhere/*.jpg", "list.txt"])
def test_missing_source_is_named(tmp_path: Path, source: str):
    with pytest.raises(InputError, match=r"nowhere|list\.txt") as caught:
        find_files([tmp_path / source])
    assert caught.value.hint


def test_binary_list_is_an_input_error(tmp_path: Path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="not a text list"):
        find_files([tmp_path / "list.txt"])


def test_numbered():
    assert numbered("a/b.jpg", set()) == "a/b.jpg"
    assert numbered("a/b.jpg", {"a/b.jpg", "a/b_2.jpg"}) == "a/b_3.jpg"
