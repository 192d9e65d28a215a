"""The runner of notebooks and the summary of `make test`: what fails is named and counted, and nothing is run twice."""
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

CI = Path(__file__).parents[1] / ".ci"


def python(script, *arguments):
    return subprocess.run([sys.executable, CI / script, *arguments], capture_output=True, text=True, timeout=240)


def page(path, source):
    "A notebook of one cell, which notes that it was run in the file beside it."
    note = f"open({path.name + '.runs'!r}, 'a').write('x')\nimport tempfile\nopen('temporary', 'w').write(tempfile.mkdtemp())\n"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(note + source)]), path)
    return path


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    "A page that runs and one that fails; beside them the results of a part that passed."
    folder = tmp_path_factory.mktemp("ci")
    pages = page(folder / "good.ipynb", "1 + 1"), page(folder / "bad.ipynb", "print('\\x1b[31mred')\nassert 1 + 1 == 3, 'arithmetic'")
    done = python("notebooks.py", "--results", folder / "results/notebooks.xml", *pages)
    (folder / "results/unit.xml").write_text('<testsuites><testsuite time="90"><testcase classname="a" name="b" time="1"/>'
                                             '<testcase name="c" time="0"><skipped/></testcase></testsuite></testsuites>')
    return folder, done


def test_each_notebook_runs_once_and_stays_as_it_is(outcome):
    folder, done = outcome
    assert done.returncode == 1 and done.stdout.count("passed") == 1 and "AssertionError: arithmetic" in done.stdout
    for name in "good", "bad":
        assert (folder / f"{name}.ipynb.runs").read_text() == "x"
        assert not nbformat.read(folder / f"{name}.ipynb", as_version=4).cells[0].outputs


def test_what_a_notebook_writes_to_temporary_files_is_gone_after_it(outcome):
    written = Path((outcome[0] / "temporary").read_text())
    assert not written.exists() and not written.parent.exists() and written.parent.name.startswith("notebook-")


def test_a_full_disk_is_told(monkeypatch, capsys):
    monkeypatch.syspath_prepend(CI)
    import versions
    versions.table("newest")
    assert "GB free\n" in capsys.readouterr().out or versions.shutil.disk_usage(versions.tempfile.gettempdir()).free < 3e9
    monkeypatch.setattr(versions.shutil, "disk_usage", lambda folder: type("usage", (), {"free": 1e9}))
    versions.table("newest")
    assert "1 GB free. The tests need 3: set TMPDIR" in capsys.readouterr().out


def test_summary_counts_all_parts_and_names_what_failed(outcome):
    folder, _ = outcome
    done = python("summary.py", folder / "results", "notebooks", "unit")
    assert done.returncode == 1 and done.stdout.splitlines()[-1] == "2 passed, 1 failed, 1 skipped"
    assert "bad.ipynb" in done.stdout.split("failed\n")[-1] and "AssertionError: arithmetic" in done.stdout
    assert "slowest notebooks" in done.stdout and "1.5 minutes, 1 passed, 1 skipped" in done.stdout


def test_a_part_that_did_not_end_has_failed(outcome):
    folder, _ = outcome
    done = python("summary.py", folder / "results", "unit", "browser")
    assert done.returncode == 1 and "browser: browser" in done.stdout and done.stdout.endswith("\n1 passed, 1 failed, 1 skipped\n")
    done = python("summary.py", folder / "results", "unit")
    assert done.returncode == 0 and done.stdout.endswith("\n1 passed, 0 failed, 1 skipped\n")


def test_a_kernel_that_does_not_start_is_tried_once_more(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(CI)
    import notebooks
    stub = tmp_path / "stub.py"
    stub.write_text(f"import sys\nopen(sys.argv[2] + '.tries', 'a').write('x')\nsys.exit({notebooks.NOT_STARTED})")
    monkeypatch.setattr(notebooks, "__file__", str(stub))
    seconds, wrong = notebooks.run(tmp_path / "any.ipynb")
    assert "did not start" in wrong and (tmp_path / "any.ipynb.tries").read_text() == "xx"


@pytest.mark.parametrize("kind", ["oldest", "colab"])
def test_versions_are_pinned(kind):
    pins = dict(line.replace("==", "<=").split("<=") for line in python("versions.py", "pins", kind).stdout.split())
    if kind == "oldest":
        from configparser import ConfigParser
        ini = ConfigParser(delimiters=["="])
        ini.read(CI.parent / "settings.ini", encoding="utf8")
        bounds = ini["DEFAULT"]["requirements"].split()
        assert all(">=" in bound for bound in bounds) and pins.items() >= dict(bound.split(">=") for bound in bounds).items()
    else: assert pins["torch"] == "2.11.0" and "plotly" not in pins   # we ask for a newer plotly than Colab has
    assert Path(python("versions.py", "python", kind).stdout.strip()).exists()
