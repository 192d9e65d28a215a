"Many fusions of one training: rows, records, pictures, bad input."
import numpy as np
import pytest
import torch

from mmad_nb.core.runtime import DataError
from mmad_nb.data import prepare
from mmad_nb.detectors import create_detector
from mmad_nb.experiments import Splits, comparison_table, difference_table, run_protocol, sweep_figure
from mmad_nb.experiments.dual_stream import (LIMIT_METRICS, RULE_ROWS, STREAM_ROWS, ZoomPanel, compare_fusions, lambda_rows,
                                             pro_figure)
from mmad_nb.features.image import ImageEncoder, ViT, drawn_from
from mmad_nb.forge import forge_sample
from mmad_nb.streams.estimator import NormalEstimator


class Flat(NormalEstimator):
    "An estimator for tests: every normal faces the sensor, a little tilted by the photo's red."
    def __init__(self): super().__init__("flat", None, "flat", "made up for tests")

    def __call__(self, rgb):
        red = rgb[:, :1]
        return torch.nn.functional.normalize(torch.cat([red - .5, torch.zeros_like(red), -torch.ones_like(red)], 1), dim=1)


def encoders():
    with drawn_from(0): return ImageEncoder("small", ViT(dim=32, heads=2, depth=12, patch=8, size=64), "random", "cpu"), Flat()


HOW = dict(encoders=encoders(), device="cpu", steps=2, lr=1e-3, draws=1, batch_size=1)
capture = lambda kind, seed: prepare(forge_sample("bagel", kind, seed=seed, size=64), 64)
DATA = Splits([capture("good", n) for n in range(2)], [capture("good", 8), capture("crack", 9)], "forged")


@pytest.fixture(scope="module")
def found():
    return compare_fusions(STREAM_ROWS | RULE_ROWS | lambda_rows((0, 1)), DATA, shots=(1, 2), seeds=(0, 1), **HOW)


def test_a_row_is_what_the_protocol_measures_with_these_weights(found):
    study = run_protocol("few-shot", "cmds", DATA, shots=(1, 2), seeds=(0, 1), weights={"rule": "add"}, **HOW)
    key = lambda r: (r["group"], r["category"], r["seed"])
    ours, theirs = ({key(r): r["metrics"]["exact"] for r in s.records} for s in (found["add"], study))
    assert set(ours) == set(theirs) and len(ours) == 4
    for name in ours:
        for metric, value in ours[name].items(): assert value == pytest.approx(theirs[name][metric], abs=1e-4)
    assert found["add"].settings["weights"] == {"rule": "add"} and found["add"].settings["detector"] == study.settings["detector"]


def test_every_model_is_trained_once(monkeypatch):
    from mmad_nb.detectors.cmds import CMDS
    calls, learn = [], CMDS.learn
    monkeypatch.setattr(CMDS, "learn", lambda self, *a, **k: (calls.append(1), learn(self, *a, **k))[1])
    compare_fusions(RULE_ROWS, DATA, shots=(1,), seeds=(0, 1), **HOW)
    assert len(calls) == 2


def test_rows_that_are_equal_by_definition(found):
    metrics = lambda title: [r["metrics"] for r in found[title].records]
    assert metrics("0") == metrics("w/o estimated stream") and metrics("mul") == metrics("both streams")
    assert metrics("1") != metrics("0")
    assert list(lambda_rows()) == ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1"]
    assert lambda_rows((.3,)) == {"0.3": {"lambda1": .3, "lambda2": .3}}


def test_the_tables_of_ablations_take_it(found):
    assert "mul" in comparison_table(found, LIMIT_METRICS) and "minus 'mul'" in difference_table(found, "mul")


def test_figures(found):
    figure = sweep_figure({title: found[title] for title in ("0", "1")}, "λ", ("aupro@30",))
    ax, = figure.axes
    assert [line.get_label() for line in ax.lines] == ["1-shot", "2-shot"]
    wanted = [found[t].spread("aupro@30", group="2-shot").mean for t in ("0", "1")]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), wanted)
    masks = np.zeros((1, 8, 8), bool); masks[0, :2, :2] = True
    maps = {"good": torch.from_numpy(masks).float(), "bad": 1 - torch.from_numpy(masks).float()}
    figure = pro_figure(maps, masks, .05)
    assert figure.axes[1].get_xlim() == (0, .05) and figure.axes[0].get_xlim() == (0, .3)
    at_once = [line.get_ydata()[line.get_xdata() == 0].max() for line in figure.axes[1].lines]
    assert at_once == [1, 0]
    panel = ZoomPanel(maps, masks)
    before = panel.picture.value
    panel.zoom.value = .1
    assert panel.picture.value != before


def test_bad_input(monkeypatch):
    from mmad_nb.detectors.cmds import CMDS
    monkeypatch.setattr(CMDS, "learn", lambda *a, **k: pytest.fail("trained before the rows were checked"))
    with pytest.raises(DataError, match="no row"): compare_fusions({}, DATA, **HOW)
    with pytest.raises(DataError, match="lambda3"): compare_fusions({"a": {"lambda3": 1}}, DATA, **HOW)
    with pytest.raises(DataError, match="from 0 to 1"): compare_fusions({"a": {"lambda1": 2}}, DATA, **HOW)
    with pytest.raises(DataError, match="shots"): compare_fusions(RULE_ROWS, DATA, shots=(9,), **HOW)
    for zoom in (0, .3, 2):
        with pytest.raises(DataError, match="zoom"): pro_figure({}, np.zeros((1, 2, 2), bool), zoom)
    assert create_detector("cmds", HOW["encoders"], "cpu").name == "cmds"
