"""Checksums of big files, remembered as long as a file does not change; torch-free."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from flarecli.errors import WeightsError


def user_cache() -> Path:
    """Folder of downloads and remembered checksums: ``$XDG_CACHE_HOME/flarecli``, else ``~/.cache/flarecli``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "flarecli"


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content.

    Raises:
        WeightsError: the file can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: can't be read ({error.strerror})", "check the path and its permissions") from error


def content_sha256(path: Path) -> str:
    """The same of a file, or over the names and contents of all files of a folder.

    Raises:
        WeightsError: as :func:`file_sha256`.
    """
    if not path.is_dir():
        return file_sha256(path)
    total = hashlib.sha256()
    for part in sorted(path.rglob("*")):
        if part.is_file():
            total.update(f"{part.relative_to(path).as_posix()}\0{file_sha256(part)}\n".encode())
    return total.hexdigest()


def remembered_sha256(path: Path) -> str:
    """The same, from the user's cache where path, size and modification time are those of an earlier call."""
    try:
        status = path.stat()
    except OSError as error:
        raise WeightsError(f"{path}: can't be read ({error.strerror})", "check the path and its permissions") from error
    stamp = [status.st_size, status.st_mtime_ns]
    table = _read_table()
    key = str(path.resolve())
    entry = table.get(key)
    if isinstance(entry, list) and len(entry) == 3 and entry[:2] == stamp and isinstance(entry[2], str):
        return entry[2]
    digest = file_sha256(path)
    table[key] = [*stamp, digest]
    write_json(_table_path(), table)
    return digest


def write_json(path: Path, content: object) -> None:
    """Write a small file in one step; a folder that can't be written is not an error, it only costs time later."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        Path(name).replace(path)
    except OSError:
        return


def read_json(path: Path) -> dict[str, object]:
    """The object in a small file; empty where there is none or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _table_path() -> Path:
    return user_cache() / "checksums.json"


def _read_table() -> dict[str, object]:
    return read_json(_table_path())
