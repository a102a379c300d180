"""Download of weights from the Hugging Face hub; an interrupted download goes on where it stopped."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from flarecli.errors import OutputError, WeightsError, first_line
from flarecli.model.digests import file_sha256, write_json
from flarecli.model.hub import download_folder, find_kept, origin_path, pull_hint, weights_of
from flarecli.model.patience import Patience, Response, is_passing
from flarecli.model.spec import ModelSpec, WeightsSpec

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

Progress = Callable[[str, int, int], None]

_REPORT_BYTES = 1 << 18
_SILENCE_SECONDS = 30.0


def pull(
    spec: ModelSpec,
    *,
    offline: bool = False,
    on_progress: Progress | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """Download the weights of a model into the user's cache, unless they are there or in the checkout.

    ``$HF_ENDPOINT`` names a mirror of the hub, ``$HF_HUB_OFFLINE`` forbids the network. What was downloaded before an
    interruption is kept and used by the next call. Broken connections and refusals that go away by waiting are borne a
    few times in a row.

    Args:
        spec: the model.
        offline: only say where the file is.
        on_progress: called as on_progress("download", bytes done, bytes in all).
        pause: waits for that many seconds before another attempt.

    Raises:
        WeightsError: offline and not there, not on the hub, refused by it, or damaged on the way.
        OutputError: the disk is too small, or the cache can't be written.
    """
    weights = weights_of(spec)
    found = find_kept(spec)
    if found is not None:
        return found[0]
    if weights.hub_repo is None:
        raise WeightsError(f"{weights.filename} is not on this machine and not on the hub", pull_hint(spec))
    if offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        message = f"{weights.filename} is not on this machine and downloads are switched off"
        raise WeightsError(message, f"without --offline and HF_HUB_OFFLINE run: {pull_hint(spec)}")
    try:
        return _download(spec, weights, weights.hub_repo, on_progress, Patience(pause))
    except OSError as error:
        message = f"{download_folder(spec)} can't be written: {error.strerror or first_line(error)}"
        raise OutputError(message, "set XDG_CACHE_HOME to a folder with space that can be written") from error


def _download(
    spec: ModelSpec, weights: WeightsSpec, repo: str, on_progress: Progress | None, patience: Patience
) -> Path:
    from huggingface_hub.errors import LocalTokenNotFoundError
    from huggingface_hub.utils import WeakFileLock

    folder = download_folder(spec)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / weights.filename
    http_error = _http_error()
    with WeakFileLock(folder / f".{weights.filename}.lock"):
        if target.is_file():  # another process was faster
            return target
        try:
            resolve = partial(_metadata, repo, weights.filename, http_error, patience)
            metadata = resolve()
            part = folder / f"{weights.filename}.{_plain(metadata.etag)[:16]}.part"
            _fetch(metadata, resolve, part, http_error, on_progress, patience)
        except (http_error, LocalTokenNotFoundError, ConnectionError, TimeoutError) as error:
            message = f"{weights.filename} can't be downloaded from {repo}: {first_line(error)}"
            hint = f"check the network (HF_ENDPOINT names a mirror) and run again: {pull_hint(spec)}"
            raise WeightsError(message, hint) from error
        digest = _check(part, weights, metadata, spec)
        origin = {"model": spec.name, "repository": repo, "commit": metadata.commit_hash, "sha256": digest}
        write_json(origin_path(target), {**origin, "licence": weights.licence, "source": weights.source})
        part.replace(target)
    for leftover in folder.glob(f"{weights.filename}.*.part"):
        leftover.unlink(missing_ok=True)
    return target


def _metadata(repo: str, filename: str, http_error: type[Exception], patience: Patience) -> HfFileMetadata:
    """Where the hub has the file at present, its size and its etag."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    endpoint = os.environ.get("HF_ENDPOINT") or None
    url = hf_hub_url(repo, filename, endpoint=endpoint and endpoint.rstrip("/"))
    while True:
        try:
            return get_hf_file_metadata(url)
        except http_error as error:
            response = getattr(error, "response", None)
            if not is_passing(response) or not patience.wait(progressed=False, response=response):
                raise


def _fetch(
    metadata: HfFileMetadata,
    resolve: Callable[[], HfFileMetadata],
    part: Path,
    http_error: type[Exception],
    on_progress: Progress | None,
    patience: Patience,
) -> None:
    total = metadata.size or 0
    done = _size(part)
    if total and done > total:
        part.unlink()
        done = 0
    if total - done > shutil.disk_usage(part.parent).free:
        gigabytes = (total - done) / 2**30
        raise OutputError(f"no space for {gigabytes:.1f} GiB in {part.parent}", "free space or set XDG_CACHE_HOME")
    address, done_at_address = metadata.location, done
    while not total or done < total:
        before, response = done, None
        try:
            done = _stream(address, part, done, total, on_progress)
            if not total or done >= total:
                return
            failure: Exception = ConnectionError(f"the server stopped sending after {done} of {total} bytes")
        except http_error as error:
            failure, response, done = error, getattr(error, "response", None), _size(part)
            if _is_expired(response) and done > done_at_address:
                address, done_at_address = _renewed(metadata, resolve), done
            elif response is not None and not is_passing(response):
                raise
        if not patience.wait(progressed=done > before, response=response):
            raise failure


def _is_expired(response: Response | None) -> bool:
    """Whether a refusal may be that of a signed address, which is valid for a while only."""
    return response is not None and response.status_code in (401, 403)


def _renewed(metadata: HfFileMetadata, resolve: Callable[[], HfFileMetadata]) -> str:
    fresh = resolve()
    if fresh.etag != metadata.etag:
        raise ConnectionError("the hub has another version of it than when the download began")
    return fresh.location


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _stream(url: str, part: Path, done: int, total: int, on_progress: Progress | None) -> int:
    """Append what is missing; returns the bytes that are there afterwards."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    same_host = urlsplit(url).netloc == urlsplit(endpoint).netloc
    headers = build_hf_headers() if same_host else {}  # a token must not travel to another host
    headers["Accept-Encoding"] = "identity"
    if done:
        headers["Range"] = f"bytes={done}-"
    with get_session().stream("GET", url, headers=headers, timeout=_SILENCE_SECONDS) as response:
        hf_raise_for_status(response)
        if done and response.status_code != 206:  # the server sends the whole file
            done = 0
        with part.open("ab" if done else "wb") as file:
            reported = done
            # Without a chunk size, so that what arrived before a cut is on disk.
            for chunk in response.iter_raw():
                file.write(chunk)
                done += len(chunk)
                if on_progress is not None and (done - reported >= _REPORT_BYTES or done == total):
                    on_progress("download", done, total)
                    reported = done
    return done


def _check(part: Path, weights: WeightsSpec, metadata: HfFileMetadata, spec: ModelSpec) -> str:
    """Checksum of a finished download; a wrong file is removed."""
    size = part.stat().st_size
    digest = file_sha256(part)
    from_hub = metadata.etag if re.fullmatch(r"[0-9a-f]{64}", metadata.etag or "") else None
    expected = weights.sha256 or from_hub
    if (metadata.size not in (None, size)) or (expected is not None and digest != expected):
        part.unlink()
        message = f"{weights.filename}: the download is damaged ({size} bytes, checksum {digest[:12]}...)"
        raise WeightsError(message, f"run again: {pull_hint(spec)}")
    return digest


def _http_error() -> type[Exception]:
    """Base of all errors of the hub's HTTP library, whose name differs between releases of huggingface_hub."""
    from huggingface_hub.errors import HfHubHTTPError

    return cast("type[Exception]", HfHubHTTPError.__bases__[0])


def _plain(etag: str | None) -> str:
    return re.sub(r"[^0-9a-zA-Z]", "", etag or "") or "unknown"
