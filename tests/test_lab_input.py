"""What the labs refuse, and that they let go of everything when nobody holds them."""
import gc
import weakref
from types import SimpleNamespace

import ipywidgets as W
import numpy as np
import pytest
import torch
from lab_samples import CloudFake, make_cloud, make_sample
from test_lab import Fake

from mmad_nb.core import DataError
from mmad_nb.detectors import Weight
from mmad_nb.lab import AblationLab, Explorer, PointPicker
from mmad_nb.lab.figures import SHOWN, running_cell, show_panel, widgets_in

SAMPLES = [make_sample("good"), make_sample("dent", 1)]


@pytest.mark.parametrize("samples", [[], None, SAMPLES[0], "ab", ["a.png"], [SAMPLES[0], None], [SAMPLES[0], make_sample("dent", 1, size=32)], [SAMPLES[0], make_cloud()]])
def test_samples(samples):
    for make in (lambda: AblationLab(Fake(), samples), lambda: Explorer(Fake(), Fake(), samples)):
        with pytest.raises(DataError, match="^samples: "): make()


def test_detectors_and_components():
    for wrong in (None, "cfm", Fake.weights):
        with pytest.raises(DataError, match="^detector: "): AblationLab(wrong, SAMPLES)
    for wrong in (torch.rand(2, 24, 24), [1], "rgb"):
        with pytest.raises(DataError, match="^components: "): AblationLab(Fake(), SAMPLES, wrong)
    with pytest.raises(DataError, match="^maps: "): AblationLab(Fake(), SAMPLES, Fake().components(SAMPLES[:1] * 3))


@pytest.mark.parametrize("wrong", [{"nope": 1}, {"alpha": 2}, {"alpha": float("nan")}, {"alpha": "0.5"}, {"rule": "mean"}, {"rule": 1, "alpha": .3}])
def test_set_changes_nothing_if_one_weight_is_wrong(wrong):
    lab, explorer = AblationLab(Fake(), SAMPLES), Explorer(Fake(), Fake(), SAMPLES)
    before = lab.weights
    with pytest.raises(DataError): lab.set(**wrong)
    with pytest.raises(DataError): explorer.set(left=wrong)
    with pytest.raises(DataError): explorer.set(right=wrong)
    assert lab.weights == before == explorer.left.weights == explorer.right.weights
    lab.set(alpha=.25)
    assert lab.weights["alpha"] == .25


def makers():
    clouds = [make_cloud(), make_cloud("dent", 1)]
    weights = (Weight("alpha", "α", .5, 0, 1),)
    return {"lab": lambda: AblationLab(Fake(), SAMPLES), "lab of clouds": lambda: AblationLab(CloudFake(weights), clouds),
            "explorer": lambda: Explorer(Fake(), Fake(), SAMPLES), "explorer of clouds": lambda: Explorer(CloudFake(weights), CloudFake(weights, 1), clouds),
            "picker": lambda: PointPicker(SAMPLES[1], np.random.default_rng(0).random((24, 24)))}


@pytest.mark.parametrize("name", makers())
def test_a_panel_that_nobody_holds_is_gone_with_its_widgets(name):
    panel = makers()[name]()
    if name.startswith("lab"):
        panel.set(alpha=.3)
        panel.curve.sweep.result(60)
    parts = widgets_in(panel.box)
    closed, gone = [part.comm for part in parts], weakref.ref(panel)
    assert all(comm is not None for comm in closed) and len(parts) > 10
    del panel
    gc.collect()
    assert gone() is None and all(part.comm is None for part in parts)


def test_a_panel_that_is_held_works_after_a_collection():
    lab = AblationLab(Fake(), SAMPLES)
    gc.collect()
    before = lab.image.value
    lab.controls["alpha"].value = 1.0
    assert lab.image.value != before and lab.result.weights["alpha"] == 1.0
    lab.button.click()
    assert lab.weights["alpha"] == .5
    lab.keep.click()
    assert len(lab.kept) == 1
    sweep = lab.curve.sweep
    lab.close()
    assert sweep.stopped.is_set() and lab.box.comm is None


class ShownPanel:
    def __init__(self): self.box = W.VBox([])


def held(cells, monkeypatch):
    "Show a panel in each of these (cell, run), twice; which of them live when nobody else holds them?"
    found = []
    SHOWN.clear()
    for place in cells:
        monkeypatch.setattr("mmad_nb.lab.figures.running_cell", lambda: place)
        panel = ShownPanel()
        show_panel(panel), show_panel(panel)
        found.append(weakref.ref(panel))
    del panel
    gc.collect()
    lives = [one() is not None for one in found]
    SHOWN.clear()
    return lives


def test_displayed_panels_are_held_as_long_as_their_cell_shows_them(monkeypatch):
    assert held([(None, 0)] * 27, monkeypatch) == [False] * 3 + [True] * 24                # no page tells: the last ones
    assert held([("a", 1), ("a", 1), ("b", 2)], monkeypatch) == [True] * 3
    assert held([("a", 1), ("b", 2), ("a", 3)], monkeypatch) == [False, True, True]        # the cell ran again


def test_running_cell_is_what_the_page_says(monkeypatch):
    import IPython
    assert running_cell() == (None, 0)                                                     # no IPython at all
    for parent in ({}, {"metadata": {}}, None):
        shell = SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda: parent), execution_count=7)
        monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
        assert running_cell() == (None, 0)
    shell.kernel.get_parent = lambda: {"metadata": {"cellId": "c1"}}
    assert running_cell() == ("c1", 7)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(execution_count=3))   # IPython in a terminal
    assert running_cell() == (None, 0)
