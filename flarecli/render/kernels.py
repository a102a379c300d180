"""Compositing of ellipses on the CPU, forwards and backwards, compiled by numba.

The picture is cut into tiles. Every tile has a list of the ellipses that reach it, front to back; kernels work on a
range of tiles without holding the interpreter's lock, so that threads share the work. Within a tile an ellipse only
visits the pixels where its contribution is at least 1/255.

N ellipses come as ``means`` (N, 2) in pixels, ``conics`` (N, 3), ``opacities`` (N), ``features`` (N, C), all in one
floating-point type; the ellipses of tile t are ``ids[offsets[t]:offsets[t + 1]]``.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

TILE = 16
_MIN_ALPHA = np.float32(1 / 255)
_MAX_ALPHA = np.float32(0.999)
_MIN_TRANSMITTANCE = np.float32(1e-4)
_HALF, _ONE, _TWO = np.float32(0.5), np.float32(1), np.float32(2)
# No assumption about NaN or infinity, but sums and products may be rearranged.
_OPTIONS = {"cache": True, "nogil": True, "fastmath": {"contract", "reassoc", "arcp", "nsz", "afn"}}


@njit(**_OPTIONS)
def bin_tiles(order, x0, x1, y0, y1, columns, rows):
    """Offsets (tiles + 1) and ids of the ellipses of every tile.

    ``order`` lists the ellipses from front to back. Ellipse g reaches the tile columns x0[g] <= column < x1[g] and the
    rows y0[g] <= row < y1[g]; the picture has ``columns`` times ``rows`` tiles.
    """
    counts = np.zeros(columns * rows + 1, np.int64)
    for g in order:
        for row in range(y0[g], y1[g]):
            for column in range(x0[g], x1[g]):
                counts[row * columns + column + 1] += 1
    offsets = np.cumsum(counts)
    place = offsets[:-1].copy()
    ids = np.empty(offsets[-1], np.int32)
    for g in order:
        for row in range(y0[g], y1[g]):
            for column in range(x0[g], x1[g]):
                tile = row * columns + column
                ids[place[tile]] = g
                place[tile] += 1
    return offsets, ids


@njit(**_OPTIONS, inline="always")
def _rows(power, a, b, c, mean_y, top, bottom):
    """Rows that hold a pixel in which 0.5 (a dx^2 + c dy^2) + b dx dy <= power, one more at the end."""
    reach = math.sqrt(max(_TWO * power * a / (a * c - b * b), np.float32(0)))
    return max(top, math.floor(mean_y - reach - _HALF)), min(bottom, math.ceil(mean_y + reach - _HALF) + 1)


@njit(**_OPTIONS, inline="always")
def _row_range(power, a, b, c, dy, mean_x, left, right):  # noqa: PLR0913
    """Pixels of a row in which 0.5 (a dx^2 + c dy^2) + b dx dy <= power, one more at both ends against rounding."""
    half = b * dy
    discriminant = half * half - a * (c * dy * dy - _TWO * power)
    if discriminant < 0:
        return left, left
    root = math.sqrt(discriminant)
    first = mean_x + (half - root) / a - _HALF
    last = mean_x + (half + root) / a - _HALF
    return max(left, math.floor(first)), min(right, math.ceil(last) + 1)


@njit(**_OPTIONS)
def composite(  # noqa: PLR0913
    start, stop, offsets, ids, means, conics, opacities, features, columns, image, transmittance, last
):
    """Composite the tiles start <= tile < stop.

    ``image`` (H, W, C) gets the weighted sums of the features, ``transmittance`` (H, W; ones on entry) what light
    passes, ``last`` (H, W) one more than the position in the tile's list of the last ellipse that a pixel shows.
    """
    height, width, channels = image.shape
    for tile in range(start, stop):
        top, left = (tile // columns) * TILE, (tile % columns) * TILE
        bottom, right = min(top + TILE, height), min(left + TILE, width)
        closed = np.zeros((TILE, TILE), np.bool_)
        remaining = (bottom - top) * (right - left)
        for k in range(offsets[tile], offsets[tile + 1]):
            if remaining == 0:
                break
            g = ids[k]
            a, b, c, opacity = conics[g, 0], conics[g, 1], conics[g, 2], opacities[g]
            power = math.log(opacity / _MIN_ALPHA)
            y_first, y_last = _rows(power, a, b, c, means[g, 1], top, bottom)
            for y in range(y_first, y_last):
                dy = means[g, 1] - (y + _HALF)
                x_first, x_last = _row_range(power, a, b, c, dy, means[g, 0], left, right)
                for x in range(x_first, x_last):
                    if closed[y - top, x - left]:
                        continue
                    dx = means[g, 0] - (x + _HALF)
                    sigma = _HALF * (a * dx * dx + c * dy * dy) + b * dx * dy
                    alpha = min(_MAX_ALPHA, opacity * math.exp(-sigma))
                    if sigma < 0 or alpha < _MIN_ALPHA:
                        continue
                    before = transmittance[y, x]
                    after = before * (_ONE - alpha)
                    if after <= _MIN_TRANSMITTANCE:
                        closed[y - top, x - left] = True
                        remaining -= 1
                        continue
                    weight = alpha * before
                    for j in range(channels):
                        image[y, x, j] += weight * features[g, j]
                    transmittance[y, x] = after
                    last[y, x] = k - offsets[tile] + 1


@njit(**_OPTIONS)
def composite_backward(  # noqa: PLR0913
    start, stop, offsets, ids, means, conics, opacities, features, columns, transmittance, last, g_image, g_alpha, out
):
    """Gradients of :func:`composite` for the tiles start <= tile < stop.

    Goes back to front and recovers the transmittance before each ellipse by division. ``transmittance`` and ``last``
    are what :func:`composite` left; ``g_image`` and ``g_alpha`` the gradients of the loss with respect to the image and
    to 1 - transmittance. Row k of ``out`` (entries of ids, 6 + C; zeros on entry) gets those of mean x, y, conic
    xx, xy, yy, opacity and features of entry k; rows of one ellipse in several tiles are to be added.
    """
    height, width, channels = g_image.shape
    for tile in range(start, stop):
        top, left = (tile // columns) * TILE, (tile % columns) * TILE
        bottom, right = min(top + TILE, height), min(left + TILE, width)
        now = transmittance[top:bottom, left:right].copy()
        behind = np.zeros_like(now)  # what the ellipses behind add to the loss per unit of gradient
        longest = 0
        for y in range(top, bottom):
            for x in range(left, right):
                longest = max(longest, last[y, x])
        for place in range(longest - 1, -1, -1):
            k = offsets[tile] + place
            g = ids[k]
            row = out[k]
            a, b, c, opacity = conics[g, 0], conics[g, 1], conics[g, 2], opacities[g]
            power = math.log(opacity / _MIN_ALPHA)
            y_first, y_last = _rows(power, a, b, c, means[g, 1], top, bottom)
            for y in range(y_first, y_last):
                dy = means[g, 1] - (y + _HALF)
                x_first, x_last = _row_range(power, a, b, c, dy, means[g, 0], left, right)
                for x in range(x_first, x_last):
                    if place >= last[y, x]:
                        continue
                    dx = means[g, 0] - (x + _HALF)
                    sigma = _HALF * (a * dx * dx + c * dy * dy) + b * dx * dy
                    falloff = math.exp(-sigma)
                    alpha = min(_MAX_ALPHA, opacity * falloff)
                    if sigma < 0 or alpha < _MIN_ALPHA:
                        continue
                    passing = _ONE / (_ONE - alpha)
                    before = now[y - top, x - left] * passing
                    now[y - top, x - left] = before
                    weight = alpha * before
                    shown = g_alpha[y, x] * 0
                    for j in range(channels):
                        row[6 + j] += weight * g_image[y, x, j]
                        shown += features[g, j] * g_image[y, x, j]
                    g_of_alpha = before * shown - behind[y - top, x - left] * passing
                    g_of_alpha += transmittance[y, x] * passing * g_alpha[y, x]
                    behind[y - top, x - left] += weight * shown
                    if opacity * falloff < _MAX_ALPHA:
                        g_sigma = -alpha * g_of_alpha
                        row[0] += g_sigma * (a * dx + b * dy)
                        row[1] += g_sigma * (b * dx + c * dy)
                        row[2] += _HALF * g_sigma * dx * dx
                        row[3] += g_sigma * dx * dy
                        row[4] += _HALF * g_sigma * dy * dy
                        row[5] += falloff * g_of_alpha


@njit(**_OPTIONS)
def add_rows(ids, rows, out):
    """Add row k of ``rows`` to row ids[k] of ``out``, in order."""
    for k in range(len(ids)):
        for j in range(rows.shape[1]):
            out[ids[k], j] += rows[k, j]
