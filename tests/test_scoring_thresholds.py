"Thresholds: every rule against trying all of them, neighbours in floating point, infinities, clouds and pictures, and bad input."
import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_recall_curve

from mmad_nb.core.runtime import DataError
from mmad_nb.scoring import (Confusion, average_precision, best_threshold, cheapest_threshold, confusion, f1_max, pr_curve, roc_curve, threshold_at_rate)
from mmad_nb.scoring.thresholds import ThresholdPanel, candidates, scores_and_labels


def case(seed):
    rng = np.random.default_rng(seed)
    labels = rng.random(60) < .3
    labels[:2] = True, False
    scores = (rng.normal(size=60) + labels).round(seed % 4)
    if seed % 5 == 0: scores[rng.random(60) < .1] = np.inf
    if seed % 7 == 0: scores[rng.random(60) < .1] = -np.inf
    return scores.astype((np.float32, np.float64)[seed % 2]), labels


def all_of_them(scores, labels):
    "Counts at every threshold that differs, by brute force."
    return [confusion(scores, labels, t) for t in [-np.inf, *np.unique(scores)]] + [Confusion(int(labels.sum()), 0, int((~labels).sum()), 0)]


def test_best_threshold_reaches_f1_max_and_no_other_does_better():
    for seed in range(40):
        scores, labels = case(seed)
        t = best_threshold(scores, labels)
        reached = confusion(scores, labels, t).f1
        if np.isfinite(scores).all():
            assert reached == pytest.approx(f1_max(scores[labels], scores[~labels]), abs=1e-12)
            higher = [confusion(scores, labels, u).f1 for u in np.unique(scores) if u > t]
            assert all(f < reached - 1e-12 for f in higher[1:])                               # the highest of several; higher[0] is across the gap
        assert reached >= max(c.f1 for c in all_of_them(scores, labels)[1:-1]) - 1e-12
        assert (scores >= t).sum() == (scores > t).sum() or np.isinf(scores).any()            # strictly between two scores


def test_candidates_count_what_confusion_counts():
    for seed in range(40):
        scores, labels = case(seed)
        thresholds, found, alarms = candidates(*scores_and_labels(scores, labels))
        assert (np.diff(thresholds) <= 0).all() and found[0] == alarms[0] == 0
        for t, f, a in zip(thresholds[:-1], found, alarms):
            assert confusion(scores, labels, t) == Confusion(f, labels.sum() - f, a, (~labels).sum() - a)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbours_in_floating_point(dtype):
    one = dtype(1)
    scores, labels = np.array([one, np.nextafter(one, dtype(2)), np.nextafter(one, dtype(0))]), [0, 1, 0]
    c = confusion(scores, labels, best_threshold(scores, labels))
    assert c == Confusion(1, 0, 0, 2)
    large = np.array([np.finfo(dtype).max, -np.finfo(dtype).max])
    assert confusion(large, [1, 0], best_threshold(large, [1, 0])) == Confusion(1, 0, 0, 1)


def test_everything_is_flagged_where_that_is_best():
    assert best_threshold([1., 1, 1], [1, 1, 0]) < 1 and confusion([1., 1, 1], [1, 1, 0], best_threshold([1., 1, 1], [1, 1, 0])) == Confusion(2, 0, 1, 0)
    assert best_threshold([3., 4], [1, 1]) < 3


def test_cheapest_by_trying_all():
    for seed in range(20):
        scores, labels = case(seed)
        scores = np.where(np.isfinite(scores), scores, 0)
        for miss, alarm, share in ((1, 1, None), (10, 1, .02), (1, 30, .5), (0, 1, .5), (1, 0, .5)):
            t, cost = cheapest_threshold(scores, labels, miss, alarm, share)
            part = labels.mean() if share is None else share
            price = lambda c: part * miss * (1 - c.recall) + (1 - part) * alarm * c.false_positive_rate
            assert price(confusion(scores, labels, t)) == pytest.approx(cost) == pytest.approx(min(map(price, all_of_them(scores, labels))))


def test_of_equally_cheap_ones_the_highest():
    assert cheapest_threshold([2., 5, 6, 1, 1, 3, 5], [1, 1, 1, 0, 0, 0, 0], 1, 1)[0] == 5.5      # 2/7 also at 4 and at 1.5


def test_curves_pass_through_the_counts():
    for seed in (1, 2, 3, 4):
        scores, labels = case(seed)
        recall, precision = pr_curve(scores[labels], scores[~labels])
        theirs = precision_recall_curve(labels, scores)
        assert all(np.isclose(theirs[0][:-1][np.isclose(theirs[1][:-1], r)], p).any() for r, p in zip(recall, precision))
        assert (np.diff(recall, prepend=0) * precision).sum() == pytest.approx(average_precision(scores[labels], scores[~labels]))
        c = confusion(scores, labels, best_threshold(scores, labels))
        fpr, tpr = roc_curve(scores[labels], scores[~labels])
        assert np.isclose(fpr, c.false_positive_rate)[np.isclose(tpr, c.recall)].any()


def test_rate_is_never_exceeded_and_could_not_be_lower():
    rng = np.random.default_rng(0)
    for n in (1, 7, 100):
        normal = rng.normal(size=n).round(1)
        for rate in (0, .01, .05, .3, 1):
            t = threshold_at_rate(normal, rate)
            assert (normal > t).mean() <= rate
            lower = normal[normal < t]
            assert len(lower) == 0 or (normal > lower.max()).mean() > rate or rate == 1
    assert [threshold_at_rate([4., 1, 3], rate) for rate in (0, .34, 1)] == [4, 3, 1]
    assert threshold_at_rate(torch.tensor([1., 2]), 0) == 2 == threshold_at_rate([1, 2], 0)


def test_pictures_clouds_and_tensors():
    maps, masks = torch.rand(3, 4, 5), torch.rand(3, 4, 5) > .5
    c = confusion(maps, masks, .4)
    tn, fp, fn, tp = confusion_matrix(masks.flatten(), maps.flatten() > .4).ravel()
    assert c == Confusion(tp, fn, fp, tn)
    clouds, labels = [maps[0, 0], maps[1, 0, :3]], [masks[0, 0], masks[1, 0, :3]]
    joined = confusion(torch.cat(clouds), torch.cat(labels), .4)
    assert confusion(clouds, labels, .4) == joined == confusion([s.numpy() for s in clouds], [m.numpy() for m in labels], .4)
    assert best_threshold(clouds, labels) == best_threshold(torch.cat(clouds), torch.cat(labels))


def test_ratios_that_are_undefined():
    nan = lambda value: value != value
    nothing_flagged, nothing_defective, all_defective = Confusion(0, 2, 0, 3), Confusion(0, 0, 1, 3), Confusion(2, 1, 0, 0)
    assert nan(nothing_flagged.precision) and nothing_flagged.f1 == 0 == nothing_flagged.recall
    assert nan(nothing_defective.recall) and nan(nothing_defective.f1) and nothing_defective.precision == 0 and nothing_defective.false_positive_rate == .25
    assert nan(all_defective.false_positive_rate) and all_defective.f1 == .8
    assert "missed 2" in nothing_flagged._repr_html_()


@pytest.mark.parametrize("call, words", [
    (lambda: confusion([1., 2], [1], 0), "the same shape"),
    (lambda: confusion([], [], 0), "not empty"),
    (lambda: confusion([1., np.nan], [1, 0], 0), "NaN"),
    (lambda: confusion([1., 2], [1, 0], np.nan), "best_threshold"),
    (lambda: confusion([1., 2], ["good", "hole"], 0), "labels"),
    (lambda: confusion([np.ones(2), np.ones(3)], [np.ones(2), np.ones(2)], 0), "as many as have scores"),
    (lambda: best_threshold([1., 2], [0, 0]), "nothing defective"),
    (lambda: threshold_at_rate([], .1), "at least one"),
    (lambda: threshold_at_rate([1.], 5), "5 percent is 0.05"),
    (lambda: threshold_at_rate([np.nan], .1), "NaN"),
    (lambda: cheapest_threshold([1., 2], [1, 1], 1, 1), "good and defective ones"),
    (lambda: cheapest_threshold([1., 2], [1, 0], -1, 1), "0 or more"),
    (lambda: cheapest_threshold([1., 2], [1, 0], 1, np.nan), "0 or more"),
    (lambda: cheapest_threshold([1., 2], [1, 0], 1, 1, 2), "1 percent is 0.01"),
    (lambda: pr_curve([], [1.]), "no defective score"),
])
def test_bad_input(call, words):
    with pytest.raises(DataError, match=words): call()


def test_panel_by_rule_and_by_hand():
    scores, labels = case(1)
    panel = ThresholdPanel(scores, labels)
    assert panel.used == best_threshold(scores, labels) and panel.threshold.value == pytest.approx(panel.used, abs=.1)
    panel.rule.value = "5 % false alarms"
    assert panel.used == threshold_at_rate(scores[~labels], .05)
    panel.threshold.value = 0.
    assert panel.rule.value == "by hand" and panel.confusion == confusion(scores, labels, 0.)
    panel.rule.value = "lowest cost"
    assert panel.used == cheapest_threshold(scores, labels, 10, 1)[0]
    ThresholdPanel([1., 1], [1, 0])                                                           # all scores equal: still a slider
