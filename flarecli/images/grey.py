"""Wide grey pixel values to 8 bits."""

from __future__ import annotations

import numpy as np

_DARKEST = 4 / 255  # of white: a photo whose brightest percent stays below it would be black
_SAMPLE = 1_000_000


def eight_bit(values: np.ndarray) -> np.ndarray:
    """Wide grey values to 8 bits by one of a few fixed factors, so that photos of one set stay comparable.

    Integers are 16-bit (65535 is white); where none reaches 4096 they are what a 12-bit camera left in a 16-bit file
    (4095 is white). White of floats is 1, 255 or 65535: the 99th percentile tells which, so that single highlights
    change nothing; what is brighter than white is clipped.

    Raises:
        ValueError: integers outside 0..65535.
    """
    if np.issubdtype(values.dtype, np.integer):
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ValueError("32-bit integer pixels have no defined white")
        if high < 4096:
            return ((values.astype(np.uint32) * 255 + 2047) // 4095).astype(np.uint8)
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    factor = 255.0 / _white(values)
    finite = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    return np.rint(np.clip(finite * factor, 0, 255)).astype(np.uint8)


def _white(values: np.ndarray) -> float:
    """Which value of a float photo is white."""
    sample = values.ravel()[:: max(1, values.size // _SAMPLE)]
    sample = sample[np.isfinite(sample)]
    bright = float(np.percentile(sample, 99)) if len(sample) else 0.0
    if bright <= 255 * _DARKEST:
        return 1.0
    return 255.0 if bright <= 65535 * _DARKEST else 65535.0
