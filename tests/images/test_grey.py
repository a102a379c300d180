import numpy as np
import pytest

from flarecli.images.grey import eight_bit

RAMP = np.linspace(0, 1, 40 * 50).reshape(40, 50)


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_single_highlights_do_not_change_the_white_of_floats(white: float):
    values = (RAMP * white).astype(np.float32)
    plain = eight_bit(values)
    assert np.abs(plain - 255 * RAMP).max() <= 0.51
    values[3, :5] = [white * 1.5, white * 40, np.inf, np.nan, -white]
    assert np.array_equal(np.delete(eight_bit(values), 3, 0), np.delete(plain, 3, 0))
    assert eight_bit(values)[3, :5].tolist() == [255, 255, 0, 0, 0]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_12_bit_values_in_a_16_bit_file(dtype: type):
    assert np.abs(eight_bit((RAMP * 4095).astype(dtype)) - 255 * RAMP).max() <= 0.6
    assert eight_bit(np.array([[0, 4095], [2048, 8]], dtype)).tolist() == [[0, 255], [128, 0]]
    assert eight_bit(np.array([[0, 4096]], dtype)).tolist() == [[0, 16]]


def test_floats_that_are_no_numbers_are_black():
    assert not eight_bit(np.full((4, 4), np.nan, np.float32)).any()
    assert not eight_bit(np.zeros((4, 4), np.float32)).any()
