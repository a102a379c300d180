"""From the name of a model to a network that is ready to predict."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from flarecli.errors import WeightsError
from flarecli.model.checkpoints import convert, load_weights, read_state_dict
from flarecli.model.config import find_model
from flarecli.model.config_small import GAUSSIAN_PART, FlareSmallConfig
from flarecli.model.digests import remembered_sha256
from flarecli.model.hub import LicencePolicy, first_use_notice, licence_check, locate, pull_hint, weights_of
from flarecli.model.keys import OWN_KEYS
from flarecli.model.shards import compact
from flarecli.model.spec import ModelSpec
from flarecli.model.stated import stated_config
from flarecli.scene.views import Prediction, Views

LOGGER = logging.getLogger(__name__)


class GeometryNetwork(Protocol):
    """What every network can do."""

    def predict(self, views: Views) -> Prediction:
        """Cameras and geometry of one scene; view 0 is the reference."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A network and where its weights come from.

    Attributes:
        network: in evaluation mode, on its device.
        spec: row of the table of models, with the sizes that the weights have.
        weights_path: the file, or None for a network without weights of its own (tests of the program).
        weights_sha256: checksum of the file, or None.
        licence: licence of the weights.
    """

    network: GeometryNetwork
    spec: ModelSpec
    weights_path: Path | None
    weights_sha256: str | None
    licence: str


def network_builder(spec: ModelSpec) -> Callable[[], nn.Module]:
    """A function that makes the network of a model with random weights."""
    module_name, _, class_name = spec.build.partition(":")
    network_class = getattr(import_module(module_name), class_name)
    return lambda: network_class(spec.config)


def _as_stated(spec: ModelSpec, path: Path) -> ModelSpec:
    """The row of the small network with the sizes of these weights, which need not be those of the shipped ones.

    Images must then be whole patches of that size. Weights that are older than the Gaussian head do without it.

    Raises:
        WeightsError: the weights can't be read, or state sizes that no network has.
    """
    if not isinstance(spec.config, FlareSmallConfig):
        return spec
    config = stated_config(path) or spec.config
    if config.gaussians and not any(name.startswith(GAUSSIAN_PART) for name in read_state_dict(path)):
        config = replace(config, gaussians=False)
    return replace(spec, config=config, canvas=replace(spec.canvas, multiple=config.patch))


def load_model(
    name: str,
    *,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
    offline: bool = False,
    license_policy: LicencePolicy = "any",
) -> LoadedModel:
    """Load a model and log its licence the first time; nothing is ever downloaded here.

    Args:
        name: row of the table of models.
        weights: a file instead of the shipped or downloaded one.
        device: where the network goes.
        offline: changes only the hint where the weights are missing.
        license_policy: ``commercial`` refuses weights that forbid commercial use.

    Raises:
        InputError: there is no such model.
        WeightsError: the weights are missing, damaged, of another network, or not allowed.
    """
    spec = find_model(name)
    licence_check(spec, license_policy)
    device = torch.device(device)
    path = locate(spec, weights)
    if path is None and spec.weights is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = network_builder(spec)().eval().to(device)
        return LoadedModel(cast("GeometryNetwork", network), spec, None, None, "none")
    if path is None:
        hint = pull_hint(spec)
        if offline:
            hint += " (needs the network; or copy the file here and give it with --weights)"
        raise WeightsError(f"the weights of {name} ({weights_of(spec).filename}) are not on this machine", hint)
    spec = _as_stated(spec, path)
    keys = OWN_KEYS if spec.weights is None else spec.weights.keys
    network = load_weights(network_builder(spec), path, device, keys)
    if notice := first_use_notice(spec):
        LOGGER.info(notice)
    licence = "none" if spec.weights is None else spec.weights.licence
    return LoadedModel(cast("GeometryNetwork", network), spec, path, remembered_sha256(path), licence)


def check_weights(spec: ModelSpec, path: Path) -> None:
    """Load a weights file as :func:`load_model` does, for nothing but its errors.

    Raises:
        WeightsError: the file is damaged, or of another network.
    """
    spec = _as_stated(spec, path)
    load_weights(network_builder(spec), path, torch.device("cpu"), weights_of(spec).keys)


def convert_weights(name: str, source: Path, target: Path, *, overwrite: bool = False) -> Path:
    """Rewrite a checkpoint of a model as safetensors with its licence and origin inside.

    The source may also be a checkpoint folder of a training of the small network, whose averaged weights are taken;
    weights of that network are stored as they are shipped, matrices in half precision.

    Raises:
        InputError: there is no such model.
        WeightsError: the source is not a checkpoint of this model.
        OutputExists: the target is there and is not to be replaced.
        OutputError: the target can't be written.
    """
    spec = find_model(name)
    weights = weights_of(spec)
    metadata = {"model": spec.name, "licence": weights.licence, "source": weights.source}
    spec, store = _as_stated(spec, source), Tensor.contiguous
    if isinstance(spec.config, FlareSmallConfig):
        metadata["config"], store = json.dumps(spec.config.to_dict()), compact
    build = network_builder(spec)
    return convert(source, target, build, weights.keys, metadata=metadata, store=store, overwrite=overwrite)
