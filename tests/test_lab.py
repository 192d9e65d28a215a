"""Figures and the ablation lab away from a browser: what must hold for any detector, any sample and both versions of ipywidgets."""
import re
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from lab_samples import CloudFake, make_cloud, make_sample

from mmad_nb.core import DataError
from mmad_nb.data import Cloud, Sample
from mmad_nb.detectors import Weight
from mmad_nb.lab import AblationLab, ablate, cloud_plot, cloud_still, overlay, score_limits, show_components, show_maps, show_sample
from mmad_nb.lab.ablation import Newest, change_text, metric_table
from mmad_nb.lab.decide import FLAGGED, flagged_colors, flagged_text
from mmad_nb.lab.figures import metric_label
from mmad_nb.lab.figures import LimitPanel, widgets_in
from mmad_nb.scoring import Evaluator, evaluate, threshold_at_rate


class Fake:
    "A detector by contract alone; it counts how often its network would run."
    weights = (Weight("alpha", "α", 0.5, 0, 1, "share of <geometry>"), Weight("rule", "rule", "add", meaning="how", choices=("add", "max")))
    runs = 0

    def components(self, samples):
        self.runs += 1
        rng = torch.Generator().manual_seed(0)
        noise = torch.rand((2, len(samples), *samples[0].size), generator=rng)
        found = torch.tensor(np.stack([s.mask for s in samples])).float()
        return {"rgb": noise[0], "xyz": noise[1] + 2 * found}

    def fuse(self, components, alpha=0.5, rule="add"):
        a, b = (1 - alpha) * components["rgb"], alpha * components["xyz"]
        return a + b if rule == "add" else torch.maximum(a, b)

    def image_scores(self, maps): return maps.amax((1, 2))


SAMPLES = [make_sample(d, i) for i, d in enumerate(("good", "dent", "good", "crack", "dent"))]


def rows_of_weights(lab):
    "A control and its meaning for each weight."
    return next(part for part in widgets_in(lab.box) if "mmad-weights" in getattr(part, "_dom_classes", ())).children


@pytest.fixture
def lab(): return AblationLab(Fake(), SAMPLES)


def test_the_network_runs_once(lab):
    for value in (0.1, 0.9): lab.controls["alpha"].value = value
    lab.controls["rule"].value = "max"
    lab.sample.value = 3
    assert lab.detector.runs == 1


def test_slider_and_sweep_draw_the_curve_one_at_a_time(lab):
    curve, inside, together, begun = lab.curve, [], [], threading.Event()
    draw = curve.chart.draw

    def slow_draw(*parts):
        inside.append(threading.get_ident())
        begun.set(); time.sleep(.1)
        together.extend(set(inside) - {threading.get_ident()})
        draw(*parts)
        inside.remove(threading.get_ident())

    curve.chart.draw = slow_draw
    other = threading.Thread(target=lambda: (setattr(curve, "drawn", None), curve.draw(now=True)))   # as a sweep does, from its thread
    other.start(); begun.wait(10)
    curve.show(lab.weights, lab.result.metrics)
    other.join(10)
    assert not together


def test_controls_follow_the_weights(lab):
    alpha, rule = lab.controls["alpha"], lab.controls["rule"]
    assert (alpha.min, alpha.max, alpha.value, alpha.description) == (0, 1, 0.5, "α")
    assert tuple(rule.options) == ("add", "max") and rule.value == "add"
    assert lab.weights == {"alpha": 0.5, "rule": "add"}


def test_moving_a_weight_changes_map_cloud_scores_and_metrics(lab):
    lab.sample.value = 1
    before = lab.image.value, lab.cloud.points.attribute.copy(), np.array(lab.strip.scores), lab.table.value
    lab.controls["alpha"].value = 0.1
    after = lab.image.value, lab.cloud.points.attribute, np.array(lab.strip.scores), lab.table.value
    assert before[0] != after[0] and (before[1] != after[1]).any() and (before[2] != after[2]).any() and before[3] != after[3]
    torch.testing.assert_close(lab.result.maps, 0.9 * lab.components["rgb"] + 0.1 * lab.components["xyz"])


def test_every_widget_is_changed_in_place(lab):
    parts = lambda: [lab.image, lab.cloud.plot, lab.cloud.points, lab.strip.chart.html, lab.curve.chart.html, lab.table, *lab.box.children]
    before = parts()
    lab.set(alpha=0.2, rule="max")
    lab.sample.value = 2
    assert all(a is b for a, b in zip(before, parts(), strict=True))


def test_the_view_survives_a_weight_but_not_another_sample(lab):
    lab.cloud.plot.camera = turned = [1.0] * 9
    lab.controls["alpha"].value = 0.7
    assert list(lab.cloud.plot.camera) == turned
    lab.sample.value = 1
    assert list(lab.cloud.plot.camera) != turned


def test_set_updates_once_and_reset_goes_back(lab):
    calls, moves, image = [], [], lab.image.value
    fuse, scores = lab.detector.fuse, lab.detector.image_scores
    lab.detector.fuse = lambda *a, **k: calls.append(k) or fuse(*a, **k)       # a few samples at a time
    lab.detector.image_scores = lambda maps: moves.append(len(maps)) or scores(maps)
    lab.set(alpha=0.9, rule="max")
    assert moves == [len(SAMPLES)] and all(call == {"alpha": 0.9, "rule": "max"} for call in calls)
    lab.button.click()
    assert lab.weights == {"alpha": 0.5, "rule": "add"} and lab.image.value == image


def test_only_what_changed_is_computed(lab):
    calls, fuse, evaluate = [], lab.detector.fuse, lab.evaluator.evaluate
    lab.detector.fuse = lambda *a, **k: calls.append("fuse") or fuse(*a, **k)
    lab.evaluator.evaluate = lambda *a, **k: calls.append("metrics") or evaluate(*a, **k)
    image, parts = lab.image.value, lab.parts.value
    lab.color.value = "mask"
    assert calls == [] and lab.image.value is image
    lab.sample.value = 3
    assert calls == [] and lab.image.value != image and lab.parts.value != parts
    parts = lab.parts.value
    lab.controls["alpha"].value = 0.2
    assert "metrics" in calls and lab.parts.value is parts


def test_the_cloud_wears_score_photo_and_mask(lab):
    lab.sample.value = 1
    lab.cloud.plot.camera = turned = [1.0] * 9
    for color in ("photo", "mask", "score"):
        lab.color.value = color
        assert lab.cloud.plot.objects == [lab.cloud.points] and list(lab.cloud.plot.camera) == turned
        if color == "mask": assert (lab.cloud.points.colors != 0x999999).sum() == SAMPLES[1].mask.sum()
        if color == "photo": assert len(set(lab.cloud.points.colors.tolist())) > 100
    assert len(lab.cloud.points.attribute) == len(lab.clouds[1])


def test_kept_rows_hold_weights_and_numbers_and_set_the_sliders(lab, tmp_path):
    lab.rows.folder = tmp_path
    lab.set(alpha=0.9, rule="max")
    lab.rows.name.value = "mostly geometry"
    lab.keep.click()
    kept, numbers = dict(lab.weights), dict(lab.result.metrics)
    lab.set(alpha=0.25)
    lab.keep.click()
    assert [row.name for row in lab.kept] == ["mostly geometry", "row 2"] and dict(lab.kept["mostly geometry"].metrics) == numbers
    lab.rows.list.value = "mostly geometry"
    assert lab.weights == kept
    lab.rows.buttons["save"].click()
    other = AblationLab(lab.detector, SAMPLES)
    other.rows.folder = tmp_path
    other.rows.file.value = "kept.json"
    other.rows.buttons["load"].click()
    assert [row.weights for row in other.kept] == [row.weights for row in lab.kept]
    assert dict(other.kept["mostly geometry"].metrics) == numbers and other.kept.own()


def test_the_code_gives_the_result(lab):
    lab.set(alpha=0.15, rule="max")
    names = {"detector": lab.detector, "samples": SAMPLES}
    exec(lab.code, names)
    torch.testing.assert_close(names["maps"], lab.result.maps)


def test_the_curve_is_the_metric_at_every_position(lab):
    lab.set(alpha=0.5, rule="max")
    lab.curve.metric.value = "pixel_auroc"
    lab.curve.sweep.result(60)
    lab.set(alpha=0.15)
    (x, y), here = lab.curve.line, lab.curve.here
    assert (len(x), here[0]) == (101, 0.15) and y[15] == here[1] == lab.result.metrics["pixel_auroc"]
    by_hand = ablate(lab.detector, lab.components, lab.evaluator, alpha=0.8, rule="max").metrics["pixel_auroc"]
    assert y[80] == pytest.approx(by_hand, abs=1e-12)
    sweep = lab.curve.sweep
    lab.set(alpha=0.9)
    assert lab.curve.sweep is sweep                              # the same rule: nothing new to compute
    lab.set(rule="add")
    assert lab.curve.sweep is not sweep


def test_an_error_in_the_background_is_shown(lab):
    fuse = lab.detector.fuse
    lab.detector.fuse = lambda parts, alpha=0.5, rule="add": 1 / 0 if alpha == 0 else fuse(parts, alpha, rule)
    lab.set(rule="max")
    assert isinstance(lab.curve.sweep.future.exception(60), ZeroDivisionError)   # at its first position
    with pytest.raises(ZeroDivisionError): lab.set(alpha=0.6)
    assert "ZeroDivisionError" in lab.message.value
    del lab.detector.fuse
    lab.set(alpha=0.7)                                           # a sweep that failed is started anew
    lab.curve.sweep.result(60)
    assert lab.message.value == ""


def test_no_curve_of_another_setting_is_left_standing(lab):
    lab.curve.sweep.result(60)
    lab.curve.draw(now=True)
    assert np.isfinite(lab.curve.line[1]).all()
    with lab.curve.turns:                                        # the background waits, so nothing is known yet
        lab.controls["rule"].value = "max"
        assert np.isnan(lab.curve.line[1]).all()


def test_sweeps_that_are_not_looked_at_are_given_up():
    class Three(Fake): weights = (Fake.weights[0], Weight("rule", "rule", "add", meaning="how", choices=("add", "max", "mul")))
    lab = AblationLab(Three(), SAMPLES)
    lab.curve.sweep.result(60), lab.curve.band.result(60)
    first = lab.curve.sweep
    with lab.curve.turns:                                        # the background waits
        lab.controls["rule"].value = "max"
        second = lab.curve.sweep
        lab.controls["rule"].value = "add"
        assert lab.curve.sweep is first and not second.stopped.is_set()
        lab.controls["rule"].value = "mul"
        assert second.stopped.is_set() and lab.curve.sweep not in (first, second)
    lab.curve.sweep.result(60)


def test_a_detector_with_choices_alone_has_no_curve():
    class Choosy(Fake): weights = Fake.weights[1:]
    lab = AblationLab(Choosy(), SAMPLES)
    lab.controls["rule"].value = "max"
    assert lab.curve.sweep is None and lab.curve.box.children == ()


def test_a_click_on_a_dot_chooses_the_sample(lab):
    lab.strip.chart.field.value = "4 1700000000000"             # what the page writes for a click on dot 4
    assert lab.sample.value == 4 and lab.strip.chart.html.value.count("aria-pressed='true'") == 1
    lab.after.click()
    assert lab.sample.value == 5 % len(SAMPLES)
    lab.sample.value = 0
    lab.before.click()
    assert lab.sample.value == len(SAMPLES) - 1                  # before the first comes the last


def test_a_click_on_the_curve_moves_the_weight(lab):
    lab.curve.chart.field.value = "0.31456 1"
    assert lab.controls["alpha"].value == .31
    lab.curve.sweep.result(60)
    lab.set(alpha=.5)
    values = np.array(lab.curve.line[1])
    lab.curve.best.click()
    assert lab.controls["alpha"].value == pytest.approx(lab.curve.line[0][int(values.argmax())]) and lab.curve.here[1] == values.max()


def test_no_best_is_invented_while_nothing_is_known(lab):
    before = lab.weights
    lab.curve.line = lab.curve.line[0], [float("nan")] * 101
    with pytest.raises(DataError, match="no position of the curve is known"): lab.go_to_best()
    lab.curve.best.click()                                       # a button says it in the panel
    assert lab.weights == before and "no position of the curve" in lab.message.value


def test_colours_keep_their_limits_until_they_are_rescaled(lab):
    limits, ends = lab.limits, lambda: re.findall(r"<span>([0-9.]+)</span>", lab.bar.value)
    before = ends()
    lab.set(rule="max", alpha=.9)
    assert lab.limits == limits and ends() == before
    lab.rescale.click()
    assert lab.limits == score_limits(lab.result.maps) != limits and ends() != before


def test_the_outline_can_be_switched_off(lab):
    lab.sample.value = next(i for i, s in enumerate(SAMPLES) if s.anomalous)
    with_line = lab.image.value, lab.photo.value
    lab.outline.value = False
    assert lab.image.value != with_line[0] and lab.photo.value != with_line[1]
    lab.outline.value = True
    assert (lab.image.value, lab.photo.value) == with_line


def test_a_map_of_one_value_is_called_constant(lab):
    lab.detector.fuse = lambda components, **weights: torch.zeros_like(components["rgb"])
    lab.set(alpha=.1)
    assert "here the same everywhere: 0" in lab.bar.value


def test_an_error_is_shown_and_raised(lab):
    lab.detector.fuse = lambda components, **weights: 1 / 0
    with pytest.raises(ZeroDivisionError): lab.controls["alpha"].value = 0.1
    assert "ZeroDivisionError" in lab.message.value
    del lab.detector.fuse
    lab.controls["alpha"].value = 0.2
    assert lab.message.value == ""


def test_meanings_are_text_not_markup(lab):
    rows = rows_of_weights(lab)
    assert "share of &lt;geometry&gt;" in rows[0].children[1].value


def test_a_sample_without_a_mask_is_refused_by_name():
    nameless = Sample(SAMPLES[0].rgb, SAMPLES[0].xyz, SAMPLES[0].valid, id="thing/test/x/007")
    with pytest.raises(DataError, match="thing/test/x/007.*no mask"): AblationLab(Fake(), [SAMPLES[0], nameless])


def test_defective_samples_count_as_such_even_with_an_empty_mask():
    empty = Sample(SAMPLES[1].rgb, SAMPLES[1].xyz, SAMPLES[1].valid, SAMPLES[1].mask & False, "thing", "dent", "e")
    lab = AblationLab(Fake(), [*SAMPLES, empty])
    scores, labels = np.asarray(lab.result.scores), np.array([s.anomalous for s in lab.samples])
    by_hand = (scores[labels][:, None] > scores[~labels]).mean()
    assert labels.sum() == 4 and lab.result.metrics["image_auroc"] == pytest.approx(by_hand)


def test_still_shows_sample_setting_and_metrics(lab):
    lab.sample.value = 3
    fig = lab.still()
    text = " ".join(t.get_text() for ax in fig.axes for t in [ax.title, *ax.texts])
    assert "thing: crack" in text and "α = 0.5" in text and "image AUROC" in text


def test_undefined_metrics_do_not_break_the_panel():
    lab = AblationLab(Fake(), [SAMPLES[0], SAMPLES[2]])          # nothing defective
    lab.controls["alpha"].value = 0.9
    assert "undefined" in lab.table.value and "nan" not in lab.table.value


def test_ablate_needs_no_widgets():
    detector = Fake()
    result = ablate(detector, detector.components(SAMPLES), Evaluator(np.stack([s.mask for s in SAMPLES])), alpha=1.0)
    assert result.metrics["pixel_auroc"] == 1.0                 # geometry alone lifts every defective pixel above all others
    assert result.weights == {"alpha": 1.0}


def test_metric_table_tells_better_from_worse_without_colour():
    table = metric_table({"aupro@30": 0.75, "pixel_ap": 0.25}, {"aupro@30": 0.5, "pixel_ap": 0.5}, changes={"aupro@30": (.1, .3), "pixel_ap": (-.3, -.1)})
    assert "+0.250 ▲" in table and "-0.250 ▼" in table


@pytest.mark.parametrize("change, interval, sign, colored", [(.1, (.02, .2), "▲", True), (-.1, (-.2, -.02), "▼", True), (.1, (0, .2), "≈", False),
                                                             (-.1, (-.2, 0), "≈", False), (.1, (np.nan, np.nan), "≈", False), (.1, None, "…", False), (0., (-.1, .1), "=", False)])
def test_a_change_that_may_be_chance_has_no_colour(change, interval, sign, colored):
    text = change_text(change, interval)
    assert sign in text and ("color:" in text) == colored


@pytest.mark.parametrize("score", [np.full((24, 24), 3.0), np.full((24, 24), np.nan), np.zeros((24, 24))])
def test_overlay_takes_constant_and_missing_scores(score):
    picture = overlay(SAMPLES[0].rgb, score, score_limits(score), mask=SAMPLES[1].mask)
    assert picture.dtype == np.uint8 and picture.shape == (24, 24, 3)


def test_show_sample_without_mask_and_without_any_measured_pixel():
    nothing = Sample(SAMPLES[0].rgb, SAMPLES[0].xyz * 0, SAMPLES[0].valid & False, category="thing")
    titles = [ax.get_title() for ax in show_sample(nothing).axes]
    assert titles[-1] == "mask: not given" and "near is bright" in titles[1]


def test_show_maps_refuses_maps_of_other_samples():
    with pytest.raises(DataError, match="found 5 maps; expected 2"): show_maps(SAMPLES[:2], np.zeros((5, 24, 24)))


def test_figures_are_not_shown_twice():
    import matplotlib.pyplot as plt
    plt.close("all")
    show_sample(SAMPLES[1]), show_maps(SAMPLES[:2], np.zeros((2, 24, 24))), cloud_still(SAMPLES[1].cloud(), "photo")
    assert plt.get_fignums() == []


def test_clouds_without_colours_normals_or_pixels():
    bare = Cloud(np.random.default_rng(0).random((50, 3)).astype(np.float32))
    for color in ("photo", "mask", np.arange(50.0)):
        assert len(cloud_plot(bare, color).objects[0].positions) == 50
        assert cloud_still(bare, color).axes
    for draw in (cloud_plot, cloud_still):                       # grey without a word would pass for a picture of normals
        with pytest.raises(DataError, match="no normals.*with_normals"): draw(bare, "normals")
    with pytest.raises(DataError, match="pixel"): cloud_plot(bare, np.zeros((24, 24)))
    with pytest.raises(DataError, match="50"): cloud_plot(bare, np.zeros(7))


# ---- clouds: no photo, a number of points of its own -----------------------------------------------------------------

CLOUDS = [make_cloud(d, i, 100 + 40 * i) for i, d in enumerate(("good", "dent", "good", "crack"))]
ALPHA = (Weight("alpha", "α", 0.5, 0, 1, "share"),)


@pytest.fixture
def cloud_lab(): return AblationLab(CloudFake(ALPHA), CLOUDS)


def test_a_lab_of_clouds_follows_weight_sample_and_colour(cloud_lab):
    lab, parts = cloud_lab, CloudFake(ALPHA).components(CLOUDS)
    assert [len(m) for m in lab.result.maps] == [100, 140, 180, 220] and lab.detector.runs == 1
    lab.sample.value = 3
    assert len(lab.cloud.points.positions) == 220 and lab.strip.chosen == 3
    before = lab.cloud.points.attribute.copy(), lab.table.value, np.array(lab.strip.scores)
    lab.controls["alpha"].value = 0.1
    assert torch.allclose(lab.result.maps[3], (0.9 * parts["rgb"] + 0.1 * parts["xyz"])[-220:])
    after = lab.cloud.points.attribute, lab.table.value, np.array(lab.strip.scores)
    assert (before[0] != after[0]).any() and before[1] != after[1] and (before[2] != after[2]).any()
    lab.color.value = "xyz"
    low, high = lab.part_limits["xyz"]
    assert np.allclose(lab.cloud.points.attribute, np.interp(parts["xyz"][-220:], (low, high), (0, 1)), atol=1e-5)
    lab.color.value = "mask"
    assert len(lab.cloud.points.colors) == 220 and len(set(lab.cloud.points.colors)) == 2
    assert lab.detector.runs == 1


def test_metrics_curve_code_and_still_of_clouds(cloud_lab):
    lab = cloud_lab
    expected = evaluate(lab.result.maps, [c.labels for c in CLOUDS])
    assert lab.result.metrics["pixel_auroc"] == pytest.approx(expected["pixel_auroc"]) and np.isnan(expected["aupro@30"])
    assert lab.table.value.count("undefined") == 4 and len(lab.curve.metric.options) == 6
    sweep = lab.curve.find(lab.weights)
    sweep.result()
    fused = list(CloudFake().fuse(lab.components, 1.).split([len(c) for c in CLOUDS]))
    assert sweep.curve("pixel_auroc")[-1] == pytest.approx(evaluate(fused, [c.labels for c in CLOUDS])["pixel_auroc"])
    assert "s.labels" in lab.code
    fig = lab.still()
    assert [ax.name for ax in fig.axes] == ["3d", "3d", "rectilinear"] and "thing: good" in fig.axes[0].get_title()


def test_a_lab_takes_one_kind_with_labels():
    with pytest.raises(DataError, match="one kind"): AblationLab(CloudFake(ALPHA), [*CLOUDS, *SAMPLES])
    with pytest.raises(DataError, match="no mask"): AblationLab(CloudFake(ALPHA), [*CLOUDS, Cloud(np.zeros((3, 3), np.float32))])
    with pytest.raises(DataError, match="at least one"): AblationLab(CloudFake(ALPHA), [])
    with pytest.raises(DataError, match="that of the masks"):                     # the components of other clouds
        AblationLab(CloudFake(ALPHA), CLOUDS, CloudFake(ALPHA).components(CLOUDS[:3]))


def counts(lab): return {name: int((lab.cloud.points.colors == int(color[1:], 16)).sum()) for name, color in FLAGGED.items()}


def test_what_is_flagged_follows_rate_weight_and_cloud(cloud_lab):
    lab = cloud_lab
    lab.sample.value, lab.color.value = 1, "flagged"
    assert lab.legend.value and not lab.bar.value
    truth, plot = np.concatenate([c.labels for c in CLOUDS]), lab.cloud.plot
    for alpha, rate, i in ((0.5, 0.01, 1), (0.5, 0.3, 1), (0.1, 0.3, 1), (0.1, 0.3, 3), (0.0, 0.1, 0)):
        lab.sample.value, lab.rate.value = i, rate
        lab.set(alpha=alpha)
        flat = np.concatenate([m.numpy() for m in lab.result.maps])
        normal = np.sort(flat[~truth])
        allowed = int(rate * len(normal))
        assert (normal > lab.threshold).sum() == allowed
        above, bad = lab.result.maps[i].numpy() > lab.threshold, CLOUDS[i].labels
        assert counts(lab) == {"found": (above & bad).sum(), "missed": (~above & bad).sum(), "false alarm": (above & ~bad).sum()}
        assert len(lab.cloud.points.colors) == len(CLOUDS[i]) and plot.objects == [lab.cloud.points]
        found, flagged = (flat[truth] > lab.threshold).mean(), flat > lab.threshold
        assert f", {allowed / len(normal):.1%} of the normal" in lab.legend.value
        assert f"found {found:.1%}" in lab.legend.value and f"flagged {truth[flagged].mean():.1%} are" in lab.legend.value
    lab.color.value = "score"
    assert lab.bar.value and len(lab.cloud.points.attribute) == len(CLOUDS[0])


def test_flags_keep_the_view_and_change_in_place(cloud_lab):
    lab = cloud_lab
    lab.sample.value = 3
    lab.cloud.plot.camera = turned = [1.0] * 9
    lab.rate.value = 0.1
    assert lab.color.value == "flagged"
    points, before, text = lab.cloud.points, lab.cloud.points.colors.copy(), lab.legend.value
    lab.rate.value = 0.3
    assert (points.colors != before).any() and lab.legend.value != text
    lab.controls["alpha"].value = 0.0
    assert lab.cloud.points is points and list(lab.cloud.plot.camera) == turned


def test_flags_of_photos_lie_at_their_pixels(lab):
    lab.sample.value, lab.rate.value = 1, 0.1
    row, column = lab.clouds[1].pixel.T
    above = lab.result.maps[1].numpy()[row, column] > lab.threshold
    masks = np.stack([s.mask for s in SAMPLES])
    assert (lab.result.maps.numpy()[~masks] > lab.threshold).mean() <= 0.1
    assert counts(lab)["false alarm"] == (above & ~SAMPLES[1].mask[row, column]).sum() > 0 and lab.bar.value


def test_what_is_flagged_in_words_where_nothing_is_defective_or_flagged():
    flat, truth = np.array([3., 1., 1., 1., 9.]), np.array([False] * 4 + [True])
    assert "found undefined" in flagged_text(flat, np.zeros(5, bool), 2.0) and "flagged undefined" in flagged_text(flat, truth, 10.0)
    assert "points" in flagged_text(flat, truth, 2.0, True) and "pixels" in flagged_text(flat, truth, 2.0)
    assert len(np.unique(flagged_colors(flat, None, 2.0), axis=0)) == 2


def test_a_weight_without_its_component_is_switched_off():
    weights = *ALPHA, Weight("beta", "β", 0.5, meaning="of the photo", needs="photo"), Weight("gamma", "γ", 0.5, needs="xyz")
    class Three(CloudFake):
        def fuse(self, components, alpha=0.5, beta=0.5, gamma=0.5): return super().fuse(components, alpha)
    lab = AblationLab(Three(weights), CLOUDS)
    assert [lab.controls[name].disabled for name in ("alpha", "beta", "gamma")] == [False, True, False]
    assert list(lab.curve.numeric) == ["alpha", "gamma"]
    shown = "".join(row.children[1].value for row in rows_of_weights(lab))
    assert shown.count("No effect here: there is no photo") == 1


def test_many_components_are_chosen_from_a_menu():
    class Many(CloudFake):
        def components(self, clouds):
            found = super().components(clouds)
            return {**found, **{f"part {i}": i + found["xyz"] for i in range(4)}}
    lab = AblationLab(Many(ALPHA), CLOUDS)
    assert type(lab.color).__name__ == "Dropdown" and type(AblationLab(CloudFake(ALPHA), CLOUDS).color).__name__ == "ToggleButtons"
    lab.color.value = "part 3"
    assert np.allclose(lab.cloud.points.attribute, np.interp(lab.components["part 3"][:100], lab.part_limits["part 3"], (0, 1)), atol=1e-5)


def test_clouds_have_objects_and_points_photos_images_and_pixels(cloud_lab, lab):
    assert [metric_label(n, True) for n in ("image_auroc", "pixel_ap", "aupro@30")] == ["object AUROC", "point AP", "AUPRO to 30 %"]
    for one, words, others in ((cloud_lab, "object AUROC,point AP", "image,pixel"), (lab, "image AUROC,pixel AP", "object,point")):
        one.keep_row()
        texts = one.table.value + one.rows.table.value + one.still().axes[-1].texts[0].get_text() + str(one.curve.metric.options[0][0])
        text = texts + one.strip.chart.frame.x_title + one.curve.chart.frame.y_title
        assert "nan" not in one.rows.table.value and one.curve.chart.frame.x_title == "α"
        assert all(word in text for word in words.split(",")) and not any(word in text for word in others.split(",")), text


def test_components_of_clouds_in_rows():
    parts = CloudFake().components(CLOUDS)
    fused = list(CloudFake().fuse(parts).split([len(c) for c in CLOUDS]))
    fig = show_components(CLOUDS, parts, fused=fused)
    drawn = [ax for ax in fig.axes if ax.name == "3d"]
    assert len(drawn) == 16 and [ax.get_title() for ax in drawn[1:4]] == ["rgb", "xyz", "fused"]
    assert [len(ax.collections[0].get_offsets()) for ax in drawn[3::4]] == [100, 140, 180, 220]
    many = dict.fromkeys(("a", "b"), [np.zeros(100)] * 3)
    with pytest.raises(DataError, match="one a cloud"): show_maps(CLOUDS, many)
    with pytest.raises(DataError, match="one kind"): show_maps([*CLOUDS, *SAMPLES], np.zeros((9, 24, 24)))
    with pytest.raises(DataError, match="cloud_still"): show_sample(CLOUDS[0])
    with pytest.raises(DataError, match="AblationLab"): LimitPanel(CLOUDS, np.zeros((4, 24, 24)))


def test_a_weight_has_no_dust_behind_the_ninth_digit(cloud_lab, lab):
    "The browser would send 0.30000000000000004 back as 0.3, perhaps after a reset."
    for one in (cloud_lab, lab):
        one.set(alpha=0.1 + 0.2)
        assert one.controls["alpha"].value == 0.3


def test_report_is_of_other_samples_with_the_present_weights():
    lab = AblationLab(Fake(), SAMPLES[:4], report=SAMPLES[4:])
    lab.set(alpha=.2)
    masks, labels = np.stack([s.mask for s in SAMPLES[4:]]), np.array([s.anomalous for s in SAMPLES[4:]])
    by_hand = ablate(Fake(), Fake().components(SAMPLES[4:]), Evaluator(masks, labels), alpha=.2, rule="add").metrics
    np.testing.assert_equal(dict(lab.reported), dict(by_hand))                     # NaN where it is undefined
    assert "report" in lab.table.value and "others with the same weights" in lab.table.value
    alone = AblationLab(Fake(), SAMPLES)
    assert alone.reported is None and "chosen on the samples it is reported on" in alone.table.value
    with pytest.raises(DataError, match="other samples"): AblationLab(Fake(), SAMPLES[:4], report=SAMPLES[3:])


def test_a_page_gets_the_picture_first_and_the_newest_numbers(lab, monkeypatch):
    "What the page asks for is computed behind its back; of several moves only the last one's numbers count."
    monkeypatch.setattr("mmad_nb.lab.ablation.asked_by_page", lambda: True)
    fused, gate, evaluate = [], threading.Event(), lab.evaluator.evaluate
    fuse = lab.detector.fuse

    def slow(components, **weights):
        fused.append((len(next(iter(components.values()))), weights["alpha"]))
        if len(fused) > 1 and threading.current_thread() is not threading.main_thread(): gate.wait(5)
        return fuse(components, **weights)
    lab.detector.fuse = slow
    image, dots = lab.image.value, lab.strip.chart.html.value
    for alpha in (.6, .7, .8): lab.controls["alpha"].value = alpha
    assert lab.image.value != image and lab.strip.chart.html.value == dots             # painted at once, numbers still to come
    assert [alpha for count, alpha in fused if count == 1][-1] == .8
    gate.set()
    lab.newest.wait()
    assert lab.result.weights["alpha"] == .8 and lab.strip.chart.html.value != dots
    assert torch.equal(lab.result.maps[lab.sample.value], lab.score)
    shown = lab.strip.chart.html.value
    monkeypatch.setattr("mmad_nb.lab.ablation.asked_by_page", lambda: False)
    lab.set(alpha=.2); lab.set(alpha=.8)                                     # a cell has its numbers when the line is done
    assert lab.strip.chart.html.value == shown


def test_an_error_behind_the_back_is_shown(lab, monkeypatch):
    monkeypatch.setattr("mmad_nb.lab.ablation.asked_by_page", lambda: True)
    monkeypatch.setattr(lab.detector, "image_scores", lambda maps: 1 / 0)
    lab.controls["alpha"].value = .35
    with pytest.raises(ZeroDivisionError): lab.newest.wait()
    assert "division by zero" in lab.message.value


def test_a_cell_is_not_the_page(monkeypatch):
    from types import SimpleNamespace
    from mmad_nb.lab.ablation import asked_by_page
    assert not asked_by_page()
    for kind, page in (("execute_request", False), ("comm_msg", True)):
        kernel = SimpleNamespace(get_parent=lambda kind=kind: {"header": {"msg_type": kind}})
        monkeypatch.setattr("IPython.get_ipython", lambda kernel=kernel: SimpleNamespace(kernel=kernel))
        assert asked_by_page() is page


TWO = [replace(s, category=name) for name in ("bolt", "nut") for s in SAMPLES]


def test_the_headline_is_the_mean_of_the_categories():
    "One pot compares scores of different categories: here those of nuts are ten times those of bolts."
    class Apart(Fake):
        def components(self, samples):
            size = torch.tensor([10. if s.category == "nut" else 1. for s in samples])[:, None, None]
            return {name: size * maps for name, maps in super().components(samples).items()}
    lab = AblationLab(Apart(), TWO)
    within = [Evaluator(np.stack([s.mask for s in SAMPLES])).evaluate(lab.result.maps[k:k + 5], lab.result.scores[k:k + 5]) for k in (0, 5)]
    for name, value in lab.result.metrics.items(): assert value == pytest.approx((within[0][name] + within[1][name]) / 2)
    whole = lambda: lab.evaluator.draws(lab.result.maps, lab.result.scores).whole["pixel_auroc"]
    assert whole() == pytest.approx(lab.result.metrics["pixel_auroc"], abs=2e-3)
    lab.curve.sweep.result(60)
    x, y = lab.curve.line
    assert np.asarray(y)[50] == pytest.approx(lab.default.metrics[lab.curve.metric.value])
    table, line = lab.table.value, list(y)
    lab.pool.value = True
    pooled = Evaluator(np.stack([s.mask for s in TWO])).evaluate(lab.result.maps, lab.result.scores)
    assert whole() == pytest.approx(pooled["pixel_auroc"], abs=2e-3)
    assert dict(lab.result.metrics) == dict(pooled) != dict(within[0]) and lab.table.value != table and "one pot" in lab.table.value
    lab.curve.sweep.result(60)
    lab.curve.draw(now=True)
    assert list(lab.curve.line[1]) != line
    with pytest.raises(DataError, match="all samples in one pot"): lab.present()             # rows are compared with each other
    lab.keep.click()
    assert len(lab.kept) == 0 and "one pot" in lab.message.value
    lab.rows.buttons["keep"].click()
    assert len(lab.kept) == 0 and "one pot" in lab.rows.message.value
    lab.pool.value = False
    assert lab.table.value == table
    lab.keep.click()
    assert len(lab.kept) == 1


def test_intervals_belong_to_the_present_setting(lab):
    lab.set(alpha=.9)
    draws = lab.evaluator.draws(lab.result.maps, lab.result.scores)
    assert lab.intervals == draws.interval() and lab.changes == (draws - lab.default_draws).interval()
    low, high = lab.intervals["pixel_auroc"]
    assert f"{low:.2f} – {high:.2f}" in lab.table.value
    lab.reset()
    assert set(lab.changes.values()) == {(0., 0.)} and "≈<" not in lab.table.value
    pair = AblationLab(Fake(), SAMPLES[:2])                      # one good, one defective: drawn again, they are the same
    pair.set(alpha=0.)
    assert "▲" not in pair.table.value and "▼" not in pair.table.value and "≈<" in pair.table.value and "too narrow" in pair.table.value
    alone = AblationLab(Fake(), [SAMPLES[0], SAMPLES[2]])        # nothing defective: no interval, and no error
    alone.set(alpha=.9)
    assert "undefined" in alone.table.value


def test_an_open_tab_follows_the_weights_and_a_closed_one_costs_nothing(lab, monkeypatch):
    calls = []
    curves = lab.curves_of
    monkeypatch.setattr(AblationLab, "curves_of", lambda self, weights: calls.append(1) or curves(weights))
    lab.set(alpha=.1)
    assert not calls
    lab.tabs.selected_index = lab.titles.index("curves")
    shown = lab.curves.chart.html.value
    assert calls and ">now<" in shown and ">default<" in shown
    lab.set(alpha=.9)
    assert lab.curves.chart.html.value != shown
    lab.keep.click()
    assert ">row 1<" in lab.curves.chart.html.value
    lab.tabs.selected_index = lab.titles.index("categories and kinds")
    kinds = lab.kinds_table.value
    assert ">dent<" in kinds and ">crack<" in kinds
    lab.set(alpha=.2)
    assert lab.kinds_table.value != kinds


def test_the_line_and_its_errors(lab):
    lab.tabs.selected_index = lab.titles.index("threshold")
    labels, scores = np.array([s.anomalous for s in SAMPLES]), np.asarray(lab.result.scores)
    lab.decision.count.value = 0
    lab.menu.only.value = "judged wrongly"
    assert {i for _, i in lab.sample.options} == set(np.flatnonzero(labels))      # all defective ones pass
    lab.decision.count.value = len(SAMPLES)
    assert {i for _, i in lab.sample.options} - {lab.sample.value} <= set(np.flatnonzero(~labels))
    before = lab.flagged.value
    lab.rate.value = .3
    assert lab.flagged.value != before
    lab.menu.only.value = "all"
    lab.menu.order.value = "highest score first"
    lab.set(alpha=.05)                                                           # other scores, another order
    assert [i for _, i in lab.sample.options] == np.argsort(-np.asarray(lab.result.scores), kind="stable").tolist()


def test_report_has_the_line_as_it_stands():
    others = [replace(s, id=f"other {s.id}") for s in SAMPLES]
    lab = AblationLab(Fake(), SAMPLES, report=others)
    assert "<th scope='row' style='text-align:left;font-weight:normal'>report" in lab.decision.table.value
    lab.set(alpha=.8)
    assert lab.kept.reported and lab.present()[2] == lab.reported


def test_a_place_on_the_map_of_two_weights_sets_both():
    class Two(Fake):
        weights = Fake.weights[0], Weight("beta", "β", 1., 0, 2, "strength")
        def fuse(self, components, alpha=.5, beta=1.): return (1 - alpha) * components["rgb"] + beta * alpha * components["xyz"]
    lab = AblationLab(Two(), SAMPLES)
    assert "two weights" in lab.titles and "two weights" not in AblationLab(Fake(), SAMPLES).titles
    lab.tabs.selected_index = lab.titles.index("two weights")
    lab.heat.sweep.result(120)
    lab.heat.best.click()
    assert lab.weights == pytest.approx(lab.heat.peak())


def test_a_row_that_is_kept_while_numbers_are_under_way_has_its_own_numbers(lab, monkeypatch):
    monkeypatch.setattr("mmad_nb.lab.ablation.asked_by_page", lambda: True)
    monkeypatch.setattr(lab.newest, "ask", lambda work: None)                # the background has not come to it yet
    lab.controls["alpha"].value = .1
    lab.keep.click()
    row = lab.kept["row 1"]
    assert row.weights["alpha"] == .1 and row.intervals
    assert dict(row.metrics) == dict(ablate(lab.detector, lab.components, lab.evaluator, **lab.weights).metrics)


def test_of_several_requests_only_the_newest_is_done():
    newest, done, gate = Newest(), [], threading.Event()
    def work(name):
        def run(pause):
            gate.wait(5)
            pause()
            done.append(name)
        return run
    for name in "abc": newest.ask(work(name))
    gate.set(), newest.wait()
    newest.ask(work("d")), newest.wait()
    assert done == ["c", "d"]
    gate.clear()
    newest.ask(work("e")), newest.stop(), gate.set(), newest.wait()
    assert done == ["c", "d"]


def test_a_closed_lab_computes_nothing_any_more():
    class Two(Fake):
        weights = Fake.weights[0], Weight("beta", "β", 1., 0, 2, "strength")
        def fuse(self, components, alpha=.5, beta=1.): return (1 - alpha) * components["rgb"] + beta * alpha * components["xyz"]
    lab = AblationLab(Two(), SAMPLES)
    lab.tabs.selected_index = lab.titles.index("two weights")
    lab.set(alpha=.2)
    sweeps, asked = (lab.curve.sweep, lab.heat.sweep), lab.newest.asked
    lab.close()
    assert all(sweep.stopped.is_set() for sweep in sweeps) and lab.newest.asked > asked


def test_metrics_that_were_computed_behind_the_back_are_not_computed_again(lab, monkeypatch):
    monkeypatch.setattr("mmad_nb.lab.ablation.asked_by_page", lambda: True)
    seen, evaluate = [], type(lab.evaluator).evaluate
    monkeypatch.setattr(type(lab.evaluator), "evaluate", lambda self, maps, *given, **named: seen.append(type(maps)) or evaluate(self, maps, *given, **named))
    lab.controls["alpha"].value = .15
    lab.newest.wait()
    assert seen.count(torch.Tensor) == 1 and lab.result.evaluator is lab.evaluator and lab.result.metrics


def test_a_kept_row_holds_its_numbers_within_categories_and_kinds():
    lab = AblationLab(Fake(), TWO)
    lab.set(alpha=.2)
    lab.keep.click()
    groups = lab.kept["row 1"].groups
    kinds = {s.defect for s in SAMPLES} - {"good"}
    assert set(groups) == {"bolt", "nut", *(f"{category}/{kind}" for category in ("bolt", "nut") for kind in kinds)}
    by_hand = Evaluator(np.stack([s.mask for s in SAMPLES])).evaluate(lab.result.maps[:5], lab.result.scores[:5])
    assert groups["bolt"] == pytest.approx(dict(by_hand), nan_ok=True)
    alone = [i for i, s in enumerate(SAMPLES) if s.defect in ("good", "dent")]
    by_hand = Evaluator(np.stack([SAMPLES[i].mask for i in alone])).evaluate(lab.result.maps[alone], lab.result.scores[alone])
    assert groups["bolt/dent"] == pytest.approx(dict(by_hand), nan_ok=True)
