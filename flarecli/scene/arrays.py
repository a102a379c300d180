"""Read-only arrays and the checks that all value types share."""

from __future__ import annotations

from typing import Any

import numpy as np


def frozen(array: Any, dtype: Any, shape: tuple[int | None, ...], name: str, *, finite: bool = True) -> np.ndarray:
    """A read-only copy of an array with the given dtype, after checking its shape.

    Args:
        array: anything numpy understands.
        dtype: dtype of the copy.
        shape: expected shape; None matches any length.
        name: how the error calls the array.
        finite: also refuse NaN and infinity.

    Raises:
        ValueError: wrong shape, or values that are not finite.
    """
    out = np.array(array, dtype=dtype, copy=True)
    if len(shape) != out.ndim or any(
        want is not None and want != got for want, got in zip(shape, out.shape, strict=False)
    ):
        wanted = " x ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must have shape {wanted}, not {' x '.join(map(str, out.shape)) or 'a scalar'}")
    if finite and np.issubdtype(out.dtype, np.floating) and not np.isfinite(out).all():
        raise ValueError(f"{name} holds values that are not finite")
    out.flags.writeable = False
    return out
