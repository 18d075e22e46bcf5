"""DataParallel and DistributedDataParallel stay around an injected model, and do their work."""

from __future__ import annotations

import copy
import socket
from contextlib import nullcontext

import pytest
import torch
import torch.multiprocessing
from torch import nn

import medcam
from medcam.errors import InputError, MedcamWarning
from medcam.injection.wrappers import InnerCall
from support.nets import Classifier
from support.processes import small_net, train

CONTEXT = torch.multiprocessing.get_context("spawn")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def trained_by_two(inject, folder, find_unused):
    """Return the outputs and the weights of each of two ranks."""
    queue, port = CONTEXT.SimpleQueue(), free_port()
    arguments = (port, inject, queue, folder, find_unused)
    torch.multiprocessing.spawn(train, args=arguments, nprocs=2)
    return dict(sorted((rank, values) for rank, *values in (queue.get() for _ in range(2))))


@pytest.mark.slow
@pytest.mark.parametrize("find_unused", [False, True])
def test_two_ranks_train_one_network_with_maps_as_without(tmp_path, find_unused):
    plain = trained_by_two(False, None, find_unused)
    injected = trained_by_two(True, tmp_path, find_unused)
    assert injected == plain
    weights = [values[1]["module.5.weight"] for values in injected.values()]
    assert weights[0] == weights[1]
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*_0_0.png"))
    assert names[:4] == [f"2/attention_map_{call}_0_0.png" for call in range(4)]
    assert names[4:] == [f"rank_1/2/attention_map_{call}_0_0.png" for call in range(4)]


def test_dataparallel_keeps_its_keys_and_its_module():
    net = Classifier().eval()
    wrapper = nn.DataParallel(net)
    model = medcam.inject(wrapper, layer="features")
    assert isinstance(model, nn.DataParallel)
    assert model.state_dict().keys() == wrapper.state_dict().keys()
    assert model.module is net
    assert type(wrapper) is nn.DataParallel
    images = torch.rand(3, 1, 16, 16)
    assert torch.equal(model(images), net(images))
    expected = medcam.explain(net, images, layer="features").map.normalized()
    assert torch.equal(torch.from_numpy(model.get_attention_map()), expected)
    model.load_state_dict(wrapper.state_dict())
    assert model.get_layers() == medcam.get_layers(net)
    assert medcam.inject(model, layer="features").module is net
    assert type(copy.deepcopy(model)) is type(model)
    assert model.test_run(images) == medcam.inject(net).test_run(images)


def test_arguments_of_medcam_go_through_a_wrapper(tmp_path):
    model = medcam.inject(
        nn.DataParallel(Classifier().eval()), tmp_path, evaluate=True, return_score=True
    )
    output, scores = model(torch.rand(2, 1, 16, 16), torch.ones(2, 1, 16, 16), label=1)
    assert output.shape[0] == 2
    assert [len(values) for values in scores.values()] == [2]


def test_an_injected_model_inside_a_wrapper_is_injected_once():
    net = Classifier().eval()
    inside = nn.DataParallel(medcam.inject(net, layer="features"))
    model = medcam.inject(inside, layer="features")
    assert type(model.module) is Classifier
    assert type(inside.module) is not Classifier
    model(torch.rand(1, 1, 16, 16))
    assert model.get_attention_map() is not None
    assert inside.module.get_attention_map() is None


def replicas_of(model, count):
    """Return the copies that DataParallel makes of a model for several devices."""
    replicas = [model._replicate_for_data_parallel() for _ in range(count)]
    for replica in replicas:
        replica._modules = dict(model._modules)
    return replicas


def test_copies_on_several_devices_make_no_maps_and_say_so(tmp_path):
    """What nn.DataParallel(injected model) does on two GPUs."""
    net, images = small_net().eval(), torch.rand(2, 1, 12, 12)
    model = medcam.inject(net, tmp_path, layer="2", save_maps=True)
    for replica in replicas_of(model, 2):
        with pytest.warns(MedcamWarning, match=r"medcam\.inject\(nn\.DataParallel\(model\)\)"):
            assert torch.equal(replica(images), net(images))
    assert not list(tmp_path.rglob("*.png"))
    for options in ({"on_error": "raise"}, {"replace": True}, {"return_attention": True}):
        replica = replicas_of(medcam.inject(net, layer="2", **options), 1)[0]
        with pytest.raises(InputError, match="maps of the copies would be lost"):
            replica(images)
    model.disable_medcam()
    assert torch.equal(replicas_of(model, 1)[0](images), net(images))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, at its first use
def test_a_compiled_wrapper_is_removed_and_the_parallel_one_stays():
    net = Classifier().eval()
    model = medcam.inject(torch.compile(nn.DataParallel(net)), layer="features")
    assert isinstance(model, nn.DataParallel)
    assert model.module is net


def test_eject_gives_the_wrapper_back():
    wrapper = nn.DataParallel(Classifier().eval())
    plain = medcam.eject(medcam.inject(wrapper))
    assert type(plain) is nn.DataParallel
    assert plain.module is wrapper.module


def test_only_the_first_pass_of_a_call_goes_through_the_wrapper():
    """Further passes are medcam's own: other ranks make none, and would be waited for."""
    wrapper = object.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module, wrapper.device_ids = Classifier().eval(), None
    expected, through = [], []
    wrapper.no_sync = lambda: expected.append("no reduction") or nullcontext()

    def forward(images):
        through.append(images)
        return wrapper.module(images)

    images = torch.rand(1, 1, 16, 16)
    for keep_graph in (False, True):
        call = InnerCall(wrapper, forward, keep_graph=keep_graph)
        outputs = [call(images) for _ in range(3)]
        assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert len(through) == 2
    assert expected == ["no reduction"]  # where the caller keeps no graph
