"Curves over one weight, ratios and maps over two, away from a browser."
import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from lab_samples import CloudFake, make_cloud, make_sample

from mmad_nb.core import DataError
from mmad_nb.core.charts import Frame
from mmad_nb.detectors import Weight
from mmad_nb.experiments.protocols import Spread
from mmad_nb.lab import HeatMap, SweepCurve, SweepLab, TrainingGrid
from mmad_nb.lab.figures import widgets_in
from mmad_nb.lab.sweeps import (Intervals, cells_svg, contours_svg, filled, log_range, only_ratio, ratio_axis, says_nothing, square_order, weight_axis)
from mmad_nb.scoring import Evaluator

SAMPLES = [make_sample(d, i) for i, d in enumerate(("good", "dent", "good", "crack", "dent"))]
JUDGE = Evaluator(np.stack([s.mask for s in SAMPLES]), np.array([s.anomalous for s in SAMPLES]))


class Both:
    "α rgb + β xyz: only the ratio counts."
    weights = (Weight("alpha", "α", .5, meaning="of <rgb>"), Weight("beta", "β", .5), Weight("power", "p", 1, choices=(1, 3)))
    def components(self, samples):
        noise = torch.rand((2, len(samples), *samples[0].size), generator=torch.Generator().manual_seed(0))
        return {"rgb": noise[0], "xyz": noise[1] + 2 * torch.tensor(np.stack([s.mask for s in samples])).float()}
    def fuse(self, components, alpha=.5, beta=.5, power=1): return (alpha * components["rgb"] + beta * components["xyz"]) ** power
    def image_scores(self, maps): return maps.amax((1, 2))


class Small(Both):
    "A share that is usually small, and another one."
    weights = Weight("lambda1", "λ₁", .1), Weight("lambda2", "λ₂", .1)
    def fuse(self, components, lambda1=.1, lambda2=.1):
        return (1 - lambda1) * components["rgb"] + lambda1 * components["xyz"] + lambda2 * components["xyz"].square()


PARTS = Both().components(SAMPLES)
measured = lambda detector, **weights: JUDGE.evaluate(PARTS, detector.image_scores, "exact", detector.fuse, **weights)
NOW = dict(alpha=.5, beta=.5, power=1)


def waited(panel):
    "When the background is done, show again."
    panel.sweep.result(60)
    panel.draw(now=True)
    return panel


def test_axes():
    assert log_range(Weight("w", "w", 1., .1, 2.)) == (.1, 2.) and log_range(Weight("w", "w", 1., .2, 2.)) is None     # a factor of 20, and of 10
    assert log_range(Weight("w", "w", 0., 0, 1)) is None and log_range(Weight("w", "w", .2, 0, 1)) is None and log_range(Weight("w", "w", 1., -1, 30)) is None
    axis = weight_axis(Weight("blur", "σ", 1., 0., 12.), log=True)
    assert axis.log and axis.values[0] == pytest.approx(.12) and axis.values[-1] == pytest.approx(12.)
    assert np.allclose(np.array(axis.values) / .12, np.round(np.array(axis.values) / .12))                               # where the slider can stand
    assert not weight_axis(Weight("w", "w", .5), log=True).log
    wide = weight_axis(Weight("t", "τ", 1., .01, 100.), log=True, count=5)
    assert wide.values == pytest.approx((.01, .1, 1, 10, 100))
    assert wide.nearest(2.) == {"t": pytest.approx(1.)} and wide.nearest(5.) == {"t": pytest.approx(10.)} and wide.nearest(-1) == {"t": pytest.approx(.01)}
    a, b = Weight("a", "a", 1., 0, 2), Weight("b", "b", 1., 0, 4)
    ratio = ratio_axis(b, a)
    assert list(ratio.values) == sorted(set(ratio.values)) and ratio.values[0] == pytest.approx(.02) and ratio.values[-1] == pytest.approx(200)
    assert ratio.settings[-1] == (4, .02) and ratio.label == "b : a" and max(y for _, y in ratio.settings) == 2
    assert ratio.at({"a": 2, "b": 1}) == .5 and np.isnan(ratio.at({"a": 0, "b": 0})) and ratio.at({"a": 0, "b": 1}) == np.inf
    assert weight_axis(a).at({"a": 1.5, "b": 0}) == 1.5


def test_a_ratio_is_found_by_trying():
    assert only_ratio(Both(), PARTS, JUDGE, ("beta", "alpha"))
    assert only_ratio(Both(), PARTS, JUDGE, ("beta", "alpha"), power=3)                # eight times the map, and no other order
    assert not only_ratio(Small(), PARTS, JUDGE, ("lambda2", "lambda1"))
    class Offset(Both):
        def image_scores(self, maps): return maps.amax((1, 2)) + 1                      # the maps scale, the scores do not
    assert not only_ratio(Offset(), PARTS, JUDGE, ("beta", "alpha"))
    class Turned(Both):
        def fuse(self, components, alpha=.5, beta=.5, power=1): return super().fuse(components, alpha, beta) * (-1 if alpha < .6 else 1)
    assert not only_ratio(Turned(), PARTS, JUDGE, ("beta", "alpha"))
    class Knee(Both):
        def fuse(self, components, alpha=.5, beta=.5, power=1): return super().fuse(components, alpha, beta) + (alpha < .2)     # seen at another ratio only
    assert not only_ratio(Knee(), PARTS, JUDGE, ("beta", "alpha"))


def test_the_curve_goes_over_a_ratio():
    moved = []
    curve = SweepCurve(Both(), PARTS, JUDGE, ("pixel_auroc", "aupro@30"), moved.append)
    assert list(curve.ratios) == ["beta:alpha"]
    curve.weight.value = "beta:alpha"
    curve.show(NOW, measured(Both(), **NOW))
    waited(curve)
    assert curve.axis.log and ">0.01<" in curve.chart.html.value and "β : α" in curve.chart.html.value
    n = next(n for n, (top, bottom) in enumerate(curve.axis.settings) if bottom == 1 and top == pytest.approx(.2))
    assert curve.line[1][n] == pytest.approx(measured(Both(), alpha=1., beta=.2)["pixel_auroc"], abs=1e-9)
    assert curve.here[0] == 1 and curve.log.disabled
    assert curve.best_weights() == dict(zip(("beta", "alpha"), curve.axis.settings[int(np.argmax(curve.line[1]))]))
    curve.chart.field.value = "0.5 1"
    assert moved == [{"beta": 1., "alpha": 1.}]
    assert "highest" in curve.chart.alt and "now" in curve.chart.alt
    curve.show(NOW | dict(alpha=0.), measured(Both(), **NOW))                            # no place on the axis: no diamond, no error
    curve.draw(now=True)
    assert curve.chart.html.value.count("<title>") == 0


def test_a_log_axis_is_offered_where_it_makes_sense():
    curve = SweepCurve(Small(), PARTS, JUDGE, ("pixel_auroc",))
    weights = dict(lambda1=.1, lambda2=.1)
    curve.show(weights, measured(Small(), **weights))
    assert not curve.log.disabled and curve.ratios == {}
    even = waited(curve).sweep
    curve.log.value = True                                                              # draws at once
    assert curve.sweep is not even and waited(curve).axis.values[0] == pytest.approx(.01)
    assert curve.line[1][0] == pytest.approx(measured(Small(), lambda1=.01, lambda2=.1)["pixel_auroc"], abs=1e-9)
    curve.log.value = False
    assert curve.sweep is even
    plain = SweepCurve(Both(), PARTS, JUDGE, ("pixel_auroc",))
    plain.show(NOW, measured(Both(), **NOW))
    assert plain.log.disabled and plain.log.layout.display == "none"


def test_the_band_lies_behind_the_line():
    seen = []
    def interval(maps, scores):
        seen.append((maps.shape, len(scores)))
        return {"pixel_auroc": (.1, .2)}
    curve = SweepCurve(Both(), PARTS, JUDGE, ("pixel_auroc", "aupro@30"), interval=interval, band="a <test>")
    curve.show(NOW, measured(Both(), **NOW))
    curve.sweep.result(60), curve.band.result(60)
    curve.draw(now=True)
    assert seen == [((5, 24, 24), 5)] * 11
    assert "fill-opacity='.2'" in curve.chart.html.value and curve.chart.frame.y_range[0] < .1
    assert "a &lt;test&gt;" in curve.box.children[-1].value
    curve.metric.value = "aupro@30"                                                     # of which nothing is known
    curve.show(NOW, measured(Both(), **NOW))
    assert "fill-opacity='.2'" not in curve.chart.html.value
    without = SweepCurve(Both(), PARTS, JUDGE, ("pixel_auroc",), band="none")
    assert without.judge is None and len(without.box.children) == 3


def test_the_band_of_twins_spans_all_trainings():
    class Other(Both):
        def fuse(self, components, alpha=.5, beta=.5, power=1): return super().fuse(components, beta, alpha, power)
    found = Intervals(JUDGE, twins=[(Other(), PARTS)]).evaluate(PARTS, Both().image_scores, "exact", Both().fuse, alpha=1., beta=.1, power=1)
    ends = sorted(measured(Both(), alpha=a, beta=b)["pixel_auroc"] for a, b in ((1., .1), (.1, 1.)))
    assert found["pixel_auroc"] == pytest.approx(tuple(ends), abs=1e-9) and ends[0] < ends[1]


def test_an_error_of_the_band_is_raised_at_the_next_move():
    def interval(maps, scores): raise ValueError("no interval")
    curve = SweepCurve(Both(), PARTS, JUDGE, ("pixel_auroc",), interval=interval)
    curve.show(NOW, measured(Both(), **NOW))
    assert isinstance(curve.band.future.exception(60), ValueError)
    with pytest.raises(ValueError, match="no interval"): curve.show(NOW, measured(Both(), **NOW))


def test_grids_come_one_after_the_other():
    order = square_order(5, 9)
    assert sorted(order) == list(range(45)) and order[:4] == [0, 4, 40, 44]
    assert {n % 5 for n in order[:9]} == {0, 2, 4} and {n // 5 for n in order[:9]} == {0, 4, 8}
    assert square_order(1, 1) == [0]
    nothing = np.full((2, 2), np.nan)
    assert np.isnan(filled(nothing, np.isfinite(nothing))).all()


def test_cells_and_lines():
    frame = Frame((1, 100), (0, 1), x_log=True, width=195, height=150)                  # 120 pixels across, 100 up
    text = cells_svg(frame, (1, 10, 100), (0, 1), np.array([[0., 1, 2], [3, 4, np.nan]]), (0, 4))
    assert "M60.0 60.0H90.0V110.0H60.0Z" in text and "M90.0 60.0H150.0" in text         # the middle column reaches half of the way, by ratios
    assert text.count("<path") == 6 and text.count("#999") == 1
    rising = contours_svg(frame, (1, 10, 100), (0, 1), np.array([[0., 1, 2], [0, 1, 2]]), (1.5,))
    assert "M150.0 110.0L150.0 10.0" in rising or "M150.0 10.0L150.0 110.0" in rising   # upright, half of the way between the last two columns
    assert contours_svg(frame, (1, 10, 100), (0, 1), np.full((2, 3), np.nan), (1,)) == ""
    cliff = contours_svg(frame, (1, 10, 100), (0, 1), np.array([[0., 0, 100], [0, 0, 100]]), (50, 51, 99))
    assert cliff.count("<path") == 3 and cliff.count("<text") == 2 and ">51<" not in cliff   # words that would cover each other are left out


def test_the_map_is_the_metric_at_every_place():
    moved = []
    heat = HeatMap(Both(), PARTS, JUDGE, ("pixel_auroc", "image_auroc"), moved.append, count=5)
    heat.show(NOW, measured(Both(), **NOW))
    values, known, mute = waited(heat).values()
    assert values.shape == (5, 5) and known.all() and np.argwhere(mute).tolist() == [[0, 0]]
    assert values[1, 4] == pytest.approx(measured(Both(), alpha=1., beta=.25)["pixel_auroc"], abs=1e-9)    # row 1 is β = 0.25, column 4 is α = 1
    top = heat.peak()
    assert values[int(top["beta"] * 4), int(top["alpha"] * 4)] == pytest.approx(values.max(), abs=1e-6)
    heat.best.click()
    heat.chart.field.value = "0.26 0.9 1"
    assert moved == [top, {"alpha": .25, "beta": 1.}]
    assert heat.chart.html.value.count("stroke='#000'/>") == 1 and "1 crossed out" in heat.text.value and "best" in heat.chart.alt
    assert heat.chart.html.value.count("stroke-width='1.6'") == 2                        # star and diamond
    assert "stroke='#fff' stroke-width='1.2'" in heat.chart.html.value                    # lines, once all is known
    heat.metric.value = "image_auroc"
    steps = heat.values()[0]
    assert (steps == steps.max()).sum() > 5 and heat.peak() == {"alpha": .5, "beta": .5}  # of many equal places the one nearest to the default
    first = heat.sweep
    heat.show(NOW | dict(alpha=.1), measured(Both(), **NOW | dict(alpha=.1)))
    assert heat.sweep is first                                                          # the same plane
    heat.up.value = "alpha"
    assert "two different" in heat.text.value
    with pytest.raises(DataError, match="no place is known"): heat.peak()


def test_a_map_that_says_nothing_is_no_good_place():
    class Worse(Both):
        def fuse(self, components, alpha=.5, beta=.5, power=1): return -super().fuse(components, alpha, beta)   # worse than chance everywhere else
    heat = HeatMap(Worse(), PARTS, JUDGE, ("pixel_auroc",), count=3)
    heat.show(NOW, measured(Worse(), **NOW))
    values, _, mute = waited(heat).values()
    assert mute[0, 0] and values[0, 0] == .5 > np.nanmax(values[~mute])
    assert heat.peak() != {"alpha": 0., "beta": 0.}
    curve = SweepCurve(Worse(), PARTS, JUDGE, ("pixel_auroc",))
    curve.show(NOW | dict(beta=0.), measured(Worse(), **NOW))
    assert waited(curve).line[1][0] == .5 == np.nanmax(curve.line[1]) and curve.peak() > 0
    assert not says_nothing({"pixel_auroc": .5, "pixel_ap": .3}, .1)


def test_an_undefined_metric_is_grey_and_said():
    good = [make_sample("good", i) for i in range(3)]
    judge, parts = Evaluator(np.stack([s.mask for s in good])), Both().components(good)
    heat = HeatMap(Both(), parts, judge, ("aupro@30",), count=3)
    heat.show(NOW, judge.evaluate(parts, fuse=Both().fuse, **NOW))
    waited(heat)
    assert heat.chart.html.value.count("#999") == 9 and "undefined" in heat.text.value
    with pytest.raises(DataError, match="defined"): heat.peak()


def test_another_plane_gives_up_the_unfinished_one():
    heat = HeatMap(Both(), PARTS, JUDGE, ("pixel_auroc",), count=5)
    with heat.turns:                                                                    # the background waits
        heat.show(NOW, measured(Both(), **NOW))
        first = heat.sweep
        heat.show(NOW | dict(power=3), measured(Both(), **NOW))
        assert first.stopped.is_set() and heat.sweep is not first
        assert "0 of 25 places" in heat.text.value and "nothing is known" in heat.chart.alt
        assert "stroke-width='1.2'" not in heat.chart.html.value
    waited(heat)
    heat.show(NOW, measured(Both(), **NOW))                                              # begun anew
    assert np.isfinite(waited(heat).values()[0]).all()


def test_it_waits_until_it_is_asked():
    heat = HeatMap(Both(), PARTS, JUDGE, ("pixel_auroc",), count=3, ask=True)
    heat.show(NOW, measured(Both(), **NOW))
    assert heat.sweep is None and heat.on.layout.display != "none"
    heat.on.value = True
    waited(heat)
    with heat.turns:
        heat.show(NOW | dict(power=3), measured(Both(), **NOW))
        heat.on.value = False
        assert heat.sweep.stopped.is_set()
    heat.on.value = True
    assert waited(heat).values()[1].all()


def test_log_axes_of_a_map():
    heat = HeatMap(Small(), PARTS, JUDGE, ("pixel_auroc",), count=5)
    weights = dict(lambda1=.1, lambda2=0.)
    heat.show(weights, measured(Small(), **weights))
    waited(heat)
    assert "stroke-width='1.6'><title>now" in heat.chart.html.value
    heat.log.value = True
    waited(heat)
    assert heat.axes[0].log and heat.axes[0].values[0] == pytest.approx(.01) and len(heat.sweep.values) == len(heat.axes[0].values) * len(heat.axes[1].values)
    assert "stroke-width='1.6'><title>now" not in heat.chart.html.value                 # λ₂ = 0 has no place on it


def test_an_error_is_shown_and_the_next_move_tries_again():
    class Breaks(Both):
        broken = True
        def fuse(self, components, alpha=.5, beta=.5, power=1): return 1 / 0 if self.broken and alpha == 0 else super().fuse(components, alpha, beta)
    detector = Breaks()
    heat = HeatMap(detector, PARTS, JUDGE, ("pixel_auroc",), count=3)
    heat.show(NOW, measured(detector, **NOW))
    assert isinstance(heat.sweep.future.exception(60), ZeroDivisionError)
    with pytest.raises(ZeroDivisionError): heat._again({"owner": heat.metric})
    assert "ZeroDivisionError" in heat.text.value
    detector.broken = False
    heat.show(NOW, measured(detector, **NOW))
    assert np.isfinite(waited(heat).values()[0]).all()
    other = HeatMap(Both(), PARTS, JUDGE, ("pixel_auroc",), move=lambda weights: 1 / 0, count=3)
    with pytest.raises(DataError): other._go(None)
    assert "Wait until" in other.text.value


def test_one_weight_alone_has_no_map():
    class One(Both): weights = Both.weights[:1]
    heat = HeatMap(One(), PARTS, JUDGE, ("pixel_auroc",))
    heat.show(dict(alpha=.5), measured(One(), alpha=.5))
    assert heat.sweep is None and "two weights" in heat.box.children[0].value


def test_clouds():
    clouds = [make_cloud(d, i, 60 + i) for i, d in enumerate(("good", "dent", "crack"))]
    class Two(CloudFake):
        def fuse(self, components, alpha=.5, beta=.5):
            values = alpha * components["rgb"] + beta * components["xyz"]
            return list(values.split([60, 61, 62])) if len(values) == 183 else [values[:60]] if len(values) == 60 else list(values.split([60, 61, 62][-len(values) // 60:]))
    detector = Two((Weight("alpha", "α", .5), Weight("beta", "β", .5)))
    parts, judge = detector.components(clouds), Evaluator([c.labels for c in clouds], np.array([c.anomalous for c in clouds]))
    lab = SweepLab(detector, parts, judge, count=3)
    waited(lab.map)
    assert "beta:alpha" in lab.curve.ratios and "point AUROC" in str(lab.map.metric.options) and np.isfinite(lab.map.values()[0]).all()
    lab.close()


def test_the_panel_moves_everything_and_ends():
    lab = SweepLab(Both(), PARTS, JUDGE, count=3)
    lab.controls["power"].value = 3
    lab.set({"alpha": .2, "beta": 0.30000000000000004})
    assert lab.weights == {"alpha": .2, "beta": .3, "power": 3} and dict(lab.metrics) == dict(measured(Both(), **lab.weights))
    lab.curve.sweep.result(60)
    lab.curve.draw(now=True)
    lab.curve.best.click()
    assert lab.weights["alpha"] == pytest.approx(lab.curve.peak())
    waited(lab.map)
    lab.map.best.click()
    assert lab.map.here["alpha"] == lab.weights["alpha"]
    gone, sweep, button = weakref.ref(lab), lab.curve.sweep, lab.map.best
    del lab
    gc.collect()
    assert gone() is None and sweep.stopped.is_set() and button.comm is None


def test_closing_gives_up_what_is_not_finished():
    lab = SweepLab(Both(), PARTS, JUDGE, count=3)
    with lab.curve.turns:                                                               # the background waits
        lab.controls["power"].value = 3
        line, plane = lab.curve.sweep, lab.map.sweep
        lab.close()
        assert line.stopped.is_set() and plane.stopped.is_set()


def test_the_panel_shows_an_error():
    class Breaks(Both):
        def fuse(self, components, alpha=.5, beta=.5, power=1): return 1 / 0 if power == 3 else super().fuse(components, alpha, beta)
    lab = SweepLab(Breaks(), PARTS, JUDGE, count=3)
    with pytest.raises(ZeroDivisionError): lab.controls["power"].value = 3
    assert "ZeroDivisionError" in lab.message.value
    lab.controls["power"].value = 1
    assert lab.message.value == ""
    lab.close()


def test_map_and_slider_draw_one_at_a_time():
    heat = HeatMap(Both(), PARTS, JUDGE, ("pixel_auroc",), count=3)
    heat.show(NOW, measured(Both(), **NOW))
    waited(heat)
    inside, together, begun, draw = [], [], threading.Event(), heat.chart.draw
    def slow(*parts):
        inside.append(threading.get_ident()); begun.set()
        threading.Event().wait(.1)
        together.extend(set(inside) - {threading.get_ident()})
        draw(*parts)
        inside.remove(threading.get_ident())
    heat.chart.draw = slow
    other = threading.Thread(target=lambda: (setattr(heat, "drawn", None), heat.draw(now=True)))
    other.start(); begun.wait(10)
    heat.show(NOW | dict(alpha=.1), measured(Both(), alpha=.1))
    other.join(10)
    assert not together


class Toy:
    "A grid by contract alone: two options, one combination trained."
    options, weights, detector = {"a": [1, 2], "b": ["x", "<y>"]}, None, "toy"
    def __init__(self): self.known, self.asked = {(1, "x")}, []
    def cell(self, a, b): return a, b
    def missing(self, a, b): return [] if (a, b) in self.known else [0]
    def train(self, a, b):
        if b == "<y>" and a == 2: raise ValueError("this one <breaks>")
        self.known.add((a, b))
    def spread(self, metric, rule, a, b):
        self.asked.append((metric, rule))
        return Spread(.5 + a / 10, 0., 1) if (a, b) in self.known else Spread(float("nan"), float("nan"), 0)
    def models(self, a, b):
        if (a, b) not in self.known: return []
        scaled = Both()
        scaled.fuse = lambda parts, **weights: a * parts["xyz"]
        return [scaled]


def test_only_what_is_trained_has_numbers_and_a_map():
    grid = Toy()
    panel = TrainingGrid(grid, SAMPLES)
    assert panel.values == {"a": 1, "b": "x"} and panel.button.disabled and "is trained" in panel.message.value
    assert panel.table.value.count("not trained") == 3 and ">0.600<" in panel.table.value and "&lt;y&gt;" in panel.table.value
    first, limits = panel.image.value, panel.limits
    panel.menus["a"].value = 1
    assert not panel.button.disabled and "not trained yet" in panel.message.value and "no map" in panel.message.value and panel.image.value != first
    assert panel.table.value.count("aria-current") == 1 and "aria-current='true'>not trained" in panel.table.value
    panel.button.click()
    assert (2, "x") in grid.known and panel.button.disabled and "aria-current='true'>0.700" in panel.table.value
    assert panel.limits == limits and panel.image.value != first                        # twice the scores, in the same limits
    panel.sample.value = 1
    assert len(panel.maps) == 3
    panel.metric.value = "aupro@1"
    assert grid.asked[-1] == ("aupro@1", "exact")
    panel.menus["b"].value = 1
    with pytest.raises(ValueError): panel.train()
    with pytest.raises(ValueError): panel._pressed(panel.button)
    assert "this one &lt;breaks&gt;" in panel.message.value and not panel.button.disabled
    gone, button = weakref.ref(panel), panel.button
    del panel
    gc.collect()
    assert gone() is None and button.comm is None


def test_a_grid_without_samples_shows_numbers_alone():
    panel = TrainingGrid(Toy())
    assert panel.image not in widgets_in(panel.box) and ">0.600<" in panel.table.value
    panel.close()
