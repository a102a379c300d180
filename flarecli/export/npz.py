"""Reading .npz files of unknown origin: no pickles, no archive that unpacks to more than its own size."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from flarecli.errors import InputError


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an uncompressed .npz file.

    Raises:
        InputError: missing, truncated, compressed, holding objects, or announcing more data than it has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                    raise ValueError(f"member {info.filename} is compressed")
                _check_member(archive, info)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", "check the path") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"{path} is not a readable archive of arrays: {error}", "copy the file again, or write it anew"
        ) from error


def _check_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Compare the announced size of one array with what the file holds, before anything is allocated."""
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f"member {info.filename} has an unknown version")
        shape, _, dtype = read_header[version](member)
        if dtype.hasobject:
            raise ValueError(f"member {info.filename} holds Python objects")
        if math.prod(shape) * dtype.itemsize != info.file_size - member.tell():
            raise ValueError(f"member {info.filename} has not the size that it announces")
