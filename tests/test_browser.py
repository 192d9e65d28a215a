"""The ablation lab in a real browser: JupyterLab, Chromium, a key press, a drag, and what a person would see of it.

Skipped where there is no Chromium, except in CI, where it fails: nobody would notice a widget that no longer shows.
The pictures it takes lie in a temporary folder, whose path is printed (pytest -s shows it).
"""
import io
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

NOTEBOOK = Path(__file__).parents[1] / "nbs/lab/05_ablation.ipynb"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NOISE = ("GPU stall due to ReadPixels",        # software rendering says so about every WebGL canvas
         "net::ERR_UNKNOWN_URL_SCHEME")        # JupyterLab asks for `attachment:...` before it puts the picture there itself
HERE = "http://127.0.0.1", "data:", "blob:", "https://colab.research.google.com/assets/colab-badge.svg"   # the badge is answered by the test
SETTINGS = {"@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}   # all else as it comes


@contextmanager
def hard_limit(seconds):
    "Raise TimeoutError in the block after so many seconds, whatever it waits for."
    def stop(*_): raise TimeoutError(f"not done within {seconds} s")
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try: yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def jupyterlab(folder):
    "A JupyterLab of its own on 127.0.0.1 that serves `folder`/work; gives (address, token)."
    for path, value in SETTINGS.items():
        file = folder / "settings" / f"{path}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    places = {f"JUPYTER_{what}_DIR": "config data runtime".split()[i] for i, what in enumerate(("CONFIG", "DATA", "RUNTIME"))}
    places |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython"}
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **{name: str(folder / place) for name, place in places.items()}}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser", "--ip=127.0.0.1", f"--port={port}",
         "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'work'}"],
        env=environment, start_new_session=True,
        stdout=open(folder / "server.log", "wb"), stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{address}/api/status?token={token}"), 120, lambda: (folder / "server.log").read_text()[-2000:])
        yield address, token
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try: server.wait(10)
        except subprocess.TimeoutExpired: os.killpg(server.pid, signal.SIGKILL)


def answers(address):
    try: return urlopen(address, timeout=2).status == 200
    except (URLError, OSError): return False


def wait_for(condition, seconds, report=lambda: ""):
    "Ask until `condition()` is true."
    end = time.time() + seconds
    while not condition():
        if time.time() > end: raise TimeoutError(f"not within {seconds} s; {report()}")
        time.sleep(0.3)


@contextmanager
def browser_page(height=1000):
    "A page in a headless Chromium; `page.errors` collects what a console would show in red, `page.outside` requests that leave this machine."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"])
        try:
            page = browser.new_page(viewport={"width": 1280, "height": height})
            page.set_default_timeout(60_000)   # frames may be seconds apart on a busy machine
            page.errors, page.outside = [], []
            page.route("https://colab.research.google.com/**/*.svg", lambda route: route.fulfill(body="<svg xmlns='http://www.w3.org/2000/svg'/>", content_type="image/svg+xml"))
            page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" and not any(n in m.text for n in NOISE) else None)
            page.on("pageerror", lambda e: page.errors.append(str(e)))
            page.on("request", lambda r: page.outside.append(r.url) if not r.url.startswith(HERE) else None)
            yield page
        finally: browser.close()


SESSION = "jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"
CELLS = """() => { const cells = jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code' && c.model.sharedModel.source.trim());
  const outputs = cells.flatMap(c => Array.from({length: c.model.outputs.length}, (_, i) => c.model.outputs.get(i)));
  const error = outputs.find(o => o.type === 'error')?.toJSON();
  return {total: cells.length, done: cells.filter(c => c.model.executionCount !== null && c.model.executionState !== 'running').length,
          error: error ? error.ename + ': ' + error.evalue : null}; }"""


def run_notebook(page, address, token, name, seconds=350):
    "Open notebook `name`, run all of its cells; gives the seconds that this took. Raises what a cell raised."
    page.goto(f"{address}/lab/tree/{name}?token={token}")
    # A command sent before the kernel's websocket is connected is lost without a word.
    page.wait_for_function(f"() => window.jupyterapp && {SESSION}?.connectionStatus === 'connected' && {SESSION}?.status === 'idle'", timeout=60_000)
    page.evaluate("() => { jupyterapp.shell.collapseLeft(); jupyterapp.shell.collapseRight?.(); }")
    start, state = time.time(), {}
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")

    def finished():
        state.update(page.evaluate(CELLS))
        if state["error"]: raise AssertionError(f"{name}: {state['error']}")
        return state["done"] == state["total"]
    wait_for(finished, seconds, lambda: f"{name}: {state}")
    return time.time() - start


def scroll_to(page, start):
    "Bring the last cell that begins with this line to the top, and wait until it stands still."
    page.evaluate("""async start => { const book = jupyterapp.shell.currentWidget.content;
      const i = book.widgets.findLastIndex(c => c.model.sharedModel.source.split('\\n').some(line => line.startsWith(start)));
      book.activeCellIndex = i; for (let k = 0; k < 4; k++) { await book.scrollToItem(i, 'start'); await new Promise(done => setTimeout(done, 400)); }
      book.widgets[i].node.querySelector('.jp-Cell-outputWrapper').scrollIntoView({block: 'start'}); }""", start)
    page.wait_for_timeout(1000)


def picture(locator):
    "A screenshot of one element as an array (H,W,3)."
    return np.asarray(Image.open(io.BytesIO(locator.screenshot(animations="disabled"))).convert("RGB"), dtype=np.int16)


def calm(locator):
    "The picture of an element once it stands still: two in a row agree."
    last = picture(locator)
    for _ in range(20):
        locator.page.wait_for_timeout(500)
        now = picture(locator)
        if now.shape == last.shape and changed(now, last) == 0: return now
        last = now
    raise TimeoutError("the page does not come to rest")


def changed(a, b):
    "The share of pixels that differ visibly."
    assert a.shape == b.shape, "nothing may change its size"
    return float((np.abs(a - b).max(-1) > 12).mean())


WATCH = """() => { window.seen = []; let start = 0;
  window.addEventListener('keydown', () => { start = performance.now(); }, true);
  const note = what => window.seen.push([what, performance.now() - start]);
  document.querySelector('.mmad-map').addEventListener('load', () => requestAnimationFrame(() => note('map')));
  new MutationObserver(() => note('metrics')).observe(document.querySelector('.mmad-metrics'), {childList: true, subtree: true}); }"""


@pytest.fixture(scope="module")
def needs_chromium():
    if CHROMIUM: return
    message = "no Chromium found: apt-get install chromium"
    pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)


def test_ablation_lab_in_a_browser(needs_chromium, tmp_path):
    (tmp_path / "work").mkdir()
    shutil.copy(NOTEBOOK, tmp_path / "work/lab.ipynb")
    with hard_limit(500), jupyterlab(tmp_path) as (address, token), browser_page() as page:
        print(f"\npictures in {tmp_path}; all cells run after {run_notebook(page, address, token, 'lab.ipynb'):.0f} s")
        image, cloud, metrics = page.locator(".mmad-map"), page.locator(".mmad-cloud canvas").first, page.locator(".mmad-metrics")
        handle = page.locator(".mmad-weights .noUi-handle").first
        scroll_to(page, "display(lab)")
        cloud.wait_for(timeout=60_000)
        page.wait_for_timeout(1500)   # k3d draws its first frames
        page.screenshot(path=tmp_path / "before.png")
        before, text = (picture(image), picture(cloud)), metrics.inner_text()

        page.evaluate(WATCH)
        handle.click()
        for _ in range(6):
            already = page.evaluate("() => window.seen.filter(([what]) => what === 'metrics').length")
            page.keyboard.press("PageUp")      # five steps
            page.wait_for_function(f"() => window.seen.filter(([what]) => what === 'metrics').length > {already}")
            page.wait_for_timeout(200)
        page.screenshot(path=tmp_path / "moved.png")
        after = picture(image), picture(cloud)
        assert metrics.inner_text() != text, "the metrics stayed as they were"
        assert changed(before[0], after[0]) > 0.005, "the map stayed as it was"
        assert changed(before[1], after[1]) > 0.0005, "the cloud stayed as it was"
        seen = page.evaluate("() => window.seen")
        for what in ("map", "metrics"):
            times = [ms for name, ms in seen if name == what]
            assert len(times) >= 3, f"{what}: {len(times)} repaints for 6 key presses"   # a busy machine may repaint several presses at once
            print(f"from key to new {what}: median {np.median(times):.0f} ms, slowest {max(times):.0f} ms")

        for menu in page.locator(".mmad-weights select").all():   # the other weights: choices
            map_before, text = picture(image), metrics.inner_text()
            menu.select_option(index=1)      # JupyterLab keeps the arrow keys of a menu for itself
            wait_for(lambda: metrics.inner_text() != text, 20, lambda: "the metrics stayed as they were")
            page.wait_for_timeout(500)
            assert changed(map_before, picture(image)) > 0.005, "the map stayed as it was"
            menu.select_option(index=0)
        after = picture(image), picture(cloud)
        page.locator(".mmad-color button", has_text="photo").click()
        page.wait_for_timeout(1500)
        page.screenshot(path=tmp_path / "photo.png")
        assert changed(after[1], picture(cloud)) > 0.02, "the cloud did not change its colours"
        after = picture(image), picture(cloud)

        box = cloud.bounding_box()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.6 * box["height"], steps=8)
        page.mouse.up()
        page.wait_for_timeout(700)
        page.screenshot(path=tmp_path / "turned.png")
        assert changed(after[1], picture(cloud)) > 0.02, "the cloud did not turn"
        plane = page.locator(".mmad-lab .mmad-chart rect").first            # a click on the curve moves the weight
        plane.scroll_into_view_if_needed()
        text, box = metrics.inner_text(), plane.bounding_box()
        page.mouse.click(box["x"] + .25 * box["width"], box["y"] + .5 * box["height"])
        value = page.locator(".mmad-weights .widget-readout").first
        wait_for(lambda: value.inner_text() == "0.25", 20, lambda: f"the weight is {value.inner_text()}")
        wait_for(lambda: metrics.inner_text() != text, 20, lambda: "the metrics stayed as they were")
        page.locator(".mmad-lab .lm-TabBar-tab", has_text="threshold").click()
        dots, menu = page.locator(".mmad-lab .mmad-chart g[role=button]"), page.locator(".mmad-lab select").first
        other = dots.first.get_attribute("aria-label")                       # and one on a dot chooses its sample
        dots.first.locator("path, circle").click()
        wait_for(lambda: dots.last.get_attribute("aria-label") == other, 20, lambda: f"{dots.last.get_attribute('aria-label')} is chosen, not {other}")
        assert menu.locator("option:checked").inner_text().replace("\xa0", " ") in other
        dots.first.focus(); chosen = dots.first.get_attribute("aria-label")
        assert chosen != other
        page.keyboard.press("Enter")
        wait_for(lambda: dots.last.get_attribute("aria-label") == chosen, 20, lambda: "the Enter key chose nothing")
        holds = "() => document.activeElement.getAttribute('aria-label')"    # the picture was drawn anew, and the keyboard is still in it
        where = "() => document.activeElement.outerHTML.slice(0, 200)"
        wait_for(lambda: page.evaluate(holds) == chosen, 20, lambda: f"the keyboard is at {page.evaluate(where)}")
        assert page.errors == [], "the browser's console shows errors"
        assert page.outside == [], "something was asked of the network"


def test_explorer_in_a_browser(needs_chromium, tmp_path):
    "A weight moves the picture of its own side alone, the sample both."
    (tmp_path / "work").mkdir()
    shutil.copy(NOTEBOOK.with_name("07_explorer.ipynb"), tmp_path / "work/explorer.ipynb")
    with hard_limit(500), jupyterlab(tmp_path) as (address, token), browser_page() as page:
        print(f"\npictures in {tmp_path}; all cells run after {run_notebook(page, address, token, 'explorer.ipynb'):.0f} s")
        left, right = (page.locator(f".mmad-{side}-map") for side in ("left", "right"))
        scroll_to(page, "display(")
        left.wait_for(timeout=60_000)
        handle = page.locator(".mmad-left-weights .noUi-handle").first
        handle.scroll_into_view_if_needed()
        before = calm(left), calm(right)
        handle.click()
        page.keyboard.press("End")
        wait_for(lambda: changed(before[0], picture(left)) > 0.005, 30, lambda: "the left map stayed as it was")
        assert changed(before[1], calm(right)) == 0, "the right map moved with the left weight"
        page.locator(".widget-dropdown", has_text="sample").locator("select").last.select_option(index=1)
        for map_, old in zip((left, right), before):
            wait_for(lambda: changed(old, picture(map_)) > 0.02, 30, lambda: "a map stayed with its sample")
        page.screenshot(path=tmp_path / "explorer.png")
        assert page.errors == [], "the browser's console shows errors"


SLOW = ["""from mmad_nb.detectors import create_detector
from mmad_nb.lab import AblationLab, Explorer
from mmad_nb.lab.picking import PointPicker
from mmad_nb.data import MVTec3D
from mmad_nb.forge import sample_data
samples = list(MVTec3D(sample_data(), "gear", "test"))
samples = [next(s for s in samples if s.anomalous), next(s for s in samples if not s.anomalous)]
detector = create_detector("memory_bank", device="cpu").fit(samples[1:])
parts = detector.components(samples)""",
        "labs = [AblationLab(detector, samples, parts) for _ in range(2)]",
        "display(*labs)",
        "explorer = Explorer(detector, (detector, {}), samples, {detector: parts}); display(explorer)",
        "picker = PointPicker(samples[0], detector.fuse(parts)[0]); display(picker)",
        "for lab in labs: lab.set(alpha=.9)\nlabs[0].color.value = 'mask'"]
SHOWN = """() => ({charts: Array.from(document.querySelectorAll('.mmad-chart svg')).filter(s => s.querySelector('text')).length,
  plots: Array.from(document.querySelectorAll('.js-plotly-plot')).map(p => p.data ? p.data.length : -1),
  clouds: document.querySelectorAll('canvas').length})"""


def test_plots_show_on_a_slow_machine(needs_chromium, tmp_path):
    "The page gets a fraction of a processor while its widgets are made: nothing may stay empty, and no update may be lost."
    (tmp_path / "work").mkdir()
    cells = [{"cell_type": "code", "execution_count": None, "id": f"cell{n}", "metadata": {}, "outputs": [], "source": s} for n, s in enumerate(SLOW)]
    kernel = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}
    (tmp_path / "work/slow.ipynb").write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    with hard_limit(500), jupyterlab(tmp_path) as (address, token), browser_page(4000) as page:
        page.goto(f"{address}/lab/tree/slow.ipynb?token={token}")
        page.wait_for_function(f"() => window.jupyterapp && {SESSION}?.connectionStatus === 'connected' && {SESSION}?.status === 'idle'", timeout=60_000)
        brake = page.context.new_cdp_session(page)
        brake.send("Emulation.setCPUThrottlingRate", {"rate": 6})
        page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
        wait_for(lambda: (state := page.evaluate(CELLS))["done"] == state["total"] or state["error"], 300)
        assert page.evaluate(CELLS)["error"] is None
        page.wait_for_timeout(5000)
        brake.send("Emulation.setCPUThrottlingRate", {"rate": 1})
        whole = lambda found: found["charts"] == 4 and found["plots"] and min(found["plots"]) > 0 and found["clouds"] >= 5
        wait_for(lambda: whole(page.evaluate(SHOWN)), 90, lambda: f"{page.evaluate(SHOWN)}; {page.errors}")
        page.screenshot(path=tmp_path / "slow.png")
        print(f"\n{page.evaluate(SHOWN)} in {tmp_path}")
        assert page.errors == [], "the browser's console shows errors"
