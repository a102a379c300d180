import dataclasses

import numpy as np
import pytest

from flarecli.appearance.holdout import choose_held_out, gaussians_without
from flarecli.errors import InputError

NAMES = tuple(f"{i}.jpg" for i in range(11))


def test_choices():
    assert choose_held_out(NAMES) == ("4.jpg",)
    assert choose_held_out(NAMES, 4) == ("2.jpg", "6.jpg", "10.jpg")
    assert choose_held_out(NAMES[:3]) == ("1.jpg",)
    assert choose_held_out(NAMES, ["9.jpg", "0.jpg"]) == ("0.jpg", "9.jpg")


@pytest.mark.parametrize(("names", "wanted"), [(NAMES, 1), (NAMES, ["x.jpg"]), (NAMES[:2], None), (NAMES, [])])
def test_impossible_choices(names, wanted):
    with pytest.raises(InputError):
        choose_held_out(names, wanted)


def test_nothing_of_the_held_out_photo_is_left(exact):
    reconstruction = exact.reconstruction
    kept = reconstruction.points.view_index != 2
    gaussians = gaussians_without(reconstruction, ["photo_02.png"])
    np.testing.assert_array_equal(gaussians.means, reconstruction.points.xyz[kept])
    red = reconstruction.points.rgb.copy()
    red[~kept] = (255, 0, 0)
    painted = dataclasses.replace(reconstruction, points=dataclasses.replace(reconstruction.points, rgb=red))
    np.testing.assert_array_equal(gaussians_without(painted, ["photo_02.png"]).sh, gaussians.sh)
