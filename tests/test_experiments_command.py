"""`mmad` as users call it: a process of its own, exit codes, one sentence on stderr; killed in the middle and resumed to the same table."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mmad_nb
from mmad_nb.experiments import command
from mmad_nb.experiments.command import COMMANDS, copy_notebooks, look_at_hub, look_at_versions, main

ROOT = Path(__file__).parents[1]
MMAD = [sys.executable, "-m", "mmad_nb.experiments.command"]
ENV = os.environ | {"CI": "true", "PYTHONPATH": str(Path(mmad_nb.__file__).parents[1])}


def mmad(*words, cwd, **how):
    return subprocess.run([*MMAD, *map(str, words)], cwd=cwd, env=ENV, capture_output=True, text=True, timeout=240, **how)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "A forged data set, made by the command."
    folder = tmp_path_factory.mktemp("command")
    done = mmad("forge", "data", "--categories", "bagel,gear,carrot", "--train", 2, "--validation", "good=1", "--test", "good=1,dent=1,stain=1",
                "--size", 112, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "data").glob("*/test/dent/gt/000.png"))) == 3
    return folder / "data"


EVALUATE = ("evaluate", "--protocol", "per-class", "--detector", "cfm", "--seeds", "0,1", "--size", 112, "--device", "cpu",
            "--options", "epochs=3,blocks=4,pixels=64")


def test_killed_once_and_resumed_to_the_same_table(data, tmp_path):
    whole = mmad(*EVALUATE, "--data", data, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr[-2000:]
    assert "rule exact" in whole.stdout and "carrot" in whole.stdout
    study = tmp_path / "cut/cfm-per-class-mvtec.json"
    process = subprocess.Popen([*MMAD, *map(str, EVALUATE), "--data", str(data), "--out", "cut"], cwd=tmp_path, env=ENV,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if study.exists() and json.loads(study.read_text())["records"]: break
        time.sleep(.01)
    process.kill()                                       # SIGKILL: no handler runs
    assert process.wait() == -9, "it had ended before it could be killed"
    begun = json.loads(study.read_text())["records"]
    assert 1 <= len(begun) < 6
    resumed = mmad(*EVALUATE, "--data", data, "--out", "cut", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert resumed.stdout.replace("cut/", "whole/") == whole.stdout
    assert json.loads(study.read_text())["records"][:len(begun)] == begun        # not measured again
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir())


def test_two_processes_of_a_launch_share_the_work(data, tmp_path):
    words = [*map(str, EVALUATE), "--protocol", "unified", "--seeds", "0", "--data", str(data)]
    one = mmad(*words, "--out", "one", cwd=tmp_path)
    assert one.returncode == 0, one.stderr[-2000:]
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "mmad_nb.experiments.command",
                           *words, "--out", "two"], cwd=tmp_path, env=ENV | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("rule exact") == 1                                          # only one process prints
    records = [json.loads((tmp_path / out / "cfm-unified-mvtec.json").read_text())["records"] for out in ("one", "two")]
    assert [r["category"] for r in records[1]] == [r["category"] for r in records[0]] == ["bagel", "carrot", "gear"]
    for alone, shared in zip(*records):
        assert alone["metrics"]["exact"]["pixel_auroc"] == pytest.approx(shared["metrics"]["exact"]["pixel_auroc"], abs=.01)


def test_tables_stand_beside_what_was_measured(data, tmp_path):
    done = mmad("evaluate", "--data", data, "--size", 112, "--device", "cpu", "--options", "epochs=1,blocks=4,pixels=64", "--rule", "release", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    done = mmad("tables", "--paper", "text_guided", "--save", "tables", cwd=tmp_path)
    assert done.returncode == 0 and "| forged gear |" in done.stdout and "Eyecandies" not in done.stdout
    study = json.loads((tmp_path / "results/cfm-unified-mvtec.json").read_text())
    [gear] = [record["metrics"]["release"] for record in study["records"] if record["category"] == "gear"]
    table = (tmp_path / "tables/text_guided-I-mvtec.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| forged gear |"))
    assert f"{100 * gear['image_auroc']:.1f}/{100 * gear['aupro@30']:.1f}" in row


@pytest.mark.parametrize("words, says", [
    ((), "no command"),
    (("evalaute",), "Did you mean 'evaluate'"),
    (("evaluate",), "--data"),
    (("evaluate", "--data", "nowhere"), "nowhere: found no such folder"),
    (("evaluate", "--data", "DATA", "--detektor", "cfm"), "Did you mean '--detector'"),
    (("evaluate", "--data", "DATA", "cfm"), "'cfm', which belongs to no option"),
    (("evaluate", "--data", "DATA", "--detector", "cmf"), "Did you mean 'cfm'"),
    (("evaluate", "--data", "DATA", "--protocol", "one-vs-rest"), "learns from good samples"),
    (("evaluate", "--data", "DATA", "--protocol", "few-shot", "--shots", "9"), "found 2 good samples"),
    (("evaluate", "--data", "DATA", "--protocol", "fewshot"), "Did you mean 'few-shot'"),
    (("evaluate", "--data", "DATA", "--encoders", "large"), "tiny"),
    (("evaluate", "--data", "DATA", "--seeds", "0;1"), "whole numbers"),
    (("evaluate", "--data", "DATA", "--seeds", ""), "seeds"),
    (("evaluate", "--data", "DATA", "--size", "7"), "from 16 to 4096"),
    (("evaluate", "--data", "DATA", "--size", "big"), "invalid int value"),
    (("evaluate", "--data", "DATA", "--device", "tpu9"), "'cpu', 'cuda'"),
    (("evaluate", "--data", "DATA", "--categories", "begel"), "Did you mean 'bagel'"),
    (("evaluate", "--data", "DATA", "--options", "epoch=3"), "Did you mean 'epochs'"),
    (("evaluate", "--data", "DATA", "--options", "epochs"), "epochs=VALUE"),
    (("evaluate", "--data", "DATA", "--weights", "alpha=7"), "alpha"),
    (("evaluate", "--data", "DATA", "--rule", "legacy"), "Did you mean 'legacy-99'"),
    (("evaluate", "--data", "DATA", "--out", "DATA/manifest.json"), "which is a file"),
    (("evaluate", "--data", "DATA/bagel"), "one folder per category"),
    (("tables", "--paper", "nobody"), "text_guided"),
    (("forge", "there", "--level", "impossible"), "standard"),
    (("forge", "there", "--categories", "gaer"), "Did you mean 'gear'"),
    (("forge", "there", "--train", "-1"), "at least 1"),
    (("lab", "--folder", "DATA/manifest.json"), "which is a file"),
    (("doctor", "--quick"), "option '--quick'"),
])
def test_a_wrong_argument_is_answered_by_one_sentence(words, says, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = main([word.replace("DATA", str(data)) for word in words])
    printed = capsys.readouterr()
    assert code == 2 and says in printed.err and "Traceback" not in printed.err, printed.err
    assert len([line for line in printed.err.splitlines() if "|" not in line]) == 1      # progress bars aside
    assert not list(tmp_path.rglob("*.json"))                                          # nothing was begun


def test_no_traceback_from_a_process(tmp_path):
    done = mmad("evaluate", "--data", "nowhere", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("nowhere: found no such folder; expected")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    options = [line for line in text.split("options:")[1].splitlines() if line.startswith("  --")]
    assert len(options) == len(command.inspect.signature(COMMANDS[name]).parameters) - len(command.positional(COMMANDS[name]))
    parser = command.parser_of(COMMANDS[name], name)
    assert all(action.help for action in parser._actions)


def test_doctor_reports_and_never_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MMAD_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(command, "look_at_machine", lambda: 1 / 0)
    start = time.monotonic()
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert time.monotonic() - start < 60
    assert "could not be looked at: ZeroDivisionError" in text and "weights of tiny_vit" in text and "torch: " in text
    assert f"put it at {tmp_path / 'cache'}" in text                                     # the advice names the user's own cache


def test_the_hub_is_asked_for_a_bounded_time(monkeypatch):
    import socket
    from huggingface_hub import constants
    with socket.socket() as silent:                                                      # takes the call and never answers
        silent.bind(("127.0.0.1", 0)); silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        start = time.monotonic()
        [finding] = look_at_hub(seconds=1)
        assert time.monotonic() - start < 4 and not finding.ok and "no answer within 1 s" in finding.text


def test_versions_that_are_too_old_are_named():
    ours, too_new, absent = look_at_versions(["pytest>=1", "pytest>=999", "surely_not_installed"])[1:]
    assert ours.ok and not too_new.ok and "pip install -U 'pytest>=999'" in too_new.text and not absent.ok


def test_notebooks_are_copied_and_never_overwritten(tmp_path, capsys):
    assert main(["lab", "--folder", str(tmp_path / "mine"), "--copy_only"]) == 0
    (tmp_path / "mine/00_tour.ipynb").write_text("mine")
    (tmp_path / "mine/scoring/02_fusion.ipynb").unlink()
    assert main(["lab", "--folder", str(tmp_path / "mine"), "--copy-only"]) == 0
    assert "1 notebooks copied" in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "mine/00_tour.ipynb").read_text() == "mine" and (tmp_path / "mine/scoring/02_fusion.ipynb").exists()
    assert copy_notebooks(tmp_path / "mine")[0] == []


def test_lab_opens_jupyterlab_in_the_copy(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(command.subprocess, "run", lambda words, cwd: started.append((words, cwd)))
    monkeypatch.setattr(command.metadata, "version", lambda name: "4")
    assert main(["lab", "--folder", str(tmp_path / "mine")]) == 0
    [(words, cwd)] = started
    assert words[1:3] == ["-m", "jupyterlab"] and cwd == tmp_path / "mine" and (cwd / words[-1]).exists()
