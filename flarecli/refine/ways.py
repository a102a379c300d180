"""Ways from matches to cameras, each of which can fail where another succeeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flarecli.refine.candidate import Candidate, MatchGraph, Pair
from flarecli.refine.chain import chain_candidate
from flarecli.refine.database import update_cameras, verify_pairs
from flarecli.refine.lens import Lenses
from flarecli.refine.mapping import global_candidates, incremental_candidates
from flarecli.refine.twoview import RelativePose

FEW_PHOTOS = 12
"""Up to this many photos what COLMAP asks of counts, angles and track lengths is relaxed, and one thread adjusts."""

_COLMAP_FOCAL = 1.2  # COLMAP's guess; a second, independent start where the first does not convince

Proposal = Callable[[], Candidate]
"""Cameras from elsewhere that may take time to make; may be asked for more than once."""


@dataclass(frozen=True, slots=True)
class SolveOptions:
    """How hard to try.

    Attributes:
        mode: "auto" solves the view graph too where the network's cameras do not survive; "ba" only adjusts them.
        fixed_poses: the network candidate's poses are given and stay.
        thorough: try every way even when the first ones convince.
        distortion: estimate the radial term of unknown lenses; needs sub-pixel matches.
        uncalibrated: also try COLMAP's own guess of the focal length, as an independent start.
        threads: threads to use.
        seed: random seed.
    """

    mode: str = "auto"
    fixed_poses: bool = False
    thorough: bool = False
    distortion: bool = True
    uncalibrated: bool = True
    threads: int = 2
    seed: int = 0


def adjusting_threads(photos: int, threads: int) -> int:
    """Threads that adjust so many photos, of those that there are: one for few, more for many.

    Several add their sums in the order in which they finish, which can move a focal length that few photos leave open.
    """
    return 1 if photos <= FEW_PHOTOS else threads


def candidates(
    graph: MatchGraph,
    lenses: Lenses,
    poses: Mapping[Pair, RelativePose],
    proposals: Sequence[Proposal],
    database: Path,
    options: SolveOptions,
) -> Iterator[Candidate]:
    """Ways to get cameras, best first; lazily, so that later ones cost nothing when earlier ones convince.

    Args:
        graph: features and matches.
        lenses: as calibrated from the matches.
        poses: of pairs of photos, with these lenses.
        proposals: cameras from elsewhere; come last, but alone where nothing but them is asked for.
        database: with features and matches; its cameras and verified pairs are replaced, and mappers work beside it.
        options: how hard to try.
    """
    if proposals and (options.mode == "ba" or options.fixed_poses):
        yield proposals[0]()
        return
    count, folder = len(lenses.group), database.parent
    mapped, few, threads, seed = count > 2 and bool(poses), count <= FEW_PHOTOS, options.threads, options.seed
    adjusting = adjusting_threads(count, threads)
    common = {"threads": adjusting, "seed": seed, "distortion": options.distortion}

    def verify(believed: Lenses, *, trust_focal: bool) -> None:
        # Anew before each mapper: the adjustment of the candidates so far has left its own pairs in the database.
        update_cameras(database, believed, trust_focal=trust_focal)
        verify_pairs(database, threads, seed)

    if mapped:
        verify(lenses, trust_focal=True)
        yield from incremental_candidates(database, folder, lenses, few=few, **common)[:1]
    chain = chain_candidate(graph, poses, lenses)
    if chain is not None:
        yield chain
    if mapped:
        verify(lenses, trust_focal=True)
        yield from global_candidates(database, folder, lenses, **common)[:1]
    if mapped and options.uncalibrated:
        guess = lenses.with_focal_ratio([_COLMAP_FOCAL] * len(lenses), lenses.sigma.tolist())
        verify(guess, trust_focal=False)
        found = incremental_candidates(database, folder, guess, threads=adjusting, seed=seed, few=not few)
        yield from (replace(candidate, origin="incremental-uncalibrated") for candidate in found[:1])
    for propose in proposals:
        proposal = propose()
        yield proposal
        if proposal.origin == "network":  # its poses may be better than its focal length
            yield replace(proposal, lenses=lenses)
