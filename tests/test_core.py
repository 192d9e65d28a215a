"""Files that are whole or absent, tensors that are what was written, trainings that refuse what is not theirs."""
import errno
import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch

from mmad_nb.core import runtime, training
from mmad_nb.core.runtime import (DamagedError, DataError, DiskCache, pick_device, read_tensors, seed_everything, write_tensors,
                                  written_beside)
from mmad_nb.core.training import load_checkpoint, save_checkpoint, train


def hidden(folder): return [p.name for p in Path(folder).iterdir() if p.name.startswith(".")]


def flip(path, at=-3):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x40
    path.write_bytes(raw)


def test_two_threads_write_the_same_entry(tmp_path):
    errors, barrier = [], threading.Barrier(4)

    def go():
        barrier.wait()
        try:
            for key in range(10): DiskCache(tmp_path / "c").get({"a": key}, lambda: {"x": torch.zeros(20_000)})
        except Exception as error: errors.append(error)

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert errors == [] and len(list((tmp_path / "c").iterdir())) == 10


def test_debris_of_dead_processes_is_swept_and_other_work_is_not(tmp_path):
    living = runtime._beside(tmp_path / "run.bin")
    dead = tmp_path / living.name.replace(f"-{os.getpid()}.", "-999999999.")
    elsewhere = tmp_path / dead.name.replace(runtime.MACHINE, "00000000")
    others = [living, elsewhere, tmp_path / ".profile.tmp", tmp_path / ".run.123.tmp"]
    for path in (dead, *others): path.write_text("x")
    (tmp_path / dead.name.replace("run", "folder")).mkdir()
    with written_beside(tmp_path / "new.bin") as beside: beside.write_text("whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["new.bin", *(p.name for p in others)])


KILLED = """import os, shutil, sys
from pathlib import Path
from mmad_nb.core import written_beside
place, step = shutil if sys.argv[2] == "rmtree" else os, sys.argv[2]
usual = getattr(place, step)
def die_after(*arguments, **options):
    usual(*arguments, **options)
    os._exit(9)
setattr(place, step, die_after)
with written_beside(Path(sys.argv[1]) / "old") as beside:
    beside.mkdir(); (beside / "a").write_text("new")"""


def fresh(code, *arguments):
    "Run it in a process of its own (a fork of this one could wait for ever for what another thread holds); its exit status."
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=Path(__file__).parents[1], timeout=120).returncode


def test_killed_while_it_replaces_a_folder(tmp_path):
    "Whatever step is the last one: the old folder or the new one is there under the name or under a visible other name."
    (tmp_path / "old").mkdir(); (tmp_path / "old/a").write_text("old")
    for step in ("rmtree", "replace"):
        assert fresh(KILLED, tmp_path, step) == 9
        found = [p for p in tmp_path.iterdir() if (p / "a").exists()]
        assert any((p / "a").read_text() in ("old", "new") for p in found)
        if step == "rmtree": assert (tmp_path / "old/a").read_text() == "new"
    with written_beside(tmp_path / "other.txt") as beside: beside.write_text("x")     # sweeps ...
    assert [p for p in tmp_path.iterdir() if (p / "a").exists()]                       # ... and never the old folder


@pytest.mark.parametrize("number, message", [(errno.ENOSPC, "a full disk"), (errno.EDQUOT, "a full disk"),
                                             (errno.EROFS, "can only be read"), (errno.EACCES, "no permission")])
def test_disks_that_refuse(tmp_path, monkeypatch, number, message):
    def refuse(*arguments): raise OSError(number, os.strerror(number))
    monkeypatch.setattr(runtime.os, "replace", refuse)
    with pytest.raises(DataError, match=message): write_tensors(tmp_path / "x.safetensors", {"x": torch.ones(2)})
    assert hidden(tmp_path) == []


def test_names_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for path, message in ((tmp_path / "file/x", "a file where a folder"), (tmp_path / ("x" * 300), "name that is too long")):
        with pytest.raises(DataError, match=message), written_beside(path) as beside: beside.write_text("y")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with written_beside(tmp_path / "link") as beside: beside.mkdir(); (beside / "new").write_text("x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real/new").exists()


ODD = {"scalar": torch.tensor(3.), "empty": torch.zeros(0, 4), "bits": torch.tensor([True, False]), "half": torch.ones(3).half(),
       "turned": torch.arange(6.).reshape(2, 3).T, "whole": torch.tensor([2 ** 40]), "nan": torch.tensor([float("nan")])}


def test_tensors_come_back_as_they_were(tmp_path):
    write_tensors(tmp_path / "x.safetensors", ODD, {"a": "b"})
    found, notes = read_tensors(tmp_path / "x.safetensors")
    assert notes == {"a": "b"} and set(found) == set(ODD)
    for name, value in ODD.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name].nan_to_num(7), value.nan_to_num(7)), name


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"x": torch.arange(100.)}, {"note": "abcdef"})
    good = path.read_bytes()
    at_note = good.index(b"abcdef")
    for at in (at_note, len(good) - 400, len(good) - 1):
        path.write_bytes(good)
        flip(path, at)
        with pytest.raises(DamagedError, match="changed on the disk"): read_tensors(path)


@pytest.mark.parametrize("content", [b"", b"x" * 5, b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}", b"\x04\0\0\0\0\0\0\0null"])
def test_files_of_another_kind(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match="x: found"): read_tensors(tmp_path / "x")


CUT_SHORT = """import os, sys
from mmad_nb.core.runtime import read_tensors
found, _ = read_tensors(sys.argv[1])
os.truncate(sys.argv[1], 0)
sys.exit(0 if found["x"].sum() == 100_000 else 1)"""


def test_a_file_cut_short_after_reading_does_no_harm(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"x": torch.ones(100_000)})
    assert fresh(CUT_SHORT, tmp_path / "x.safetensors") == 0


def test_cache_notices_changed_numbers_and_computes_again(tmp_path):
    cache, value = DiskCache(tmp_path), {"x": torch.arange(50.)}
    cache.get({"n": 1}, lambda: value)
    flip(cache.path({"n": 1}))
    with pytest.warns(UserWarning, match="broken .numbers that were changed"): again = cache.get({"n": 1}, lambda: value)
    assert torch.equal(again["x"], value["x"]) and (cache.hits, cache.misses) == (0, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cache.get({"n": 1}, dict)["x"], value["x"])


def test_a_cache_that_cannot_be_written_computes_with_one_warning(tmp_path, monkeypatch):
    def refuse(*arguments): raise OSError(errno.EROFS, "Read-only file system")
    monkeypatch.setattr(runtime.os, "replace", refuse)
    cache = DiskCache(tmp_path)
    with pytest.warns(UserWarning) as said:
        for n in range(3): assert cache.get({"n": n}, lambda: {"x": torch.tensor([n])})["x"].item() == n
    assert len(said) == 1 and "can only be read" in str(said[0].message)


def test_nobody_reads_ahead_where_sockets_would_have_no_room(monkeypatch):
    monkeypatch.setattr(training.tempfile, "gettempdir", lambda: "/tmp/" + "x" * 80)
    assert training.readers("/no/such/place") == 0
    monkeypatch.setattr(training.tempfile, "gettempdir", lambda: "/tmp")
    assert training.readers("/no/such/place") >= 1


@pytest.mark.parametrize("device", ["gpu", "", 3.5, "cuda:99", "meta"])
def test_devices_that_are_not_here(device):
    with pytest.raises(DataError, match="device"): pick_device(device)


@pytest.mark.parametrize("seed", [-1, 2 ** 64, 1.5, "0", None])
def test_seeds_that_are_none(seed):
    with pytest.raises(DataError, match="seed"): seed_everything(seed)


# trainings

def network(width=3):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(width, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))


def run(path=None, epochs=3, width=3, **how):
    net, items = network(width), [torch.full((width,), i / 7) for i in range(7)]
    loss = lambda batch: (sum((net(x) - x.sum()).square().sum() for x in batch), len(batch))
    return train({"net": net}, items, loss, **{"epochs": epochs, "batch_size": 2, "checkpoint": path, **how}), net


def test_a_checkpoint_takes_more_passes_and_never_fewer(tmp_path):
    path = tmp_path / "run.safetensors"
    run(path, 2)
    longer, net = run(path, 4)
    whole, other = run(None, 4)
    assert longer == pytest.approx(whole) and all(torch.allclose(a, b) for a, b in zip(net.parameters(), other.parameters()))
    with pytest.raises(DataError, match="one of at most 3 passes"): run(path, 3)


@pytest.mark.parametrize("change", [{"lr": .1}, {"seed": 1}, {"batch_size": 3}, {"settings": {"samples": "b"}}, {"settings": {}}])
def test_checkpoints_of_another_run(tmp_path, change):
    path, own = tmp_path / "run.safetensors", {"settings": {"samples": "a"}}
    run(path, **own)
    run(path, **own)
    with pytest.raises(DataError, match="another run"): run(path, **{**own, **change})


def test_checkpoints_that_are_not_whole(tmp_path):
    path = tmp_path / "run.safetensors"
    run(path, 2)
    with pytest.raises(DataError, match="weights of another network"): run(path, width=5, settings=None)
    tensors, notes = read_tensors(path)
    write_tensors(path, {**tensors, "module/net/0.bias": tensors["module/net/0.bias"] * float("nan")}, notes)
    with pytest.raises(DataError, match="not finite in module/net/0.bias"): run(path)
    write_tensors(path, tensors, {})
    with pytest.raises(DataError, match="no checkpoint"): run(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(DataError, match="a broken file"): run(path)
    assert path.read_bytes() == b"no tensors"


def test_a_damaged_checkpoint_is_set_aside(tmp_path):
    path = tmp_path / "run.safetensors"
    whole, _ = run(path, 2)
    flip(path)
    with pytest.warns(UserWarning, match="training starts anew"): again, _ = run(path, 2)
    assert again == pytest.approx(whole) and (tmp_path / "run.safetensors.damaged").exists()


def test_another_optimiser(tmp_path):
    "Plain gradient descent by hand: w - lr * gradient."
    w = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad(): w.weight.fill_(2.)
    loss = lambda batch: (sum(w(x).square().sum() for x in batch), len(batch))
    train({"w": w}, [torch.ones(1)], loss, epochs=1, lr=.1, optimizer=lambda p, lr: torch.optim.SGD(p, lr=lr))
    assert w.weight.item() == pytest.approx(2 - .1 * 4)


def test_what_is_logged(tmp_path):
    class Accelerator:
        process_index, num_processes, is_main_process = 0, 1, True
        def __init__(self): self.logged = []
        def reduce(self, value, how): return value
        def log(self, values, step): self.logged.append((step, values))

    seen = Accelerator()
    curve, _ = run(None, 2, accelerator=seen, label="toy")
    assert [step for step, _ in seen.logged] == list(range(1, 9))
    assert sum(v["toy/loss"] for _, v in seen.logged[:4]) / 4 == pytest.approx(curve[0])


def test_a_tracker_of_accelerate(tmp_path):
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

    class Kept(GeneralTracker):
        name, requires_logging_directory, main_process_only = "kept", False, False
        def __init__(self): super().__init__(); self.values = {}
        @property
        def tracker(self): return self.values
        def store_init_configuration(self, values): pass
        def log(self, values, step=None, **options): self.values[step] = values

    kept = Kept()
    accelerator = Accelerator(cpu=True, log_with=kept)
    accelerator.init_trackers("toy")
    run(None, 1, accelerator=accelerator, label="toy")
    assert sorted(kept.values) == [1, 2, 3, 4] and all("toy/loss" in v for v in kept.values.values())


def test_checkpoint_entries_by_hand(tmp_path):
    net = network()
    adam = torch.optim.Adam(net.parameters())
    save_checkpoint(tmp_path / "x.safetensors", {"net": net}, adam, {"epoch": 1, "settings": {}})
    tensors, notes = read_tensors(tmp_path / "x.safetensors")
    assert set(tensors) == {f"module/net/{name}" for name in net.state_dict()}
    assert json.loads(notes["progress"]) == {"epoch": 1, "settings": {}}
    assert load_checkpoint(tmp_path / "x.safetensors", {"net": net}, adam, {})["epoch"] == 1


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir(); (tmp_path / "old/a").write_text("old")
    usual, calls = os.replace, []

    def second_fails(*names):
        calls.append(names)
        if len(calls) == 2: raise OSError(errno.EIO, "broken")
        return usual(*names)

    monkeypatch.setattr(runtime.os, "replace", second_fails)
    with pytest.raises(OSError, match="broken"), written_beside(tmp_path / "old") as beside:
        beside.mkdir(); (beside / "a").write_text("new")
    assert (tmp_path / "old/a").read_text() == "old" and hidden(tmp_path) == []


def test_every_step_draws_its_own_random_numbers(tmp_path):
    "And a resumed run draws the same as an undisturbed one."
    def drawn(stop=None, path=None):
        net, seen = network(), []
        def loss(batch):
            if len(seen) == stop: raise KeyboardInterrupt
            seen.append(torch.rand(1).item())
            return sum(net(x).square().sum() for x in batch), len(batch)
        try: train({"net": net}, [torch.ones(3)] * 4, loss, epochs=3, batch_size=2, checkpoint=path, save_seconds=0)
        except KeyboardInterrupt: pass
        return seen

    whole = drawn()
    assert len(set(whole)) == 6
    assert drawn(3, tmp_path / "run.safetensors") + drawn(None, tmp_path / "run.safetensors") == whole


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_other_systems_have_no_such_call(monkeypatch, error):
    def refuse(name): raise error(name)
    monkeypatch.setattr(training.ctypes, "CDLL", refuse)
    training.free_memory()


@pytest.mark.parametrize("workers, calls", [(0, 0), (1, 8)])
def test_a_training_that_streams_frees_memory_after_each_step(monkeypatch, workers, calls):
    seen = []
    monkeypatch.setattr(training, "free_memory", lambda: seen.append(1))
    run(None, 2, workers=workers)
    assert len(seen) == calls
