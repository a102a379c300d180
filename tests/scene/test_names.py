import pytest

from flarecli.scene.names import match_names


@pytest.mark.parametrize(
    ("names", "known", "expected"),
    [
        (["a.jpg"], ["a.jpg", "b.jpg"], {"a.jpg": "a.jpg"}),
        (["images/a.jpg"], ["a.jpg"], {"images/a.jpg": "a.jpg"}),
        (["a.jpg"], ["left/a.jpg"], {"a.jpg": "left/a.jpg"}),
        (["a.jpg"], ["left/a.jpg", "right/a.jpg"], {}),
        (["left/a.jpg", "right/a.jpg"], ["a.jpg"], {}),
        (["a.png"], ["a.tif"], {"a.png": "a.tif"}),
        (["a.png"], ["images/a.tif"], {"a.png": "images/a.tif"}),
        (["l/a.png", "r/a.png"], ["r/a.tif", "l/a.tif"], {"l/a.png": "l/a.tif", "r/a.png": "r/a.tif"}),
        (["a.png"], ["a.tif", "a.bmp"], {}),
        (["a.png", "a.jpg"], ["a.tif"], {}),
        (["a.jpg", "a_2.png"], ["a.jpg"], {"a.jpg": "a.jpg"}),
        (["a.png", "x/a.tif"], ["a.tif"], {"x/a.tif": "a.tif"}),
        (["b.png"], ["a.png"], {}),
    ],
)
def test_names_match_exactly_or_by_what_is_unique(names, known, expected):
    assert match_names(names, known) == expected


def test_the_file_behind_a_copy_goes_before_its_base_name():
    known = ["a.bmp", "a.tif", "x/a.png"]
    found = match_names(["a.png", "a_2.png"], known, ["a.bmp", "a.tif"])
    assert found == {"a.png": "a.bmp", "a_2.png": "a.tif"}
    assert match_names(["in/a_2.png"], ["a.tif"], ["in/a.tif"]) == {"in/a_2.png": "a.tif"}
