"""Maps of several processes, workers, threads and programs lie beside each other."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

import medcam
from medcam.files import claims
from medcam.injection import output_folder as folders
from support.processes import MappedImages, save_maps, small_net

SUPPORT = Path(__file__).parents[1]


def maps_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("attention_map_*.png"))


@pytest.mark.parametrize("method", [pytest.param("spawn", marks=pytest.mark.slow), "fork"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork beside threads
def test_child_processes(tmp_path, method):
    context = torch.multiprocessing.get_context(method)
    processes = [context.Process(target=save_maps, args=(tmp_path, 5)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    save_maps(tmp_path, 5)
    assert len(maps_in(tmp_path)) == 25
    assert "2/attention_map_0_0_0.png" in maps_in(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_of_a_dataloader_in_each_epoch(tmp_path):
    images = MappedImages(tmp_path, 6)
    loader = torch.utils.data.DataLoader(images, batch_size=1, num_workers=2)
    for _ in range(2):
        for _ in loader:
            pass
    assert len(maps_in(tmp_path)) == 12


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from support.processes import save_maps
save_maps(sys.argv[2], 5, delay=float(sys.argv[3]))
"""


def program(folder, delay):
    arguments = [sys.executable, "-c", PROGRAM, str(SUPPORT), str(folder), str(delay)]
    return subprocess.Popen(arguments)  # noqa: S603  # our own code


@pytest.mark.slow
def test_programs_at_the_same_time(tmp_path):
    """The second one still begins when the first has ended: they overlap, but their maps do not."""
    running = [program(tmp_path, delay) for delay in (0.0, 3.0)]
    assert [process.wait() for process in running] == [0, 0]
    assert len(maps_in(tmp_path)) == 10
    assert len(maps_in(tmp_path / "2")) == 5
    assert len(maps_in(tmp_path / "program_2")) == 5


@pytest.mark.slow
def test_a_program_that_runs_again_replaces_its_maps(tmp_path):
    for _ in range(2):
        assert program(tmp_path, 0.0).wait() == 0
    assert maps_in(tmp_path) == [f"2/attention_map_{call}_0_0.png" for call in range(5)]


def test_threads_with_one_model(tmp_path):
    model = medcam.inject(small_net().eval(), tmp_path, layer="2", save_maps=True, label=1)

    def run():
        with torch.no_grad():
            for _ in range(5):
                model(torch.rand(1, 1, 12, 12))

    in_threads([run] * 4)
    assert maps_in(tmp_path) == sorted(f"2/attention_map_{call}_0_0.png" for call in range(20))


@pytest.mark.parametrize("copied", [False, True])
def test_threads_with_a_model_each(tmp_path, copied):
    first = medcam.inject(small_net().eval(), tmp_path, layer="2", save_maps=True, label=1)

    def run():
        if copied:
            model = copy.deepcopy(first)
            for _ in range(5):
                model(torch.rand(1, 1, 12, 12))
        else:
            save_maps(tmp_path, 5)

    in_threads([run] * 4)
    assert len(maps_in(tmp_path)) == 20


def in_threads(functions):
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_in_one_thread_injecting_again_begins_again(tmp_path):
    for _ in range(2):
        save_maps(tmp_path, 2)
    assert maps_in(tmp_path) == ["2/attention_map_0_0_0.png", "2/attention_map_1_0_0.png"]


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, ""),
        ({"RANK": "3", "WORLD_SIZE": "8"}, "rank_3"),
        ({"RANK": "3", "WORLD_SIZE": "1"}, ""),
        ({"RANK": "../x", "WORLD_SIZE": "2"}, ""),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}, "rank_2"),
        ({"SLURM_ARRAY_TASK_ID": "17"}, "task_17"),
    ],
)
def test_the_name_of_a_process(monkeypatch, variables, name):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert folders.process_name() == name


def test_everything_of_a_rank_goes_to_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    model = medcam.inject(
        small_net().eval(), tmp_path, layer="2", save_maps=True, save_scores=True, save_pickle=True
    )
    model(torch.rand(1, 1, 12, 12), torch.ones(1, 1, 12, 12))
    model.save_attention_map(torch.rand(12, 12))
    model.test_run(torch.rand(1, 1, 12, 12))
    model.dump()
    files = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"rank_1"}


def test_without_a_folder_for_locks_maps_are_saved_as_before(tmp_path, monkeypatch):
    (tmp_path / "taken").touch()
    monkeypatch.setattr(claims.tempfile, "gettempdir", lambda: str(tmp_path / "taken"))
    save_maps(tmp_path / "out", 1)
    assert maps_in(tmp_path / "out") == ["2/attention_map_0_0_0.png"]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="users have no number on Windows")
def test_somebody_elses_folder_for_locks_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(claims.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"medcam-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        claims.lock_folder()


def open_files():
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_a_folder_is_free_again_when_its_last_writer_is_gone(tmp_path):
    """So that a long session that injects often keeps no file open."""
    before = open_files()
    for number in range(20):
        save_maps(tmp_path / str(number), 1)
    gc.collect()
    assert open_files() <= before + 1


def test_the_members_of_an_ensemble_keep_their_maps(tmp_path):
    members = [
        medcam.inject(small_net(seed).eval(), tmp_path, layer="2", save_maps=True, label=1)
        for seed in range(3)
    ]
    for _ in range(2):
        for member in members:
            member(torch.rand(1, 1, 12, 12))
    assert len(maps_in(tmp_path)) == 6


def test_injecting_the_same_network_again_begins_again(tmp_path):
    net = small_net().eval()
    first = medcam.inject(net, tmp_path, layer="2", save_maps=True, label=1)
    first(torch.rand(1, 1, 12, 12))
    again = medcam.inject(first, tmp_path, layer="2", save_maps=True, label=1)
    again(torch.rand(1, 1, 12, 12))
    assert maps_in(tmp_path) == ["2/attention_map_0_0_0.png"]


def test_calls_in_threads_that_are_raised_stay_apart(tmp_path):
    """Numbers that others have used are replaced by numbers that nobody else gets."""
    nets = [small_net(seed).eval() for seed in range(2)]
    models = [medcam.inject(net, tmp_path, layer="2", save_maps=True, label=1) for net in nets]
    for model in models:
        in_threads([lambda m=model: m(torch.rand(1, 1, 12, 12))] * 4)
    assert len(maps_in(tmp_path)) == 8
