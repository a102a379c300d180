"""Comparing a reconstruction with a reference: relative poses, trajectory, focal lengths, depth, points."""
