"""Files from which a job goes on."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from flarecli.errors import InputError
from flarecli.model.resume import load_progress, save_progress

SIGNATURE = {"options": {"seed": 1}}


def load(path: Path, signature: Mapping[str, object] = SIGNATURE) -> dict[str, object] | None:
    return load_progress(path, signature, dict, torch.device("cpu"), "use the same")


def test_a_job_goes_on_only_from_its_own_file(tmp_path: Path):
    path = tmp_path / "job.pt"
    assert load(path) is None
    save_progress(path, {"step": 3, "means": torch.arange(3.0)}, SIGNATURE)
    found = load(path)
    assert found is not None and found["step"] == 3
    with pytest.raises(InputError, match=r"job\.pt belongs to a run with other options") as caught:
        load(path, {"options": {"seed": 2}})
    assert caught.value.hint == "use the same"


@pytest.mark.parametrize("content", [b"", b"nothing of the kind"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes):
    path = tmp_path / "job.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"job\.pt is damaged: .+") as caught:
        load(path)
    assert "\n" not in caught.value.message
