"""Programs of several processes: each writes maps into one folder, or trains with others."""

from __future__ import annotations

import os
import time

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import medcam


def small_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip


def save_maps(folder, calls, delay=0.0, net=None):
    """Make maps of random images, and save them."""
    time.sleep(delay)
    net = small_net() if net is None else net
    model = medcam.inject(net.eval(), output_dir=folder, layer="2", save_maps=True, label=1)
    for _ in range(calls):
        model(torch.rand(1, 1, 12, 12))


class MappedImages(torch.utils.data.Dataset):
    """A data set that makes a map of each image, in the worker that reads it."""

    def __init__(self, folder, count):
        self.count = count
        self.model = medcam.inject(
            small_net().eval(), output_dir=folder, layer="2", save_maps=True, label=1
        )

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = torch.rand(1, 12, 12)
        self.model(image[None])
        return image


def train(rank, port, inject, queue, folder, find_unused):
    """Train with DistributedDataParallel, with maps in evaluation in between."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    net = small_net()
    model = DistributedDataParallel(net, find_unused_parameters=find_unused)
    if inject:
        model = medcam.inject(model, folder, layer="2", save_maps=True, enabled=False, label=1)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    torch.manual_seed(rank)
    outputs = []
    for step in range(3):
        optimiser.zero_grad()
        if inject and step == 1:
            model.enable_medcam()  # maps in training, too
        model(torch.randn(4, 1, 12, 12)).square().mean().backward()
        if inject:
            model.disable_medcam()
        optimiser.step()
        model.eval()
        if inject:
            model.enable_medcam()
        with torch.no_grad():
            outputs.append(model(torch.ones(1, 1, 12, 12)))
        if inject:
            model.disable_medcam()
        model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    queue.put((rank, [o.tolist() for o in outputs], {k: v.tolist() for k, v in state.items()}))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
