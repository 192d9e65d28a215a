"""The lab in a real browser: how long a key press takes to reach picture and numbers, and whether anything stays empty.

    python benchmarks/lab_browser.py speed               # 11, 100 and 300 samples: medians of 20 key presses
    python benchmarks/lab_browser.py displays --count 20 # so many labs, explorers, pickers and tours; how many plots stayed empty
    python benchmarks/lab_browser.py memory              # the kernel's memory after 500 moves and 20 labs opened and closed
        --busy 10                                # beside so many busy loops

JupyterLab's default settings, Chromium without a window. Beside other work the times are upper bounds.
"""
import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from harness import goal

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from test_browser import CELLS, SESSION, browser_page, jupyterlab, run_notebook, scroll_to, wait_for   # noqa: E402

MANY = """import torch
from dataclasses import replace
from mmad_nb.data import MVTec3D
from mmad_nb.detectors import Components, create_detector
from mmad_nb.forge import sample_data
from mmad_nb.lab import AblationLab, Explorer
test = list(MVTec3D(sample_data(), "gear", "test"))
detector = create_detector("cfm", epochs=2, device="cpu").fit(MVTec3D(sample_data(), "gear", "train"))
parts = detector.components(test)
pick = [i % len(test) for i in range({count})]
samples = [replace(test[i], id=f"{{test[i].id}}-{{n}}") for n, i in enumerate(pick)]
noise = 1 + .01 * torch.rand(len(pick), 1, 1)                  # so that no two have one score
parts = Components({{name: maps[pick] * noise for name, maps in parts.maps.items()}}, parts.valid[pick], [s.id for s in samples])"""
# kind -> (what shows it, its map, its weights, a canvas of it)
TIMED = {"lab": ("display(AblationLab(detector, samples, parts))", ".mmad-map", ".mmad-weights", ".mmad-cloud canvas"),
         "explorer": ("display(Explorer(detector, (detector, {'alpha': .2}), samples, {detector: parts}))",
                      ".mmad-left-map", ".mmad-left-weights", ".mmad-left-cloud canvas")}
WATCH = """() => { window.seen = []; let start = 0;
  window.addEventListener('keydown', () => { start = performance.now(); }, true);
  const note = what => window.seen.push([what, performance.now() - start]);
  document.querySelector('MAP').addEventListener('load', () => requestAnimationFrame(() => note('map')));
  new MutationObserver(() => note('metrics')).observe(document.querySelector('.mmad-metrics'), {childList: true, subtree: true}); }"""
EMPTY = """() => { const seen = what => Array.from(document.querySelectorAll(what)).filter(e => e.offsetParent);   // not those of a closed tab
  return {charts: seen('.mmad-chart').map(c => c.querySelectorAll('svg text').length),
  plots: seen('.js-plotly-plot').map(p => p.data ? p.data.length : 0),
  clouds: seen('[class*="mmad-"][class*="cloud"]').map(c => c.querySelectorAll('canvas').length),
  pictures: seen('.widget-image').map(i => i.naturalWidth)}; }"""
MAKE = """from mmad_nb.data import MVTec3D
from mmad_nb.detectors import create_detector
from mmad_nb.forge import sample_data
from mmad_nb.lab import AblationLab, Explorer
from mmad_nb.lab.picking import PointPicker
samples = list(MVTec3D(sample_data(), "gear", "test"))
detector = create_detector("memory_bank", device="cpu").fit([s for s in samples if not s.anomalous])
parts = detector.components(samples)"""
ON_A_PAGE = {"lab": 5, "explorer": 5, "picker": 10}        # a browser has sixteen WebGL canvases; an explorer needs three
KINDS = {"lab": "display(AblationLab(detector, samples, parts))", "explorer": "display(Explorer(detector, (detector, {}), samples, {detector: parts}))",
         "picker": "display(PointPicker(samples[0], detector.fuse(parts)[0]))"}


def spin():
    while True: pass


@contextmanager
def busy(count):
    "So many processes that do nothing, all the time."
    loops = [multiprocessing.Process(target=spin, daemon=True) for _ in range(count)]
    for loop in loops: loop.start()
    try: yield
    finally:
        for loop in loops: loop.kill()


@contextmanager
def page_with(cells, height=1000):
    "A browser on a notebook of these cells; gives the page, and a function that opens it and runs it all."
    folder = Path(tempfile.mkdtemp())
    (folder / "work").mkdir()
    cells = [{"cell_type": "code", "execution_count": None, "id": f"cell{n}", "metadata": {}, "outputs": [], "source": s} for n, s in enumerate(cells)]
    kernel = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}
    (folder / "work/page.ipynb").write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    try:
        with jupyterlab(folder) as (address, token), browser_page(height) as page:
            yield page, lambda: run_notebook(page, address, token, "page.ipynb", 600)
    finally: shutil.rmtree(folder, ignore_errors=True)


def speed(loops, only):
    "Times from key to picture and numbers."
    show, image, weights, canvas = TIMED[only]
    print(only)
    print("samples   picture: median, slowest   numbers: median, slowest   20 quick presses settle after")
    wanted, goals = {11: (150, 250), 100: (200, 300), 300: (250, 900)}, []
    for count, most_of in wanted.items():
        with page_with([MANY.format(count=count), show]) as (page, run):
            run()
            scroll_to(page, show)
            page.locator(canvas).first.wait_for(timeout=60_000)
            page.wait_for_timeout(4000)
            page.evaluate(WATCH.replace("MAP", image))
            page.locator(f"{weights} .noUi-handle").first.focus()
            with busy(loops):
                seen = {"map": [], "metrics": []}
                for k in range(20):
                    page.evaluate("() => { window.seen.length = 0; }")
                    page.keyboard.press("ArrowRight" if k % 20 < 10 else "ArrowLeft")
                    page.wait_for_function("() => ['map', 'metrics'].every(what => window.seen.some(([name]) => name === what))", timeout=60_000)
                    for name, ms in page.evaluate("() => window.seen")[::-1]: seen[name].append(ms) if len(seen[name]) <= k else None
                    page.wait_for_timeout(300)
                page.evaluate("() => { window.seen.length = 0; }")
                for k in range(20): page.keyboard.press("ArrowRight")
                page.wait_for_timeout(6000)
                settled = max(ms for name, ms in page.evaluate("() => window.seen") if name == "metrics")
            middle = {name: np.median(times) for name, times in seen.items()}
            print(f"{count:7}   {middle['map']:14.0f} {max(seen['map']):9.0f}   {middle['metrics']:14.0f} {max(seen['metrics']):9.0f}   {settled:10.0f} ms", flush=True)
            goals += [(f"{only}-{what}-{count}", middle[name], most) for (name, what), most in zip((("map", "picture"), ("metrics", "numbers")), most_of)]
    for name, value, most in goals: goal(name, value, wanted=most, unit=" ms (less is better)")


def displays(count, loops, only):
    "Open each kind of panel so often; what stays empty?"
    print("panel       shown   parts of it   empty   console errors", flush=True)
    for kind, show in KINDS.items():
        if only and kind != only: continue
        shown = parts = empty = errors = 0
        while shown < count:
            some = min(ON_A_PAGE[kind], count - shown)       # then a fresh page
            with busy(loops), page_with([MAKE, *[show] * some], 1400 * some) as (page, run):
                run()
                page.wait_for_timeout(3000)
                whole = lambda found: all(n > 0 for values in found.values() for n in values)
                start = time.time()
                try: wait_for(lambda: whole(page.evaluate(EMPTY)), 240)
                except TimeoutError: print(page.evaluate(EMPTY), page.errors[:3], flush=True)
                found = page.evaluate(EMPTY)
                print(f"  {kind}: {some} on a page, whole {time.time() - start:.0f} s after the last cell", flush=True)
                parts += sum(map(len, found.values()))
                empty += sum(n == 0 for values in found.values() for n in values)
                errors += len(page.errors)
            shown += some
        print(f"{kind:10} {shown:6} {parts:13} {empty:7} {errors:16}", flush=True)
    shown = parts = empty = errors = 0
    while shown < count and only in (None, "tour"):
        folder = Path(tempfile.mkdtemp())
        (folder / "work").mkdir()
        shutil.copy(ROOT / "nbs/00_tour.ipynb", folder / "work/tour.ipynb")
        with busy(loops), jupyterlab(folder) as (address, token), browser_page(8000) as page:
            run_notebook(page, address, token, "tour.ipynb", 900)
            page.wait_for_timeout(5000)
            found = page.evaluate(EMPTY)
            parts += sum(map(len, found.values()))
            empty += sum(n == 0 for values in found.values() for n in values)
            page_errors = page.errors[:3]
            errors += len(page.errors)
        shutil.rmtree(folder, ignore_errors=True)
        shown += 1
        print(f"  tour {shown}: {found}, {page_errors}", flush=True)
    if shown: print(f"{'tour':10} {shown:6} {parts:13} {empty:7} {errors:16}", flush=True)


def memory():
    "Megabytes of this process after moves and after labs that were closed; widgets that are left."
    import ctypes
    import gc
    import ipywidgets as W
    import psutil
    libc = ctypes.CDLL(None)
    space = {}
    exec(MANY.format(count=100), space)
    lab_of = lambda: space["AblationLab"](space["detector"], space["samples"], space["parts"])

    def held():
        time.sleep(3)                                             # sweeps that were stopped let go of what they hold
        gc.collect()
        if hasattr(libc, "malloc_trim"): libc.malloc_trim(0)     # what is free goes back to the system, so that it is not counted
        return psutil.Process().memory_info().rss / 2**20
    count = lambda: len(getattr(W.widgets.widget, "_instances", {}))
    lab = lab_of()
    for n in range(50): lab.set(alpha=n / 50)                     # what is made once is made
    before, widgets = held(), count()
    for n in range(500): lab.set(alpha=n % 100 / 100)
    moved = held()
    for _ in range(20):
        other = lab_of()
        other.set(alpha=.3)
        other.close()
    del other
    print(f"100 samples: {before:.0f} MiB; after 500 moves {moved:.0f}; after 20 labs opened and closed {held():.0f}; widgets {widgets}, then {count()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "displays", "memory"))
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--only", choices=(*KINDS, "tour"), help="displays of one kind; speed of the lab or of the explorer")
    given = parser.parse_args()
    {"speed": lambda: speed(given.busy, given.only or "lab"), "displays": lambda: displays(given.count, given.busy, given.only), "memory": memory}[given.what]()
