"""Run notebooks, each once and in a kernel of its own, and say how long each took.

    python .ci/notebooks.py [--jobs 2] [--results FILE] [nbs/scoring/01_aupro.ipynb ...]

Without names all of nbs/ is run. A notebook fails where a cell raises, or after LIMIT seconds. A kernel that does not
start within START seconds is tried once more; nothing else is. The notebooks' files stay as they are. Each has a folder
of its own for temporary files, removed after it, so that a run takes little of the disk. `--results` names a file for
the outcome, in the format of pytest's --junitxml.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
LIMIT, START = 300, 45
NOT_STARTED = 75   # the exit code for it


def execute(path: Path):
    "Run one notebook in this process, in its own folder; leaves the process with an exit code."
    import nbformat
    from nbclient import NotebookClient
    started = []
    client = NotebookClient(nbformat.read(path, as_version=4), timeout=LIMIT, startup_timeout=START,
                            resources={"metadata": {"path": str(path.parent)}},
                            on_notebook_start=lambda **_: started.append(True))
    try:
        client.execute()
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}" if started else NOT_STARTED)


def run(path: Path, again: bool = True) -> tuple[float, str]:
    "Seconds that a notebook took, and what went wrong ('': nothing)."
    start, wrong = time.time(), ""
    try:   # a process of its own for each, since a hanging kernel then ends with it
        with tempfile.TemporaryDirectory(prefix="notebook-", ignore_cleanup_errors=True) as scratch:
            done = subprocess.run([sys.executable, __file__, "--one", path], capture_output=True, text=True,
                                  timeout=LIMIT + START, env=os.environ | {"TMPDIR": scratch})
        if done.returncode == NOT_STARTED:
            if again: return run(path, again=False)
            wrong = f"the kernel did not start within {START} seconds, twice"
        elif done.returncode:
            wrong = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr).strip() or f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        wrong = f"not done after {LIMIT + START} seconds"
    return time.time() - start, wrong


def as_junit(outcomes: dict, seconds: float) -> ElementTree.ElementTree:
    "What summary.py reads: one test case for each notebook."
    suite = ElementTree.Element("testsuite", name="notebooks", time=f"{seconds:.1f}")
    for name, (took, wrong) in outcomes.items():
        case = ElementTree.SubElement(suite, "testcase", name=name, time=f"{took:.1f}")
        if wrong: ElementTree.SubElement(case, "failure", message=wrong.splitlines()[-1]).text = printable(wrong)
    return ElementTree.ElementTree(suite)


def printable(text: str) -> str:
    "Without the control characters that XML does not allow."
    return re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd]", "", text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("notebooks", nargs="*", type=Path)
    given = parser.parse_args()
    if given.one: return execute(given.notebooks[0])

    paths = given.notebooks or sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    start, outcomes = time.time(), {}

    def one(path):
        name = os.path.relpath(path, ROOT)
        took, wrong = outcomes[name] = run(path)
        print(f"{'FAILED' if wrong else 'passed'} {took:4.0f} s  {name}", *wrong.splitlines()[-40:], sep="\n    ", flush=True)

    with ThreadPoolExecutor(given.jobs) as pool: list(pool.map(one, paths))
    if given.results:
        given.results.parent.mkdir(parents=True, exist_ok=True)
        as_junit(outcomes, time.time() - start).write(given.results)
    sys.exit(any(wrong for _, wrong in outcomes.values()))


if __name__ == "__main__":
    main()
