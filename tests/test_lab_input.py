"""What the labs refuse, and that they let go of everything when nobody holds them."""
import gc
import weakref

import ipywidgets as W
import numpy as np
import pytest
import torch
from lab_samples import CloudFake, make_cloud, make_sample
from test_lab import Fake

from mmad_nb.core import DataError
from mmad_nb.detectors import Weight
from mmad_nb.lab import AblationLab, Explorer, PointPicker
from mmad_nb.lab.figures import SHOWN, show_panel, widgets_in

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


def test_displayed_panels_are_held_eight_at_most():
    class Panel:
        def __init__(self): self.box = W.VBox([])
    found = []
    for _ in range(11):
        panel = Panel()
        show_panel(panel), show_panel(panel)
        found.append(weakref.ref(panel))
    del panel
    gc.collect()
    assert [r() is not None for r in found] == [False] * 3 + [True] * 8
    SHOWN.clear()
