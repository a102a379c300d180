"""Checksums and where they are remembered."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from flarecli.errors import WeightsError
from flarecli.model import digests


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flarecli"


def test_cache_folder_follows_the_environment(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert digests.user_cache() == cache
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert digests.user_cache() == Path.home() / ".cache" / "flarecli"


def test_checksum_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    assert digests.remembered_sha256(path) == hashlib.sha256(b"one").hexdigest()

    with monkeypatch.context() as patch:
        patch.setattr(digests, "file_sha256", lambda _: "read again")
        assert digests.remembered_sha256(path) == hashlib.sha256(b"one").hexdigest()
        os.utime(path, ns=(1, 1))
        assert digests.remembered_sha256(path) == "read again"
    path.write_bytes(b"three")
    assert digests.remembered_sha256(path) == hashlib.sha256(b"three").hexdigest()


def test_a_damaged_memory_is_ignored(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    cache.mkdir(parents=True)
    (cache / "checksums.json").write_text("[1, 2")
    assert digests.remembered_sha256(path) == hashlib.sha256(b"one").hexdigest()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "occupied"))
    assert digests.remembered_sha256(path) == hashlib.sha256(b"one").hexdigest()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for function in (digests.file_sha256, digests.remembered_sha256):
        with pytest.raises(WeightsError, match=r"gone\.bin"):
            function(tmp_path / "gone.bin")
