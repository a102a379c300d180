"""The look at held-out photos."""

import dataclasses

import torch

from flarecli.adapt.guard import held_out_psnr
from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall


def test_the_network_never_sees_a_held_out_photo_and_keeps_its_mode(exact):
    torch.manual_seed(0)
    network, seen = FlareSmall(SIZES["tiny"]).train(), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0].shape[1], network.training)))
    score = held_out_psnr(network, exact.study, [0, 1, 3, 4], [2])
    assert seen == [(4, False)] and network.training
    assert 3 < score < 40
    # what is compared is the held-out photo: another one there changes the score
    rgb = exact.study.rgb.clone()
    rgb[2] = 1 - rgb[2]
    assert abs(held_out_psnr(network, dataclasses.replace(exact.study, rgb=rgb), [0, 1, 3, 4], [2]) - score) > 0.1


def test_more_photos_than_a_pass_takes_go_in_windows(exact):
    torch.manual_seed(0)
    network, sizes = FlareSmall(SIZES["tiny"]), []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[1]))
    many = [0, 1, 3, 4] * 3
    names = ("rgb", "use", "portrait", "c2w", "focal", "depth")
    copied = {name: getattr(exact.study, name)[[*many, 2]] for name in names}
    study = dataclasses.replace(exact.study, names=tuple(map(str, range(13))), verified=(True,) * 13, **copied)
    assert held_out_psnr(network, study, list(range(12)), [12]) > 3
    assert len(sizes) == 2 and max(sizes) <= 8
