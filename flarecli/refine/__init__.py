"""Verification and refinement of predicted cameras by photo matches."""
