"""The phases of a training on borrowed GPUs."""

from __future__ import annotations

from flarecli.train.config import Phase

PHASES = {
    1: (
        Phase(share=0.4, stages=1, images=256, views=(2, 3), view_weights=(0.7, 0.3)),
        Phase(share=0.6, stages=3, images=256, views=(2, 3, 4), view_weights=(0.6, 0.2, 0.2)),
    ),
    2: (Phase(share=1.0, images=256, views=(2, 3, 4, 6, 8), view_weights=(0.35, 0.15, 0.25, 0.1, 0.15)),),
    3: (
        Phase(
            share=1.0,
            images=96,
            views=(2, 3, 4),
            view_weights=(0.5, 0.25, 0.25),
            train_only="gaussians",
            targets=2,
            halved=0.5,
        ),
    ),
}
"""What a phase trains: 1 begins with matching and coarse poses, 2 goes on with everything and up to 8 views, 3 teaches
the Gaussian head of a network that stands still."""
