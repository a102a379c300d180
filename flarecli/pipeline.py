"""One scene from photos to files: what `flare reconstruct`, `flare batch` and the Python API all call."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flarecli.errors import InputError
from flarecli.job import Progress, SceneJob, SceneResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flarecli.images.loading import PhotoSet
    from flarecli.inference.predict import Predicted
    from flarecli.inference.readout import View
    from flarecli.model.loading import LoadedModel
    from flarecli.scene.priors import Priors
    from flarecli.scene.reconstruction import Reconstruction

_WEAK_FOCAL = 0.04
# Of 24 sets of 4 or 8 real photos, those below were off by at most 4 %, those above by 9 % in the median, up to 31 %.


def run_scene(
    job: SceneJob,
    *,
    on_progress: Progress | None = None,
    network: LoadedModel | Callable[[SceneJob], LoadedModel] | None = None,
) -> SceneResult:
    """Reconstruct one scene and write it.

    Args:
        job: what to do.
        on_progress: told about stages.
        network: a network that ``load_network`` returned, to be used again, or what to call instead of that function
            where the scene turns out to need one; None loads it.

    Raises:
        FlareError: see ``flarecli.errors``; nothing that was there before is lost.
    """
    from flarecli.export import check_formats
    from flarecli.export.atomic import OutputFolder
    from flarecli.images.loading import load_photos
    from flarecli.inference.priors import collect_priors
    from flarecli.runtime import seed_everything

    clock = _Clock()
    with clock("photos"):
        folders = [Path(source) for source in job.sources if Path(source).is_dir()]
        # Resuming makes a damaged result anew; one that is whole and differs is refused below.
        output = OutputFolder(job.output, overwrite=job.overwrite or job.resume, sources=folders)
        check_formats(job.formats())
        _check_fit_poses(job)
        photo_set = load_photos(job.sources, masks=job.masks, strict=job.strict, on_progress=on_progress)
        output.keep_clear_of(photo.path for photo in photo_set.photos)
        inputs = job.inputs(photo_set.fingerprint())
        kept = job.finished(inputs) if job.resume else None
        if kept is not None:
            return SceneResult(output=job.output, exit_code=job.exit_code(kept), manifest=kept, resumed=True)
        priors = collect_priors(
            photo_set.photos, intrinsics_from=job.intrinsics, poses=job.poses, shared=job.shared_camera
        )
    seed_everything(job.seed)
    with output as staging:  # made now, so that a place that can't be written costs no minutes of work
        with clock("load network"):
            load = load_network if network is None else network
            model = load(job) if callable(load) else load
        reconstruction = _reconstruct(job, photo_set, priors, model, clock, on_progress)
        options = {**job.options(), **inputs}
        notes = (*priors.warnings, *_weak_focal(reconstruction))
        with clock("images"):
            reconstruction = _with_points(photo_set, reconstruction, staging, on_progress)
        manifest = _write(job, reconstruction, notes, staging, options, clock, on_progress)
    return SceneResult(output=job.output, exit_code=job.exit_code(manifest), manifest=manifest)


def _check_fit_poses(job: SceneJob) -> None:
    """Refuse to fit poses where there are none to fit, or nothing to fit them with.

    Raises:
        InputError: the user asked for it with known poses, or with a network without Gaussians of its own depth.
    """
    from flarecli.model.config import find_model

    if job.fit_poses != "on":
        return
    if job.poses is not None:
        raise InputError("--fit-poses on contradicts --poses, which are kept as they are", "leave out one of the two")
    if not find_model(job.model).own_gaussians:
        raise InputError(
            f"{job.model} predicts no Gaussians of a depth of their own to fit poses with", "leave out --fit-poses on"
        )


def load_network(job: SceneJob) -> LoadedModel:
    """Load the network of a job once, for many scenes.

    Raises:
        WeightsError: the weights are missing, damaged, or not allowed.
        InputError: the model or the device does not exist.
    """
    from flarecli.model.loading import load_model
    from flarecli.runtime import resolve_device

    return load_model(
        job.model,
        weights=job.weights,
        device=resolve_device(job.device),
        offline=job.offline,
        license_policy=job.license_policy,
    )


def reconstruct(photos: str | Path | Sequence[str | Path], output: str | Path, **options: Any) -> SceneResult:
    """Reconstruct photos into a folder; options are the fields of :class:`SceneJob`."""
    sources = [photos] if isinstance(photos, str | Path) else list(photos)
    return run_scene(SceneJob(sources=tuple(map(str, sources)), output=Path(output), **options))


class _Clock:
    """Seconds per stage, in the order in which the stages were first entered."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - started


def _reconstruct(
    job: SceneJob,
    photo_set: PhotoSet,
    priors: Priors,
    model: LoadedModel,
    clock: _Clock,
    on_progress: Progress | None,
) -> Reconstruction:
    from flarecli.inference.assemble import assemble_views, scene_views
    from flarecli.inference.correspondences import dense_matches
    from flarecli.inference.predict import predict
    from flarecli.refine.dense import solve_from_matches
    from flarecli.refine.run import RefineOptions, refine
    from flarecli.runtime import cpu_count, resolve_device

    photos = photo_set.photos
    with clock("network"):
        predicted = predict(
            photos,
            model,
            resolve_device(job.device),
            c2w=priors.c2w,
            K=priors.K,
            max_memory=job.max_memory,
            on_progress=on_progress,
        )
    with clock("assemble"):
        views = scene_views(predicted, priors)
        initial = assemble_views(photos, views, predicted, priors)
    fitted = {}
    if job.fit_poses == "on" or (job.fit_poses == "auto" and not model.spec.pose_head and job.poses is None):
        with clock("fit poses"):
            views, fitted = _fit_poses(job, views, initial, predicted)
            initial = assemble_views(photos, views, predicted, priors)

    def from_own_matches() -> Reconstruction:
        with clock("own matches"):
            matches = dense_matches(predicted)
            return solve_from_matches(initial, matches, photos, priors, threads=cpu_count(), seed=job.seed)

    if job.refine == "none":
        result = from_own_matches()
    else:
        with clock("refine"):
            options = RefineOptions(mode=job.refine, preset=job.preset, threads=cpu_count(), seed=job.seed)
            result = refine(initial, photos, priors, options, on_progress, better=from_own_matches)
    if any(view.gaussians is not None or view.on_rays is not None for view in views):
        with clock("gaussians"):
            result = _with_gaussians(views, initial, result)
    provenance = {
        "name": model.spec.name,
        "weights": None if model.weights_path is None else model.weights_path.name,
        "weights_sha256": model.weights_sha256,
        "licence": model.licence,
        "views_per_pass": max(len(window.photos) for window in predicted.windows),
    }
    return dataclasses.replace(
        result,
        verdicts=(*result.verdicts, *photo_set.dropped),
        provenance={**provenance, **fitted, **result.provenance},
    )


def _with_gaussians(views: Sequence[View], initial: Reconstruction, result: Reconstruction) -> Reconstruction:
    """The result with what the network predicted, carried to where its photos ended up."""
    from flarecli.inference.gaussians import place_gaussians

    gaussians = place_gaussians(views, initial, result)
    source = "network" if gaussians else "points; all that the network predicted lie behind their cameras"
    note = {**result.provenance, "gaussians": source}
    if any(view.on_rays is not None for view in views):
        # They heed the depth of other photos too, which is worked out when they are asked for.
        return dataclasses.replace(result, first_gaussians=gaussians, provenance=note)
    return dataclasses.replace(result, gaussians=gaussians, provenance=note)


def _fit_poses(
    job: SceneJob, views: list[View], initial: Reconstruction, predicted: Predicted
) -> tuple[list[View], dict[str, Any]]:
    """Views whose cameras fit their photos, and the figures for the manifest."""
    import numpy as np

    from flarecli.appearance.network_poses import fit_network_poses
    from flarecli.appearance.photos import rendering_device
    from flarecli.inference.readout import with_pose

    gaussians = [view.gaussians for view in views if view.gaussians is not None]
    K = np.stack([depth_map.K for depth_map in initial.depth_maps if depth_map is not None])
    windows = [window.photos for window in predicted.windows]
    c2w, note = fit_network_poses(
        gaussians, initial.cameras.c2w, K, predicted.prepared, windows, rendering_device(job.device)
    )
    return [with_pose(view, pose) for view, pose in zip(views, c2w, strict=True)], {"pose_fit": note}


def _write(
    job: SceneJob,
    reconstruction: Reconstruction,
    warnings: Sequence[str],
    staging: Path,
    options: dict[str, Any],
    clock: _Clock,
    on_progress: Progress | None,
) -> dict[str, Any]:
    from flarecli.export import write_formats
    from flarecli.export.archive import save_scene
    from flarecli.export.manifest import build_manifest, write_manifest
    from flarecli.export.verify import verify_scene

    with clock("export"):
        save_scene(reconstruction, staging)
        written = write_formats(reconstruction, staging, job.formats(), on_progress)
    exports = {name: [path.relative_to(staging).as_posix() for path in paths] for name, paths in written.files.items()}

    def manifest() -> dict[str, Any]:
        return build_manifest(
            reconstruction,
            staging,
            options=options,
            timings_s=clock.seconds,
            exports=exports,
            warnings=(*written.warnings, *warnings),
        )

    write_manifest(staging, manifest())
    report = on_progress or (lambda stage, done, total: None)
    with clock("verify"):
        report("verify", 0, 1)
        verify_scene(staging)
    with clock("render back"):
        report("render back", 0, 1)
        rendered = _render_back(staging, reconstruction, exports)
    # Again, with the times that the checks took.
    final = manifest() | {"render_back": rendered}
    write_manifest(staging, final)
    return final


def _weak_focal(reconstruction: Reconstruction) -> list[str]:
    """A warning where cameras are verified, yet could as well have another focal length."""
    sigmas = [verdict.focal_sigma or 0.0 for verdict in reconstruction.verdicts if verdict.status == "verified"]
    weak = sum(sigma > _WEAK_FOCAL for sigma in sigmas)
    if not weak:
        return []
    return [
        f"the photos hardly determine the focal length of {weak} of {len(sigmas)} verified cameras: it may be off by "
        "10 % or more, and depth with it; give --intrinsics if you know it, or photos from more directions"
    ]


def _render_back(folder: Path, reconstruction: Reconstruction, exports: dict[str, list[str]]) -> dict[str, Any]:
    """How much the written Gaussians look like the photos, per file; empty where none were written."""
    from flarecli.appearance.render_back import render_back
    from flarecli.export.gaussian_files import GAUSSIAN_FILES

    files = [folder / path for name in GAUSSIAN_FILES for path in exports.get(name, ())]
    return render_back(folder, reconstruction, files) if files else {}


def _with_points(
    photo_set: PhotoSet, reconstruction: Reconstruction, staging: Path, on_progress: Progress | None
) -> Reconstruction:
    """Write the upright photos, and colour the dense points from them."""
    import numpy as np
    from PIL import Image

    from flarecli.images.writing import write_mask, write_upright
    from flarecli.inference.points import dense_points

    cameras = reconstruction.cameras
    assert cameras.k1 is not None
    photos, copies = photo_set.photos, []
    for index, photo in enumerate(photos):
        lens = {"K": cameras.K[index], "k1": float(cameras.k1[index])}
        copies.append(write_upright(photo, staging / "images", **lens))
        write_mask(photo, staging / "masks", **lens)
        if on_progress:
            on_progress("images", index + 1, len(photos))

    def rgb_of(view: int) -> np.ndarray:
        with Image.open(copies[view]) as picture:
            return np.asarray(picture.convert("RGB"))

    verified = reconstruction.verified
    # Depth of unverified photos hangs loosely in the scene; it only counts where there is nothing better.
    keep = verified if verified.any() else np.ones(len(photos), bool)
    return dataclasses.replace(reconstruction, points=dense_points(reconstruction, rgb_of, keep))
