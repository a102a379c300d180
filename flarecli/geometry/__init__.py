"""Geometry of cameras and points.

Conventions, valid in the whole project:

* Camera axes are OpenCV's: x right, y down, z forward.
* ``c2w`` is a 4x4 camera-to-world matrix, ``w2c`` its inverse; between named frames ``b_from_a``.
* ``K`` is a 3x3 intrinsic matrix in pixels; the centre of the top-left pixel is (0.5, 0.5), so the centre
  of an image of width w and height h is (w/2, h/2). Pixel coordinates are (x, y); sizes
  are ``size_hw`` = (height, width).
* Lens distortion is COLMAP's SIMPLE_RADIAL: a ray (x, y, 1) is seen at (x, y) * (1 + k1 * (x^2 + y^2)), then K applies.
  "Ideal" pixels are those of the distortion-free camera with the same K.
* Quaternions say their order in the name: ``quats_wxyz``. ``depth`` is z-depth.
* The world of a reconstruction is the frame of its first photo unless known poses were given; its unit is arbitrary
  unless ``metric_scale`` is true.
"""
