"""Downloads from a server on this machine that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flarecli.errors import OutputError, WeightsError
from flarecli.model import download, hub, patience
from flarecli.model.config import MODELS

FLARE = MODELS["flare"]
CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Hub:
    """State of the server: what it serves, how it misbehaves, what it was asked."""

    content: bytes = CONTENT
    etag: str = SHA256
    cut_after: int | None = None
    honours_ranges: bool = True
    missing: bool = False
    redirects: bool = False
    signed: bool = False
    signatures: set[str] = field(default_factory=set)
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


def handler_for(state: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, status: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(length), **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def do_HEAD(self) -> None:
            state.paths.append(self.path)
            if state.missing:
                self.answer(404, 0, {"X-Error-Code": "EntryNotFound"})
                return
            headers = {"X-Repo-Commit": "c0ffee", "X-Linked-Etag": f'"{state.etag}"'}
            headers["X-Linked-Size"] = str(len(state.content))
            if state.redirects and "/resolve/" in self.path:
                signature = f"?signature={sum(path.startswith('/AntResearch') for path in state.paths)}"
                location = f"http://{self.headers['Host']}/cdn/blob{signature if state.signed else ''}"
                self.answer(302, 0, {**headers, "Location": location})
            else:
                self.answer(200, len(state.content), headers)

        def do_GET(self) -> None:
            used_up = state.signed and self.path in state.signatures  # each is good for one request
            state.signatures.add(self.path)
            state.paths.append(self.path)
            if used_up or state.refusals:
                status, headers = (403, {}) if used_up else state.refusals.pop(0)
                self.answer(status, 0, headers)
                return
            wanted = self.headers["Range"]
            state.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.honours_ranges else 0
            body = state.content[start:]
            self.answer(206 if start else 200, len(body), {"ETag": f'"{state.etag}"'})
            if state.cut_after is not None:
                body = body[: state.cut_after]
                self.close_connection = True
            self.wfile.write(body)

    return Handler


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(state))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{httpd.server_port}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("FLARE_WEIGHTS", raising=False)
    monkeypatch.setattr(hub, "_checkout_folder", lambda: tmp_path / "checkout")
    monkeypatch.setattr(patience, "_FIRST_PAUSE_SECONDS", 0.0)
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def leftovers() -> list[str]:
    return sorted(path.name for path in hub.download_folder(FLARE).glob("*.part"))


def test_pull_downloads_once_and_notes_the_origin(server: Hub) -> None:
    progress = []
    path = download.pull(FLARE, on_progress=lambda *step: progress.append(step))
    assert path.read_bytes() == CONTENT
    assert path == hub.locate(FLARE)
    assert "/AntResearch/FLARE/resolve/main/geometry_pose.pth" in server.paths
    assert progress[-1] == ("download", len(CONTENT), len(CONTENT))
    note = json.loads(hub.origin_path(path).read_text())
    assert (note["sha256"], note["commit"], note["repository"]) == (SHA256, "c0ffee", "AntResearch/FLARE")
    asked = len(server.paths)
    assert download.pull(FLARE) == path
    assert len(server.paths) == asked


@pytest.mark.parametrize("named", ["geometry_pose.pth", "."])
def test_pull_does_not_take_what_the_variable_names(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "geometry_pose.pth").write_bytes(b"other weights")
    monkeypatch.setenv("FLARE_WEIGHTS", str(tmp_path / "mine" / named))
    path = download.pull(FLARE)
    assert path.parent == hub.download_folder(FLARE) and path.read_bytes() == CONTENT


def test_files_behind_a_redirect(server: Hub) -> None:
    server.redirects = True
    assert download.pull(FLARE).read_bytes() == CONTENT
    assert server.paths[-1] == "/cdn/blob"


def test_a_cut_connection_is_taken_up_again(server: Hub) -> None:
    server.cut_after = 400_000
    assert download.pull(FLARE).read_bytes() == CONTENT
    assert server.ranges[0] is None
    assert all(wanted is not None for wanted in server.ranges[1:])
    assert len(server.ranges) >= 3


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_refusal_that_goes_away_is_waited_for_as_long_as_the_server_asks(server: Hub, status: int) -> None:
    pauses: list[float] = []
    server.refusals = [(status, {"Retry-After": "7"}), (status, {})]
    assert download.pull(FLARE, pause=pauses.append).read_bytes() == CONTENT
    assert pauses == [7, 0]
    assert len(server.ranges) == 1


def test_a_server_that_goes_on_refusing_ends_the_download(server: Hub) -> None:
    pauses: list[float] = []
    server.refusals = [(503, {})] * 9
    with pytest.raises(WeightsError, match="503"):
        download.pull(FLARE, pause=pauses.append)
    assert len(pauses) == 4 and len(server.refusals) == 4


def test_a_refusal_that_does_not_go_away_is_not_repeated(server: Hub) -> None:
    server.refusals = [(403, {})] * 9
    with pytest.raises(WeightsError, match="403"):
        download.pull(FLARE)
    assert len(server.refusals) == 8


def test_an_address_that_expires_on_the_way_is_asked_for_again(server: Hub) -> None:
    server.redirects = server.signed = True
    server.cut_after = 400_000
    assert download.pull(FLARE).read_bytes() == CONTENT
    assert server.ranges[:2] == [None, "bytes=400000-"]
    assert server.paths.count("/AntResearch/FLARE/resolve/main/geometry_pose.pth") == 3


def test_an_expired_address_of_another_version_ends_the_download(server: Hub) -> None:
    server.redirects = server.signed = True
    server.cut_after = 400_000

    def publish(_: float) -> None:
        server.etag = "1" * 64

    with pytest.raises(WeightsError, match="the hub has another version"):
        download.pull(FLARE, pause=publish)
    assert hub.locate(FLARE) is None


def test_an_interrupted_download_goes_on_in_the_next_call(server: Hub) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    server.cut_after = 300_000
    with pytest.raises(KeyboardInterrupt):
        download.pull(FLARE, on_progress=interrupt)
    (part,) = leftovers()
    kept = (hub.download_folder(FLARE) / part).stat().st_size
    assert 0 < kept <= 300_000
    server.cut_after = None
    assert download.pull(FLARE).read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={kept}-"
    assert leftovers() == []


def test_a_server_without_ranges_starts_anew(server: Hub) -> None:
    folder = hub.download_folder(FLARE)
    folder.mkdir(parents=True)
    (folder / f"geometry_pose.pth.{SHA256[:16]}.part").write_bytes(CONTENT[:1000])
    server.honours_ranges = False
    assert download.pull(FLARE).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_another_version_does_not_go_on_with_the_old_one(server: Hub) -> None:
    folder = hub.download_folder(FLARE)
    folder.mkdir(parents=True)
    (folder / f"geometry_pose.pth.{'0' * 16}.part").write_bytes(b"old" * 100)
    assert download.pull(FLARE).read_bytes() == CONTENT
    assert leftovers() == []


def test_a_server_that_stops_sending_is_named(server: Hub) -> None:
    server.cut_after = 0
    with pytest.raises(WeightsError, match=r"geometry_pose\.pth can't be downloaded") as caught:
        download.pull(FLARE)
    assert "flare weights pull flare" in caught.value.hint


@pytest.mark.parametrize("known_by", ["hub", "table"])
def test_a_damaged_download_is_removed(server: Hub, known_by: str) -> None:
    spec = FLARE
    if known_by == "hub":
        server.etag = "1" * 64
    else:
        assert FLARE.weights is not None
        spec = replace(FLARE, weights=replace(FLARE.weights, sha256="1" * 64))
    with pytest.raises(WeightsError, match="the download is damaged"):
        download.pull(spec)
    assert hub.locate(FLARE) is None
    assert leftovers() == []


def test_a_file_that_the_hub_does_not_have(server: Hub) -> None:
    server.missing = True
    with pytest.raises(WeightsError, match="can't be downloaded from AntResearch/FLARE") as caught:
        download.pull(FLARE)
    assert "\n" not in caught.value.message


def test_no_server_at_all(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="can't be downloaded") as caught:
        download.pull(FLARE)
    assert "HF_ENDPOINT" in caught.value.hint


@pytest.mark.parametrize("by_variable", [True, False])
def test_offline_never_asks(server: Hub, monkeypatch: pytest.MonkeyPatch, by_variable: bool) -> None:
    if by_variable:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="switched off"):
        download.pull(FLARE, offline=not by_variable)
    assert server.paths == []


def test_a_small_disk_is_noticed_before_the_download(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="no space"):
        download.pull(FLARE)
    assert server.ranges == []


def test_shipped_weights_are_not_on_the_hub(server: Hub) -> None:
    with pytest.raises(WeightsError, match=r"flare-small\.safetensors is not on this machine"):
        download.pull(MODELS["flare-small"])
    assert server.paths == []


@pytest.mark.parametrize("place", ["file", "file/deeper", "n" * 300])
def test_a_cache_that_can_not_be_made_is_named(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    with pytest.raises(OutputError, match=r"flarecli/weights/flare can't be written: .+") as caught:
        download.pull(FLARE)
    assert "XDG_CACHE_HOME" in caught.value.hint
    assert server.paths == [] and (tmp_path / "file").read_text() == "mine"


def test_a_file_that_can_not_be_written_is_named(server: Hub) -> None:
    part = hub.download_folder(FLARE) / f"geometry_pose.pth.{SHA256[:16]}.part"
    part.mkdir(parents=True)
    with pytest.raises(OutputError, match="can't be written: Is a directory"):
        download.pull(FLARE)
