"""From features to the cameras that the matches support best.

features ─ match ─ focal profiles ─┬─ incremental mapping ─┐
                                   ├─ pairwise chain ──────┤
                                   ├─ global mapping ──────┼─ adjust each ─ best support ─ add the rest
           network's cameras ──────┴───────────────────────┘
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flarecli.geometry.transforms import align_cameras, invert_rigid
from flarecli.refine.bundle import MIN_OBSERVATIONS, Adjusted, BundleOptions, adjust
from flarecli.refine.calibrate import calibrate
from flarecli.refine.candidate import Candidate, MatchGraph, Pair, pair_inliers, support
from flarecli.refine.chain import MIN_SUPPORT, grow, relative_poses
from flarecli.refine.database import match_pairs, write_database, write_matches
from flarecli.refine.features import Features
from flarecli.refine.lens import Lenses
from flarecli.refine.ties import sightings, tied_photos
from flarecli.refine.twoview import RelativePose
from flarecli.refine.ways import FEW_PHOTOS, Proposal, SolveOptions, adjusting_threads, candidates

_CLEARLY = 0.05  # of the support: what a later way must have more to be preferred
_KEEP = 0.98  # an adjustment may cost this little support: it trades a few border matches for accuracy
_EXPLAINED = 0.7  # of the pairwise support must agree with every photo for a candidate to convince
_CONTRADICTED = 0.5  # less than this, and the photo is put in anew
_VERIFIED = 15  # points that a verified photo must see; COLMAP asks as many matches of a pair


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What the matches say.

    Attributes:
        candidate: cameras; photos that nothing connects have none, unless the network gave them one.
        adjusted: bundle-adjusted model behind it, or None where nothing could be triangulated.
        support: agreeing matches per photo.
        verified: photos whose camera the matches support.
        convincing: every photo is well supported and contradicts nothing; trying harder would gain nothing.
        graph: features and matches.
        scores: total support of every way that was tried.
    """

    candidate: Candidate
    adjusted: Adjusted | None
    support: np.ndarray
    verified: np.ndarray
    convincing: bool
    graph: MatchGraph
    scores: dict[str, float]


def solve(
    features: Sequence[Features],
    lenses: Lenses,
    pairs: Sequence[Pair],
    proposals: Sequence[Proposal],
    options: SolveOptions,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Solution:
    """Find the cameras that the matches of these photos support best.

    Args:
        features: per photo.
        lenses: prior intrinsics.
        pairs: pairs of photos to match.
        proposals: cameras from elsewhere: the network's, or those of an earlier attempt. Asked for where the matches
            alone do not convince; the first one also serves photos that no match reaches.
        options: how hard to try.
        on_progress: told about the stages "matching" and "adjusting".
    """
    report = on_progress or (lambda stage, done, total: None)
    with tempfile.TemporaryDirectory(prefix="flare-refine-") as name:
        folder = Path(name)
        database = folder / "features.db"
        write_database(database, features, lenses, trust_focal=False)
        report("matching", 0, len(pairs))
        graph = MatchGraph(features, match_pairs(database, pairs, options.threads))
        report("matching", len(pairs), len(pairs))
        solver = _Solver(graph, lenses, database, folder, options)
        return solver.run(proposals, report)


def solve_matches(graph: MatchGraph, lenses: Lenses, proposals: Sequence[Proposal], options: SolveOptions) -> Solution:
    """As :func:`solve`, for matches that are there already."""
    with tempfile.TemporaryDirectory(prefix="flare-refine-") as name:
        folder = Path(name)
        database = folder / "matches.db"
        write_database(database, graph.features, lenses, trust_focal=False)
        write_matches(database, graph.matches)
        return _Solver(graph, lenses, database, folder, options).run(proposals, lambda stage, done, total: None)


Tried = tuple[float, Candidate, Adjusted | None]
"""Score, cameras, and the adjusted model where adjustment was kept."""


class _Solver:
    """One run of :func:`solve`; holds what its steps share."""

    def __init__(self, graph: MatchGraph, lenses: Lenses, database: Path, folder: Path, options: SolveOptions) -> None:
        self.graph, self.prior, self.database, self.folder, self.options = graph, lenses, database, folder, options
        self.count = len(lenses.group)
        self.scores: dict[str, float] = {}

    def run(self, proposals: Sequence[Proposal], report: Callable[[str, int, int], None]) -> Solution:
        lenses = calibrate(self.graph, self.prior, self.options.seed, self.options.threads)
        poses = self._poses(lenses)
        tried: list[Tried] = []
        convinced = False
        for candidate in candidates(self.graph, lenses, poses, proposals, self.database, self.options):
            if not candidate.lenses.believable():
                continue
            report("adjusting", len(tried), 0)
            entry = self._completed(self._judge(candidate), poses)
            tried.append(entry)
            convinced |= self._convincing(entry, poses)
            if convinced and not self.options.thorough and len(tried) >= self._opinions():
                break
        if not tried:
            empty = Candidate("none", np.tile(np.eye(4), (self.count, 1, 1)), np.zeros(self.count, bool), lenses)
            tried.append((0.0, empty, None))
        chosen = _first_of_the_best(tried)
        report("adjusting", 1, 1)
        return self._solution(chosen, poses, proposals)

    def _opinions(self) -> int:
        """Ways to try even if the first convinces: few photos can agree on wrong cameras, and a second way is cheap."""
        return 2 if 2 < self.count <= FEW_PHOTOS else 1

    def _poses(self, lenses: Lenses, pairs: Sequence[Pair] | None = None) -> dict[Pair, RelativePose]:
        return relative_poses(self.graph, lenses, pairs, seed=self.options.seed, threads=self.options.threads)

    def _judge(self, candidate: Candidate) -> Tried:
        before = self._score(candidate)
        adjusted = adjust(self.graph, candidate, self.database, self.folder, self._bundle_options(candidate))
        entry: Tried = (before, candidate, None)
        if adjusted is not None and adjusted.candidate.lenses.believable():
            after = self._score(adjusted.candidate)
            if after >= _KEEP * before:
                entry = (after, adjusted.candidate, adjusted)
        self.scores[candidate.origin] = max(entry[0], self.scores.get(candidate.origin, 0.0))
        return entry

    def _bundle_options(self, candidate: Candidate) -> BundleOptions:
        photos = int(candidate.posed.sum())
        return BundleOptions(
            refine_focal=photos > 2,
            refine_distortion=photos > 2 and self.options.distortion,
            fixed_poses=self.options.fixed_poses,
            threads=adjusting_threads(self.count, self.options.threads),
        )

    def _score(self, candidate: Candidate) -> float:
        """Support less what its focal lengths cost."""
        inliers = pair_inliers(self.graph, candidate)
        score = self.graph.weight * float(support(inliers, self.count).sum())
        free = self.prior.sigma > 0
        drift = np.log(candidate.lenses.K[free, 0, 0] / self.prior.K[free, 0, 0]) / self.prior.sigma[free]
        return score - 0.5 * float((drift**2).sum())

    def _convincing(self, entry: Tried, poses: Mapping[Pair, RelativePose]) -> bool:
        _, candidate, adjusted = entry
        if adjusted is None or candidate.posed.sum() < self.count:
            return False
        if adjusted.observations.min() < 5 * MIN_OBSERVATIONS or adjusted.error_px > 1.5:
            return False
        if not self._tied(adjusted).all():
            return False
        return bool(self._explained(candidate, poses).min() >= _EXPLAINED)

    def _tied(self, adjusted: Adjusted) -> np.ndarray:
        """Photos that hang together by common points; by their poses where those are given."""
        if self.options.fixed_poses:
            return np.ones(self.count, bool)
        return tied_photos(sightings(adjusted.model, self.count))

    def _explained(self, candidate: Candidate, poses: Mapping[Pair, RelativePose]) -> np.ndarray:
        """Of the matches that support each photo's pairwise poses, the share that the candidate agrees with.

        A photo put in a wrong place by repeated structure fits some neighbours but contradicts others.
        """
        agreeing, possible = np.zeros(self.count), np.zeros(self.count)
        for pair, good in pair_inliers(self.graph, candidate).items():
            if pair in poses and poses[pair].support >= 2 * MIN_SUPPORT:
                for photo in pair:
                    possible[photo] += poses[pair].support
                    agreeing[photo] += min(float(good.sum()), poses[pair].support)
        return np.where(possible > 0, agreeing / np.maximum(possible, 1), 1.0)

    def _completed(self, entry: Tried, known: Mapping[Pair, RelativePose]) -> Tried:
        """Take out photos that contradict their pairs, and add all that pairwise poses connect to the others."""
        _, candidate, adjusted = entry
        if not candidate.posed.any() or self.options.fixed_poses or self.options.mode == "ba":
            return entry
        sound = candidate.posed & (self._explained(candidate, known) >= _CONTRADICTED)
        if sound.all():
            return entry
        if sound.sum() >= 2:
            candidate = replace(candidate, posed=sound)
        # Only what ties the others to the sound ones is needed.
        loose = [pair for pair in self.graph.matches if not (candidate.posed[pair[0]] and candidate.posed[pair[1]])]
        poses = self._poses(candidate.lenses, loose)
        grown = grow(self.graph, poses, candidate, {} if adjusted is None else _depths(adjusted))
        if not (grown.posed & ~candidate.posed).any():
            return entry
        return max(entry, self._judge(grown), key=lambda each: each[0])

    def _solution(self, chosen: Tried, poses: Mapping[Pair, RelativePose], proposals: Sequence[Proposal]) -> Solution:
        _, best, adjusted = chosen
        strength = support(pair_inliers(self.graph, best), self.count)
        verified = np.zeros(self.count, bool)
        if adjusted is not None:
            enough = (adjusted.observations >= _VERIFIED) & (self._explained(best, poses) >= _CONTRADICTED)
            verified = best.posed & enough & self._tied(adjusted)
        convincing = self._convincing(chosen, poses)
        if proposals and not best.posed.all():
            best = _fill_from_network(best, proposals[0]())
        return Solution(best, adjusted, strength, verified, convincing, self.graph, self.scores)


def _first_of_the_best(tried: Sequence[Tried]) -> Tried:
    """The earliest way that nothing beats clearly: among cameras of like support the more reliable way decides."""
    best = max(score for score, _, _ in tried)
    return next(entry for entry in tried if entry[0] >= best - _CLEARLY * abs(best))


def _depths(adjusted: Adjusted) -> dict[int, dict[int, float]]:
    """z-depth of every triangulated keypoint, per photo."""
    w2c, out = invert_rigid(adjusted.candidate.c2w), {}
    for point in adjusted.model.points3D.values():
        for element in point.track.elements:
            photo = element.image_id - 1
            depth = float(w2c[photo, 2, :3] @ point.xyz + w2c[photo, 2, 3])
            if depth > 0:
                out.setdefault(photo, {})[element.point2D_idx] = depth
    return out


def _fill_from_network(best: Candidate, network: Candidate) -> Candidate:
    """Give photos without a camera the network's, moved into the world of the others."""
    missing = ~best.posed & network.posed
    common = best.posed & network.posed
    c2w = best.c2w.copy()
    if common.any():
        try:
            sim = align_cameras(network.c2w[common], best.c2w[common])
        except ValueError:  # coincident centres: keep the network's own unit
            sim = align_cameras(network.c2w[common][:1], best.c2w[common][:1])
        c2w[missing] = sim.apply_to_c2w(network.c2w[missing])
    else:
        c2w[missing] = network.c2w[missing]
    return replace(best, c2w=c2w, posed=best.posed | missing)
