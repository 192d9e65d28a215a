"""Shared by the benchmarks: run things in turn (A B A B), time them, watch their memory, print a table and the goal lines.

    from harness import alternate, alternate_commands, goal, medians, table
    runs = alternate({"ours": ours, "plain": plain}, repeats=5)              # callables in this process
    runs = alternate_commands({"ours": ["python", "a.py"], "peer": [...]})   # whole processes: seconds and peak memory
    table(runs)
    goal("fps", medians(runs)["plain"].seconds / medians(runs)["ours"].seconds, wanted=10)
"""
import gc
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Mapping, NamedTuple, Sequence


class Run(NamedTuple):
    seconds: float  # wall time
    peak: float     # MiB: growth of resident memory for a callable, whole process for a command; NaN where unknown
    output: str = ""  # what a command wrote on stdout


def _status(pid: int | str, field: str) -> float:
    "One memory line of Linux' /proc/PID/status in MiB; NaN where there is none (other systems, ended processes)."
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    except OSError:
        found = None
    return int(found[1]) / 1024 if found else float("nan")


def _forget_peak() -> None:
    "Set this process' high-water mark back to what it holds now (Linux only)."
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def run_callable(function: Callable[[], object]) -> Run:
    "Time one call and the memory it took on top of what was held before."
    gc.collect()
    _forget_peak()
    before, start = _status("self", "VmRSS"), time.perf_counter()
    function()
    return Run(time.perf_counter() - start, _status("self", "VmHWM") - before)


def run_command(command: Sequence[str], timeout: float = 600, env: Mapping[str, str] | None = None) -> Run:
    "Run one command to its end: wall time and its own peak resident memory. Raises with its error text if it fails."
    # ru_maxrss would also count what the *parent* held when it forked, so the child's own VmHWM is polled instead.
    start, peak = time.perf_counter(), float("nan")
    process = subprocess.Popen(list(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, **(env or {})})
    while True:
        try:
            output, errors = process.communicate(timeout=0.01)
            break
        except subprocess.TimeoutExpired:
            now = _status(process.pid, "VmHWM")
            peak = now if now == now else peak
            if time.perf_counter() - start > timeout:
                process.kill()
                process.communicate()
                raise TimeoutError(f"{' '.join(command)}: not done after {timeout:.0f} s") from None
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: ended with {process.returncode}\n{errors[-3000:]}")
    return Run(time.perf_counter() - start, peak, output)


def _in_turn(jobs: Mapping[str, Callable[[], Run]], repeats: int) -> dict[str, list[Run]]:
    runs = {name: [] for name in jobs}
    for turn in range(repeats):
        for name, job in jobs.items():
            if sys.stderr.isatty():
                print(f"\r{turn + 1}/{repeats} {name:30s}", end="", file=sys.stderr)
            runs[name].append(job())
    if sys.stderr.isatty():
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    return runs


def alternate(functions: Mapping[str, Callable[[], object]], repeats: int = 5, warmup: int = 1) -> dict[str, list[Run]]:
    "Run callables of this process in turn, A B A B ..., after `warmup` unmeasured rounds."
    for _ in range(warmup):
        for function in functions.values():
            function()
    return _in_turn({name: (lambda f=f: run_callable(f)) for name, f in functions.items()}, repeats)


def alternate_commands(commands: Mapping[str, Sequence[str]], repeats: int = 3, timeout: float = 600,
                       env: Mapping[str, str] | None = None) -> dict[str, list[Run]]:
    "Run whole processes in turn, A B A B ...: start-up included, peak memory of the process."
    return _in_turn({name: (lambda c=c: run_command(c, timeout, env)) for name, c in commands.items()}, repeats)


def medians(runs: Mapping[str, Sequence[Run]]) -> dict[str, Run]:
    "The median seconds and the median peak of each entry."
    return {name: Run(statistics.median(r.seconds for r in rs), statistics.median(r.peak for r in rs))
            for name, rs in runs.items()}


def table(runs: Mapping[str, Sequence[Run]], title: str = "") -> None:
    "Print medians, the spread of the times, and each time as a multiple of the first entry."
    middle = medians(runs)
    width = max(len(name) for name in [*runs, title])
    first = next(iter(middle.values())).seconds
    print(f"\n{title:{width}s}  {'median s':>10s}  {'min .. max s':>19s}  {'peak MiB':>9s}  {'times':>7s}")
    for name, run in middle.items():
        seconds = [r.seconds for r in runs[name]]
        print(f"{name:{width}s}  {run.seconds:10.4f}  {min(seconds):8.4f} .. {max(seconds):7.4f}"
              f"  {run.peak:9.1f}  {run.seconds / first:6.2f}x")


def goal(name: str, measured: float, wanted: float | None = None, unit: str = "x") -> bool:
    "Print one goal line; True if it is met (or if no number was asked for)."
    asked = "" if wanted is None else f", wanted {wanted:g}{unit}"
    print(f"goal {name}: measured {measured:.1f}{unit}{asked}")
    return wanted is None or measured >= wanted
