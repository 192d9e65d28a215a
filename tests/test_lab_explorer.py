"""The explorer and the point picker away from a browser: what is compared, what is left alone, what is refused."""
import ipywidgets
import numpy as np
import pytest
import torch
from lab_samples import CloudFake, make_cloud, make_sample

import mmad_nb.lab.explorer as module
from mmad_nb.core import DataError
from mmad_nb.data import Cloud, Sample
from mmad_nb.detectors import Weight
from mmad_nb.lab import Explorer, PointPicker, rank_map, score_limits
from mmad_nb.lab.explorer import RANKS, difference_picture, normal_pixels
from mmad_nb.lab.picking import thinned


class Fake:
    "A detector by contract alone, in a unit of its own; it counts its calls."
    weights = (Weight("alpha", "α", 0.5, 0, 1, "share of <geometry>"), Weight("rule", "", "add", meaning="how", choices=("add", "max")))

    def __init__(self, unit=1.0, seed=0): self.unit, self.seed, self.runs, self.fused = unit, seed, 0, []

    def components(self, samples):
        self.runs += 1
        noise = torch.rand((2, len(samples), *samples[0].size), generator=torch.Generator().manual_seed(self.seed))
        found = torch.tensor(np.stack([s.mask for s in samples])).float()
        return {"rgb": self.unit * noise[0], "xyz": self.unit * (noise[1] + 2 * found)}

    def fuse(self, components, alpha=0.5, rule="add"):
        if (alpha, rule) not in self.fused[-1:]: self.fused.append((alpha, rule))   # one fusion comes in several pieces
        a, b = (1 - alpha) * components["rgb"], alpha * components["xyz"]
        return a + b if rule == "add" else torch.maximum(a, b)

    def image_scores(self, maps): return maps.amax((1, 2))


def headline(figure):
    "What stands above all axes."
    return " ".join(text.get_text() for text in figure.texts)


SAMPLES = [make_sample(d, i) for i, d in enumerate(("dent", "good", "good", "crack", "dent"))]
PARTS = "photo", "left", "right", "difference"


@pytest.fixture
def two(): return Explorer(Fake(), Fake(unit=10.0, seed=1), SAMPLES)


@pytest.fixture
def one():
    detector = Fake()
    return Explorer((detector, {"alpha": 0.2}), (detector, {"alpha": 0.8}), SAMPLES)


def pictures(panel): return {part: panel.images[part].value for part in PARTS}
def others(before, after): return [part for part in PARTS if before[part] != after[part]]


def test_a_network_runs_once_for_each_detector(one, two):
    assert one.left.detector.runs == 1 and one.left.components is one.right.components
    for panel in (one, two):
        panel.left.controls["alpha"].value = 0.1
        panel.sample.value, panel.scale.value = 3, "rank"
        panel.right.controls["rule"].value = "max"
    assert (one.left.detector.runs, two.left.detector.runs, two.right.detector.runs) == (1, 1, 1)


def test_components_that_are_there_are_used():
    left, right = Fake(), Fake(seed=1)
    panel = Explorer(left, right, SAMPLES, {left: (ready := Fake(seed=7).components(SAMPLES))})
    assert (left.runs, right.runs) == (0, 1) and panel.left.components is ready


def test_only_the_side_that_moved_is_fused(one):
    fused = one.left.detector.fused
    assert fused == [(0.2, "add"), (0.8, "add")]
    one.right.controls["alpha"].value = 0.6
    one.sample.value, one.scale.value = 3, "rank"
    assert fused[2:] == [(0.6, "add")]
    one.set(left={"alpha": 0.3, "rule": "max"}, right={"alpha": 0.7})
    assert fused[3:] == [(0.3, "max"), (0.7, "add")]


def test_metrics_are_computed_once_for_each_setting(one, monkeypatch):
    calls, evaluator = [], one.left.truth.evaluator
    evaluate = evaluator.evaluate
    monkeypatch.setattr(evaluator, "evaluate", lambda *a: calls.append(1) or evaluate(*a))
    one.sample.value, one.scale.value = 2, "rank"
    one.still()
    assert calls == []
    one.left.controls["alpha"].value = 0.4
    assert len(calls) == 1


def test_what_did_not_change_is_not_rebuilt(one, monkeypatch):
    one.scale.value = "rank"
    before, attribute = pictures(one), one.right.cloud.points.attribute
    painted, encode = [], module.png_bytes
    monkeypatch.setattr(module, "png_bytes", lambda p: painted.append(1) or encode(p))
    one.left.controls["alpha"].value = 0.4
    assert others(before, pictures(one)) == ["left", "difference"] and len(painted) == 2
    assert one.right.cloud.points.attribute is attribute
    one.refresh()
    assert len(painted) == 2


def test_shared_limits_repaint_both(one):
    before = pictures(one)
    one.left.controls["alpha"].value = 0.9          # more geometry: higher scores, so a wider scale for both
    assert others(before, pictures(one)) == ["left", "right", "difference"]
    lows, highs = zip(one.left.now.limits, one.right.now.limits)
    assert one.limits == (min(lows), max(highs)) and f"{max(highs):.3g}" in one.bar.value
    assert one.left.now.limits == score_limits(one.left.now.maps)


def test_the_menu_starts_in_the_scale_that_can_be_compared(one, two):
    assert (one.scale.value, two.scale.value) == ("score", "rank")
    assert two.limits == RANKS
    two.scale.value = "score"
    assert two.limits[1] > 5                         # the unit of the right side is ten times as large


def test_a_rank_is_the_share_of_normal_pixels_that_score_lower(two):
    masks, panel = np.stack([s.mask for s in SAMPLES]), two
    for side in (panel.left, panel.right):
        maps = side.now.maps.numpy()
        normal = maps[~masks]                        # fewer than 10,000 here, so all of them are used
        assert len(normal) == len(normal_pixels(masks))
        expected = (normal[:, None, None] < maps[0]).mean(0)
        np.testing.assert_allclose(side.now.map(0, "rank"), expected, atol=1e-6)
    alarms = (panel.left.now.map(1, "rank") >= 0.9).mean()
    assert alarms == pytest.approx((panel.left.now.maps[1].numpy() >= np.quantile(panel.left.now.maps.numpy()[~masks], 0.9)).mean(), abs=0.01)


def test_ranks_count_strictly_lower_scores():
    np.testing.assert_allclose(rank_map(np.array([[0, 1, 2, 2.5, 9]]), np.array([2.0, 2, 1, 4])), [[0, 0, 0.25, 0.75, 1]])


def test_a_unit_does_not_change_a_rank():
    detector = Fake()
    tenfold = Fake(unit=10.0)
    panel = Explorer(detector, tenfold, SAMPLES)
    np.testing.assert_allclose(panel.left.now.map(0, "rank"), panel.right.now.map(0, "rank"), atol=1e-3)
    assert panel.images["left"].value == panel.images["right"].value
    panel.scale.value = "score"
    assert panel.images["left"].value != panel.images["right"].value


def test_normal_pixels_are_few_seeded_and_not_defective():
    masks = np.random.default_rng(0).random((3, 40, 40)) < 0.3
    chosen = normal_pixels(masks, 100)
    assert len(set(chosen)) == 100 and not masks.ravel()[chosen].any()
    assert (chosen == normal_pixels(masks, 100)).all() and (chosen != normal_pixels(masks, 100, seed=1)).any()


def test_difference_signs_and_symmetry():
    values = np.array([[0.0, 1, 2, 3, 4]])
    ahead, behind = difference_picture(values, values * 0 + 2, (0, 4))[0], difference_picture(values * 0 + 2, values, (0, 4))[0]
    assert (ahead == behind[::-1]).all() and (ahead[2] > 240).all()
    assert ahead[0][0] > ahead[0][2] and ahead[-1][2] > ahead[-1][1]                       # orange, purple


def test_cameras_are_tied_in_the_browser(two):
    (link,) = two.link
    assert isinstance(link, ipywidgets.Widget)
    assert link.source == (two.left.cloud.plot, "camera") and link.target == (two.right.cloud.plot, "camera")


def test_the_view_survives_a_weight_but_not_another_sample(two):
    for side in (two.left, two.right): side.cloud.plot.camera = [1.0] * 9
    two.left.controls["alpha"].value = 0.7
    assert list(two.left.cloud.plot.camera) == list(two.right.cloud.plot.camera) == [1.0] * 9
    two.sample.value = 1
    assert list(two.left.cloud.plot.camera) == list(two.right.cloud.plot.camera) != [1.0] * 9


def test_clouds_carry_the_colours_of_the_maps(two):
    two.sample.value = 3
    for side in (two.left, two.right):
        row, column = two.clouds[3].pixel.T
        np.testing.assert_allclose(side.cloud.points.attribute, np.clip((side.now.map(3, "rank")[row, column] - 0.9) / 0.1, 0, 1), atol=1e-5)


def test_every_widget_is_changed_in_place(one):
    parts = lambda: [one.left.cloud.plot, one.right.cloud.points, one.table, *one.images.values(), *one.box.children]
    before = parts()
    one.set(left={"alpha": 0.9})
    one.sample.value, one.scale.value = 3, "rank"
    assert all(a is b for a, b in zip(before, parts(), strict=True))


def test_the_table_says_which_side_is_better():
    detector = Fake()
    panel = Explorer((detector, {"alpha": 0.0}), (detector, {"alpha": 1.0}), SAMPLES)
    left, right = panel.left.now.metrics["pixel_auroc"], panel.right.now.metrics["pixel_auroc"]
    assert right == 1.0 > left and f"{left - right:+.3f} ▶" in panel.table.value and "◀" not in panel.table.value


def test_reset_goes_back_to_the_start(one):
    before, table = pictures(one), one.table.value
    one.set(left={"alpha": 0.9, "rule": "max"}, right={"alpha": 0.1})
    one.button.click()
    assert one.left.weights == {"alpha": 0.2, "rule": "add"} and one.right.weights["alpha"] == 0.8
    assert pictures(one) == before and one.table.value == table


def test_an_error_is_shown_and_raised_and_goes_away(one):
    def broken(components, **weights): raise ValueError("no <such> thing")
    one.left.detector.fuse = broken
    with pytest.raises(ValueError): one.left.controls["alpha"].value = 0.1
    assert "ValueError: no &lt;such&gt; thing" in one.message.value
    del one.left.detector.fuse
    one.sample.value = 1                             # whatever moves next: the side that failed is asked again
    assert one.message.value == "" and one.left.now.weights["alpha"] == 0.1


def test_undefined_metrics_do_not_break_the_panel():
    panel = Explorer(Fake(), Fake(seed=1), SAMPLES[1:3])    # nothing defective
    panel.left.controls["alpha"].value = 0.9
    assert "undefined" in panel.table.value and "nan" not in panel.table.value


def test_still_shows_both_settings_and_the_scale(one):
    fig = one.still()
    text = " ".join(t.get_text() for ax in fig.axes for t in [ax.title, *ax.texts]) + headline(fig)
    for part in ("thing: dent", "left: α = 0.2", "right: α = 0.8", "image AUROC", "score"): assert part in text


def test_repr_of_a_detector_is_text_not_markup():
    class Odd(Fake):
        def __repr__(self): return "<b>odd</b>"
    box = Explorer(Odd(), Fake(), SAMPLES).box
    html = [w.value for row in box.children[1].children for w in row.children if isinstance(w, ipywidgets.HTML)]
    assert "<b>left:</b> &lt;b&gt;odd&lt;/b&gt;" in html and any("share of &lt;geometry&gt;" in h for h in html)


@pytest.mark.parametrize("left, message", [
    ("cfm", "the left side: found str"), ((Fake(), {"alhpa": 0.3}), "Did you mean 'alpha'"), ((Fake(), {"alpha": 2}), "a number from 0 to 1"),
    ((Fake(), 0.3), "the left side: found weights as a float")])
def test_bad_sides_are_refused(left, message):
    with pytest.raises(DataError, match=message): Explorer(left, Fake(), SAMPLES)


def test_bad_samples_are_refused():
    nameless = Sample(SAMPLES[0].rgb, SAMPLES[0].xyz, SAMPLES[0].valid, id="thing/test/x/007")
    with pytest.raises(DataError, match="thing/test/x/007.*no mask"): Explorer(Fake(), Fake(), [SAMPLES[0], nameless])
    with pytest.raises(DataError, match="samples: found none"): Explorer(Fake(), Fake(), [])
    with pytest.raises(DataError, match="no normal pixel"): normal_pixels(np.ones((1, 2, 2), bool))


def test_what_one_side_says_is_not_overwritten_by_the_other(one):
    kept = one.left.now.maps.clone()
    one.right.controls["alpha"].value = 0.5
    assert torch.equal(one.left.now.maps, kept)
    torch.testing.assert_close(kept, one.left.detector.fuse(one.left.components, alpha=0.2))


# The point picker


@pytest.fixture
def picker(): return PointPicker(SAMPLES[0], np.arange(24 * 24).reshape(24, 24), count=100)


def test_thinning_keeps_every_defective_point(picker):
    whole = SAMPLES[0].cloud()
    assert len(picker.cloud) == 100 and picker.cloud.labels.sum() == whole.labels.sum() == 16
    assert len(thinned(whole, 10)) == 16 and (thinned(whole, 100) == thinned(whole, 100)).all()
    others = Cloud(whole.points)                       # nothing known: any of them
    assert len(thinned(others, 50)) == 50 and len(thinned(others, 10_000)) == len(whole)


def test_choosing_marks_cloud_and_photo_and_calls_back(picker):
    seen, before = [], picker.image.value
    picker.picked = seen.append
    picker.choose(40)
    row, column = picker.cloud.pixel[40]
    assert seen == [picker.point] and (picker.point.row, picker.point.column) == (row, column)
    assert picker.point.score == 24 * row + column and picker.point.defective == SAMPLES[0].mask[row, column]
    assert picker.image.value != before and f"row {row}, column {column}" in picker.label.value
    mark = picker.figure.data[1]
    np.testing.assert_allclose([mark.x[0], mark.y[0]], SAMPLES[0].xyz[:2, row, column])
    assert 0 < SAMPLES[0].xyz[2, row, column] - mark.z[0] < 0.02         # just before its point, seen from the sensor
    assert mark.visible is True


def test_a_click_in_the_browser_chooses(picker):
    picker.figure.data[0]._dispatch_on_click(type("Points", (), {"point_inds": [7]})(), None)
    assert picker.point.index == 7
    picker.figure.data[0]._dispatch_on_click(type("Points", (), {"point_inds": []})(), None)
    assert picker.point.index == 7


def test_hover_tells_pixel_score_and_defect(picker):
    trace = picker.figure.data[0]
    for i in (0, 50, 99):
        row, column = picker.cloud.pixel[i]
        assert trace.customdata[i].tolist() == [row, column, 24 * row + column]
        assert trace.text[i] == ("defective" if SAMPLES[0].mask[row, column] else "normal")


def test_an_error_in_the_callback_is_shown_and_raised(picker):
    def broken(point): raise KeyError("no <such> map")
    picker.picked, click = broken, type("Points", (), {"point_inds": [7]})()
    with pytest.raises(KeyError): picker._clicked(None, click, None)
    assert "KeyError" in picker.message.value and "&lt;such&gt;" in picker.message.value
    picker.picked = None
    picker._clicked(None, click, None)
    assert picker.message.value == ""


def test_unknown_defects_and_the_still():
    sample = SAMPLES[0]
    picker = PointPicker(Sample(sample.rgb, sample.xyz, sample.valid, category="thing"), np.zeros((24, 24)))
    assert headline(picker.still()) == "no point chosen"
    picker.choose(0)
    assert picker.point.defective is None and "not known" in headline(picker.still())


def test_bad_input_to_the_picker(picker):
    with pytest.raises(DataError, match=r"score: found shape \(9, 24\)"): PointPicker(SAMPLES[0], np.zeros((9, 24)))
    for index in (-1, 100):
        with pytest.raises(DataError, match=f"point: found {index}; expected a number from 0 to 99"): picker.choose(index)


# ---- clouds ---------------------------------------------------------------------------------------------------------

def test_an_explorer_of_clouds():
    clouds = [make_cloud(d, i, 100 + 40 * i) for i, d in enumerate(("good", "dent", "crack"))]
    alpha = (Weight("alpha", "α", 0.5, 0, 1, "share"),)
    panel = Explorer(CloudFake(alpha), CloudFake(alpha, seed=1), clouds)
    panel.sample.value = 2
    panel.scale.value = "score"
    left, right = panel.left.cloud, panel.right.cloud
    assert [len(p.points.positions) for p in (left, right, panel.difference)] == [180] * 3 and len(panel.link) == 2
    before = left.points.attribute.copy(), right.points.attribute.copy(), panel.difference.points.attribute.copy(), panel.table.value
    panel.left.controls["alpha"].value = 0.1
    assert (left.points.attribute != before[0]).any() and panel.table.value != before[3]
    low, high = panel.limits
    change = np.subtract(*(np.clip(side.now.maps[2].numpy(), low, high) for side in (panel.left, panel.right)))
    assert np.allclose(panel.difference.points.attribute, np.clip(0.5 + change / (high - low), 0, 1), atol=1e-5)      # ½: no difference
    assert panel.table.value.count("undefined") == 4
    panel.scale.value = "rank"
    ranks = panel.left.now.map(2, "rank")
    assert ranks.shape == (180,) and 0 <= ranks.min() and ranks.max() <= 1
    normal = np.concatenate([m.numpy() for m in panel.left.now.maps])[~np.concatenate([c.labels for c in clouds])]
    assert ranks[0] == pytest.approx((normal < panel.left.now.maps[2][0].item()).mean())
    panel.reset()
    assert [ax.name for ax in panel.still().axes[:5]] == ["3d"] * 4 + ["rectilinear"]
