"""Verification and refinement of predicted cameras by photo matches."""

from flarecli.runtime import require

# Every module here imports pycolmap; loaded by this one first, it leaves SIGTERM alone.
require("pycolmap", "photo matches")
