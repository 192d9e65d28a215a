"""The line through the scores, the menu of samples, and the curves: what the page does not show."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from lab_samples import make_sample

from mmad_nb.core import DataError
from mmad_nb.lab.decide import (FLAGGED, CurveView, Decision, SampleMenu, confusion_html, flagged_picture, image_curves, kinds_html, line_for,
                                pixel_curves, thinned_curve)
from mmad_nb.scoring import Evaluator, evaluate
from mmad_nb.scoring.aupro import area_below
from mmad_nb.scoring.thresholds import confusion

SAMPLES = [make_sample(d, i) for i, d in enumerate(("good", "dent", "good", "crack", "dent"))]
SCORES = np.array([.1, .5, .4, .3, .9])


def test_as_many_are_flagged_as_the_line_was_asked_for():
    rng = np.random.default_rng(0)
    for scores in (rng.normal(size=7), rng.normal(size=7) * 1e-6 + 5, np.array([3.]), np.arange(4.) * -1):
        assert [(scores > line_for(scores, count)).sum() for count in range(len(scores) + 1)] == list(range(len(scores) + 1))
    for count in (-1, 2):
        with pytest.raises(DataError, match="0 to 1"): line_for(np.array([1.]), count)


def test_equal_scores_stay_together():
    scores = np.array([2., 2., 2.])
    assert [(scores > line_for(scores, count)).sum() for count in range(4)] == [0, 0, 0, 3]


def test_the_menu_keeps_what_one_looks_at():
    looked = []
    menu = SampleMenu(SAMPLES, looked.append)
    menu.sample.value = 2
    menu.show(SCORES, np.zeros(5, bool))
    menu.order.value = "lowest score first"
    assert [i for _, i in menu.sample.options] == [0, 3, 2, 1, 4] and menu.sample.value == 2 and looked == [2]
    menu.show(-SCORES, np.zeros(5, bool))                          # other scores, the same sample
    assert [i for _, i in menu.sample.options] == [4, 1, 2, 3, 0] and menu.sample.value == 2 and looked == [2]
    menu.step(1)
    assert looked == [2, 3]
    menu.only.value = "dent"
    assert [i for _, i in menu.sample.options] == [4, 1] and looked == [2, 3, 4]
    menu.go(0)                                                     # not in the list: the filter goes
    assert menu.sample.value == 0 and menu.only.value == "all" and looked[-1] == 0


def test_what_is_judged_wrongly_is_listed_and_what_one_looks_at_is_not_taken_away():
    menu = SampleMenu(SAMPLES)
    menu.show(SCORES, np.array([False, True, False, False, False]))
    menu.only.value = "judged wrongly"
    assert [i for _, i in menu.sample.options] == [1]
    menu.show(SCORES, np.array([False, False, False, True, False]))
    assert [i for _, i in menu.sample.options] == [3, 1] and menu.sample.value == 1
    menu.show(SCORES, np.zeros(5, bool))                           # nothing is wrong any more
    assert menu.sample.value == 1


def test_categories_are_a_filter_if_there_are_two():
    assert "thing" not in SampleMenu(SAMPLES).only.options
    menu = SampleMenu([*SAMPLES, replace(SAMPLES[1], category="nut")])
    menu.only.value = "nut"
    assert [i for _, i in menu.sample.options] == [5]


def test_best_f1_is_where_no_other_line_is_better():
    labels = np.array([s.anomalous for s in SAMPLES])
    decision = Decision(SAMPLES, print)
    decision.show(SCORES, 0)
    decision.best.click()
    best = confusion(SCORES, labels, decision.threshold).f1
    assert best == max(confusion(SCORES, labels, t).f1 for t in (0, .2, .35, .45, .7)) and not np.isnan(best)
    assert (decision.wrong == ((SCORES > decision.threshold) != labels)).all()


def test_the_line_stands_where_it_was_put_on_other_samples():
    others = [replace(s, id=f"other {s.id}") for s in SAMPLES[:3]]
    decision = Decision(SAMPLES, print, others=others)
    decision.show(SCORES, 0, np.array([.6, .7, .1]))
    decision.count.value = 2                                       # above .45: 0.5 and 0.9; of the others two, one of them good
    assert confusion(np.array([.6, .7, .1]), [False, True, False], decision.threshold).false_alarms == 1
    assert decision.table.value.count("<tr>") == 3 and "report" in decision.table.value
    decision.show(SCORES, 1)                                       # another sample of the same setting: the others stay
    assert "report" in decision.table.value


def test_found_missed_and_false_alarms_differ_without_colour():
    rgb, mask, score = np.full((3, 12, 12), .5), np.zeros((12, 12), bool), np.zeros((12, 12))
    mask[:6], score[:3], score[9:] = True, 1, 1                    # found above, missed below it, false alarms at the bottom
    picture = flagged_picture(rgb, score, mask, .5)
    grey = (picture == picture[7, 0]).all(2)
    assert grey[6:9].all() and not grey[:3].any()                  # passed; found is filled
    assert 0 < grey[3:6].mean() < 1 and 0 < grey[9:].mean() < 1    # striped
    assert len(np.unique(grey[9:], axis=0)) == 2 and (grey[9:] == grey[9:, :1]).all() and not (grey[3:6] == grey[3:6, :1]).all()   # in two directions
    assert len(FLAGGED) == 3


@pytest.mark.parametrize("clouds", [False, True])
def test_curves_have_the_exact_areas(clouds):
    rng = np.random.default_rng(1)
    masks = np.zeros((4, 16, 16), bool)
    masks[0, :3, :3] = masks[1, 5:12, 5:12] = masks[2, 1, 1] = True
    maps = torch.from_numpy(rng.normal(size=masks.shape) + 1.5 * masks)
    if clouds: masks, maps = [m.ravel() for m in masks], [m.ravel() for m in maps]
    curves, exact = pixel_curves(Evaluator(masks), maps), evaluate(maps, masks)
    assert area_below(*curves["roc"], 1) == pytest.approx(exact["pixel_auroc"], abs=1e-3)
    assert ("pro" in curves) != clouds
    if not clouds:
        for limit in (.3, .05): assert area_below(*curves["pro"], limit) == pytest.approx(exact[f"aupro@{round(100 * limit)}"], abs=2e-3)
    assert (np.diff(curves["pr"][0]) >= 0).all() and curves["pr"][0][-1] == 1


def test_pixels_of_one_score_make_one_step():
    rng = np.random.default_rng(2)
    masks = np.zeros((3, 12, 12), bool)
    masks[0, 2:6, 2:6] = masks[1, 3:5, 3:9] = True
    maps = torch.from_numpy(np.round(rng.normal(size=masks.shape) + 1.5 * masks))          # a handful of values
    curves, exact = pixel_curves(Evaluator(masks), maps), evaluate(maps, masks)
    assert area_below(*curves["roc"], 1) == pytest.approx(exact["pixel_auroc"], abs=1e-6)
    for limit in (.3, .05): assert area_below(*curves["pro"], limit) == pytest.approx(exact[f"aupro@{round(100 * limit)}"], abs=1e-6)


def test_no_curve_where_nothing_is_defective():
    assert pixel_curves(Evaluator(np.zeros((2, 3, 3), bool)), torch.rand(2, 3, 3)) == {} == image_curves(np.array([1., 2]), np.zeros(2, bool))
    view = CurveView()
    view.show({"now": {"pixel": {}, "image": {}}})
    assert "undefined" in view.message.value


def test_a_thinned_curve_keeps_its_ends_and_its_first_hundredth():
    x = np.concatenate([[0], np.sort(np.random.default_rng(0).random(100_000)) ** 2, [1]])
    thin, y = thinned_curve(x, np.sqrt(x))
    assert len(thin) < 400 and thin[0] == 0 and thin[-1] == 1 and ((thin > 0) & (thin < .01)).sum() > 50
    assert np.interp(.003, thin, y) == pytest.approx(.003 ** .5, rel=.02)


def test_precision_and_recall_are_shown_whole_and_the_others_up_to_the_place():
    view, line = CurveView(), (np.array([0, .5, 1]), np.array([0, .5, 1]))
    view.show({"now": {"pixel": dict.fromkeys(("pro", "roc", "pr"), line), "image": dict.fromkeys(("roc", "pr"), line)}})
    view.upto.value = .05
    assert view.chart.frame.x_range == (0, .05) and "up to 5%" in view.chart.alt
    view.kind.value = "precision and recall of pixels"
    assert view.chart.frame.x_range == (0, 1) and "shown whole" in view.message.value


def test_the_view_of_clouds_has_no_pro_and_no_pixels():
    names = [name for name, _ in CurveView(clouds=True).kind.options]
    assert names and not any(word in " ".join(names) for word in ("PRO", "pixel", "image"))


def test_tables_say_undefined():
    nothing = confusion(np.array([1., 2]), [False, False], 5.)
    assert confusion_html({"a<b": nothing}).count("undefined") == 3 and "a&lt;b" in confusion_html({"a": nothing, "a<b": nothing})
    assert "undefined" in kinds_html({"dent": {"aupro@30": float("nan")}}, ("aupro@30",))
