"""Panels of several rooms in a real browser: every control has a name that a screen reader can speak, every picture has words.

Skipped where there is no Chromium, except in CI, as in test_browser.py.
"""
import json
import shutil

from test_browser import CELLS, SESSION, browser_page, hard_limit, jupyterlab, needs_chromium, wait_for  # noqa: F401

PAGE = ["""import numpy as np, torch, ipywidgets as W
from mmad_nb.core import described, png_bytes
from mmad_nb.data import MVTec3D
from mmad_nb.forge import sample_data
samples = list(MVTec3D(sample_data(), "gear", "test"))
samples = [next(s for s in samples if s.anomalous), next(s for s in samples if not s.anomalous)]""",
        """from mmad_nb.core.charts import Chart, Frame, dot_svg, titled
from mmad_nb.data.sample import DarkPanel
from mmad_nb.forge.defects import DefectPanel
from mmad_nb.forge.shapes import ShapePanel
panels = [DarkPanel(samples[0]), DefectPanel(), ShapePanel()]
display(*(panel.box for panel in panels))""",
        """from mmad_nb.detectors import create_detector
from mmad_nb.detectors.base import WeightPanel
detector = create_detector("memory_bank", device="cpu").fit(samples[1:])
parts = detector.components(samples)
weights = WeightPanel(detector, parts)
display(weights.box)""",
        """bare = W.Image(value=png_bytes(np.zeros((20, 20, 3), np.uint8)), width=20)
picture = described(W.Image(value=bare.value, width=20), "a black square")
kinds = [W.FloatLogSlider(description="rate", min=-4, max=0, value=.01), W.FloatRangeSlider(description="range", value=[2, 5]), W.SelectionSlider(options=["low", "high"], description="level"),
         W.IntSlider(description="silent", readout=False), W.ToggleButtons(options=["one", "two"], description="choice"), W.Button(icon="undo", tooltip="take it back"),
         W.ToggleButton(description="on"), W.Checkbox(description="box"), W.Text(description="word"), described(W.Dropdown(options=["a", "b"]), "letter"), W.BoundedIntText(description="count")]
display(W.VBox([*kinds, picture]))"""]
# what the keyboard can reach and pictures, with the name that a browser gives them: its own words come last
FOUND = """() => { const text = node => (node?.innerText ?? '').trim();
  const name = node => node.getAttribute('aria-label') || (node.getAttribute('aria-labelledby') || '').split(' ').map(i => text(document.getElementById(i))).join(' ').trim()
    || [...(node.labels ?? [])].map(text).join(' ').trim() || node.getAttribute('alt')
    || (node.matches('button, [role=button], [role=tab], summary, a') ? text(node) || node.getAttribute('title') : '');
  return [...document.querySelectorAll(".jp-OutputArea :is(input, select, textarea, button, a[href], summary, [tabindex='0'], [contenteditable=true], [role=slider], .ui-slider-handle, img, canvas)")]
    .filter(node => node.closest('.jupyter-widgets') && node.checkVisibility() && !node.matches("img[onload], [type=file]"))
    .map(node => ({kind: node.tagName.toLowerCase(), role: node.getAttribute('role'), name: name(node), value: node.getAttribute('aria-valuetext'),
                   pressed: node.getAttribute('aria-pressed'), html: node.outerHTML.slice(0, 160)})); }"""


def opened(page, address, token, cells, folder, name):
    "Write a notebook of these cells, open it and run it."
    book = [{"cell_type": "code", "execution_count": None, "id": f"cell{n}", "metadata": {}, "outputs": [], "source": s} for n, s in enumerate(cells)]
    kernel = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}
    (folder / "work" / name).write_text(json.dumps({"cells": book, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    page.goto(f"{address}/lab/tree/{name}?token={token}")
    page.wait_for_function(f"() => window.jupyterapp && {SESSION}?.connectionStatus === 'connected' && {SESSION}?.status === 'idle'", timeout=60_000)
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
    wait_for(lambda: (state := page.evaluate(CELLS))["done"] == state["total"] or state["error"], 120)
    assert page.evaluate(CELLS)["error"] is None


def test_every_control_says_its_name(needs_chromium, tmp_path):  # noqa: F811
    (tmp_path / "work").mkdir()
    with hard_limit(240), jupyterlab(tmp_path) as (address, token), browser_page(6000) as page:
        opened(page, address, token, PAGE, tmp_path, "names.ipynb")
        find = lambda: page.evaluate(FOUND)
        wait_for(lambda: any(one["name"] == "a black square" for one in find()), 40, lambda: str([one["name"] for one in find()]))
        page.wait_for_timeout(3000)
        page.screenshot(path=tmp_path / "names.png")
        print(f"\n{len(find())} controls and pictures in {tmp_path}")
        assert [one["html"] for one in find() if not one["name"]] == []
        by = lambda text: next(one for one in find() if one["name"] == text)
        sliders = {one["name"]: one["value"] for one in find() if one["role"] == "slider"}
        assert {"threshold", "strength", "α", "rate", "range, from", "range, to", "level", "silent"} <= set(sliders), sliders
        assert sliders["rate"] in ("0.01", "0.0100") and sliders["level"] == "low", "the value is the one that is written beside it"
        assert (by("one")["pressed"], by("two")["pressed"]) == ("true", "false")
        page.get_by_role("button", name="two").click()
        wait_for(lambda: (by("one")["pressed"], by("two")["pressed"]) == ("false", "true"), 10)
        page.get_by_role("slider", name="level").focus()
        page.keyboard.press("ArrowRight")
        wait_for(lambda: next(one for one in find() if one["name"] == "level")["value"] == "high", 10, lambda: str(sliders))
        words = {one["name"] for one in find() if one["kind"] == "img"}
        page.get_by_role("slider", name="α").first.focus()
        page.keyboard.press("End")
        wait_for(lambda: {one["name"] for one in find() if one["kind"] == "img"} != words, 20, lambda: "no picture has other words")
        assert page.errors == [], "the browser's console shows errors"
