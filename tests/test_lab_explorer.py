"""The explorer and the point picker away from a browser: what is compared, what is left alone, what is refused."""
import threading

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
from mmad_nb.scoring.evaluate import evaluate
from mmad_nb.lab.figures import widgets_in
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
    before, attribute = pictures(one), one.plots["right"].points.attribute
    painted, encode = [], module.png_bytes
    monkeypatch.setattr(module, "png_bytes", lambda p: painted.append(1) or encode(p))
    one.left.controls["alpha"].value = 0.4
    assert others(before, pictures(one)) == ["left", "difference"] and len(painted) == 2
    assert one.plots["right"].points.attribute is attribute
    one.refresh()
    assert len(painted) == 2


def test_the_colours_stay_while_a_weight_moves_until_they_are_rescaled(one):
    before, limits = pictures(one), one.limits
    lows, highs = zip(one.left.now.limits, one.right.now.limits)
    assert limits == (min(lows), max(highs)) and one.left.now.limits == score_limits(one.left.now.maps)
    one.left.controls["alpha"].value = 0.9          # more geometry: higher scores
    assert one.limits == limits and others(before, pictures(one)) == ["left", "difference"]
    moved = pictures(one)
    one.rescale.click()
    assert one.limits[1] > limits[1] and others(moved, pictures(one)) == ["left", "right", "difference"]
    assert all(f"{one.limits[1]:.3g}" in one.bars[place].value for place in ("left", "right"))
    one.reset()
    assert one.limits == limits and pictures(one) == before
    one.right.controls["alpha"].value = 1.0
    one.rescale.click()
    assert one.limits[1] == one.right.now.limits[1] > limits[1]


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
    assert link.source == (two.plots["left"].plot, "camera") and link.target == (two.plots["right"].plot, "camera")


def test_the_view_survives_a_weight_but_not_another_sample(two):
    for part in two.plots.values(): part.plot.camera = [1.0] * 9
    two.left.controls["alpha"].value = 0.7
    assert list(two.plots["left"].plot.camera) == list(two.plots["right"].plot.camera) == [1.0] * 9
    two.sample.value = 1
    assert list(two.plots["left"].plot.camera) == list(two.plots["right"].plot.camera) != [1.0] * 9


def test_clouds_carry_the_colours_of_the_maps(two):
    two.sample.value = 3
    for place, side in (("left", two.left), ("right", two.right)):
        row, column = two.clouds[3].pixel.T
        np.testing.assert_allclose(two.plots[place].points.attribute, np.clip((side.now.map(3, "rank")[row, column] - 0.9) / 0.1, 0, 1), atol=1e-5)


def test_every_widget_is_changed_in_place(one):
    parts = lambda: [one.plots["left"].plot, one.plots["right"].points, one.table, *one.images.values(), *one.box.children]
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
    for part in ("thing: dent", "left: Fake 1\nα = 0.2", "right: Fake 2\nα = 0.8", "image AUROC", "score"): assert part in text


def spoken(box):
    "Everything that the HTML widgets of a panel say."
    return " ".join(w.value for w in widgets_in(box) if isinstance(w, ipywidgets.HTML))


def test_repr_of_a_detector_is_text_not_markup():
    class Odd(Fake):
        name = "<i>odd</i>"
        def __repr__(self): return "<b>odd</b>"
    said = spoken(Explorer([Odd(), Fake(), Fake(seed=2)], SAMPLES).box)
    assert "&lt;b&gt;odd&lt;/b&gt;" in said and "share of &lt;geometry&gt;" in said and "rank of &lt;i&gt;odd" in said
    assert "<b>odd" not in said and "<i>odd" not in said


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


# Several detectors

class Plain(Fake):
    "No weights at all."
    name, weights = "plain", ()
    def fuse(self, components): return components["xyz"]


@pytest.fixture
def four(): return Explorer({"a": Fake(), "b": Fake(10.0, seed=1), "c": (shared := Fake(seed=2)), "d": (shared, {"alpha": .9, "rule": "max"})}, samples=SAMPLES)


def shown(panel): return [w for place in ("left", "right") for w in panel.weights[place].children]


def test_each_way_to_give_several():
    a, b, c = Fake(), Fake(seed=1), Plain()
    parts = {d: Fake(seed=4).components(SAMPLES) for d in (a, b, c)}
    for given in (([a, b, c], SAMPLES, parts), ([a, b, c], None, SAMPLES, parts)):
        panel = Explorer(*given)
        assert list(panel.sides) == ["Fake 1", "Fake 2", "plain"] and panel.samples == SAMPLES
    assert list(Explorer({"x": a, "y": (b, {"alpha": .1}), "z": c}, samples=SAMPLES, components=parts).sides) == ["x", "y", "z"]
    assert (a.runs, b.runs, c.runs) == (0, 0, 0)
    assert list(Explorer(c, a, SAMPLES, parts).sides) == ["plain", "Fake"]


def test_any_two_stand_side_by_side(four):
    assert (four.left.name, four.right.name) == ("a", "b") and [side.detector.runs for side in four.sides.values()] == [1, 1, 1, 1]
    before = pictures(four)
    four.menus["right"].value = "d"
    assert others(before, pictures(four)) == ["right", "difference"] and four.right.weights == {"alpha": .9, "rule": "max"}
    assert shown(four) == [four.sides["a"].box, four.sides["d"].box] and "rank of d" in four.titles["right"].value
    four.sides["c"].controls["alpha"].value = .3                                  # who stands nowhere moves no picture
    assert others(before, pictures(four)) == ["right", "difference"]
    now = pictures(four)
    four.menus["left"].value = "d"                                                # they change places
    assert (four.left.name, four.right.name) == ("d", "a") and pictures(four)["left"] == now["right"] and pictures(four)["right"] == now["left"]
    four.put(right="c")
    assert shown(four) == [four.sides["d"].box, four.sides["c"].box] and [side.detector.runs for side in four.sides.values()] == [1, 1, 1, 1]
    four.put("a", "b")
    assert pictures(four) == before
    for wrong in ({"left": "b"}, {"right": "e"}):
        with pytest.raises(DataError): four.put(**wrong)
    assert (four.left.name, four.right.name) == ("a", "b")


def rows_of(panel):
    "The table of all as lists of words."
    import re
    rows = re.findall("<tr>(.*?)</tr>", panel.overview.value)
    return [[re.sub("<[^>]*>", "", cell).strip(" ★") for cell in re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_the_table_shows_all_with_their_present_weights(four):
    assert rows_of(four)[0][:3] == ["side", "detector", "weights"] and len(rows_of(four)) == 5
    four.sides["c"].controls["alpha"].value = .3
    four.put(left="d")
    rows = {row[1]: row for row in rows_of(four)[1:]}
    assert [rows[name][0] for name in "abcd"] == ["", "right", "", "left"]
    assert rows["c"][2] == "α = 0.3, rule = add" and rows["d"][2] == "α = 0.9, rule = max"
    for name, side in four.sides.items():
        assert rows[name][3:] == [f"{value:.3f}" for value in side.now.metrics.values()]
    column = [float(rows[name][3]) for name in "abcd"]
    four.sides["c"].controls["alpha"].value = .8                # who stands nowhere has a row, too
    assert {row[1]: row for row in rows_of(four)[1:]}["c"][2] == "α = 0.8, rule = add"
    four.sides["c"].controls["alpha"].value = .3
    assert four.overview.value.count("★</b>") >= 7 and f"<b>{max(column):.3f} ★</b>" in four.overview.value
    assert Explorer(Fake(), Fake(seed=1), SAMPLES).overview.value == ""


def test_each_keeps_its_weights_and_reset_moves_all(four):
    four.set(left={"alpha": .1}, right={"rule": "max"})
    four.put("c", "d")
    four.set(left={"alpha": .2})
    four.put("a", "b")
    assert four.left.weights["alpha"] == .1 and four.right.weights["rule"] == "max" and four.sides["c"].weights["alpha"] == .2
    four.reset()
    assert all(side.weights == side.start for side in four.sides.values())


def test_a_value_beside_the_steps_is_rounded_before_the_browser_sees_it(one):
    one.left.controls["alpha"].value = 7 * .1               # 0.7000000000000001
    assert one.left.weights["alpha"] == .7
    one.set(right={"alpha": .1 + .2})
    assert one.right.weights["alpha"] == .3


def test_the_controls_of_those_who_stand_nowhere_are_closed_too(four):
    parts = widgets_in(four.sides["d"].box)
    four.close()
    assert all(part.comm is None for part in parts)


def test_scores_are_the_scale_of_settings_of_one_detector():
    one = Fake()
    assert Explorer([one, (one, {"alpha": .1}), (one, {"alpha": .2})], SAMPLES).scale.value == "score"
    assert Explorer([one, (one, {"alpha": .1}), Plain()], SAMPLES).scale.value == "rank"


@pytest.mark.parametrize("given, message", [
    (([Fake()], SAMPLES), "detectors: found 1; expected at least two"), (({}, SAMPLES), "found 0"), (([Fake(), "cfm"], SAMPLES), "detector 1: found str"),
    (([Fake(), (Fake(), {"alpha": 7})], SAMPLES), "a number from 0 to 1"), (({"x": Fake(), "y": None}, SAMPLES), "'y': found NoneType"),
    ((Fake(), None, SAMPLES), "the right side: found NoneType"), (([Fake(), Fake()],), "samples: found a NoneType")])
def test_bad_lists_are_refused(given, message):
    with pytest.raises(DataError, match=message): Explorer(*given)


def test_what_cannot_be_put_together_is_refused_before_anybody_works():
    class Photos(Fake): name, takes = "photos", (Sample,)
    class Clouds(CloudFake): name, takes = "points", (Cloud,)
    photo, cloud, clouds = Photos(), Clouds(), [make_cloud(), make_cloud("dent", 1)]
    with pytest.raises(DataError, match="detector 'photos': found clouds; expected RGB-3D samples"): Explorer([cloud, photo], clouds)
    with pytest.raises(DataError, match="detector 'points': found RGB-3D samples; expected clouds"): Explorer(photo, cloud, SAMPLES)
    assert photo.runs == cloud.runs == 0


def test_outline_steps_and_constant_maps(one):
    before = pictures(one)
    one.outline.value = False
    assert others(before, pictures(one)) == list(PARTS)
    one.outline.value = True
    assert pictures(one) == before
    one.before.click()
    assert one.sample.value == len(SAMPLES) - 1 and "thing, dent" in one.titles["photo"].value
    one.after.click(), one.after.click()
    assert one.sample.value == 1 and "thing, good" in one.titles["photo"].value
    assert "constant" not in one.bars["left"].value
    one.left.detector.fuse = lambda components, **weights: 0 * components["rgb"] + .25
    one.left.controls["alpha"].value = .3
    assert "here the same everywhere: 0.25" in one.bars["left"].value and "constant" not in one.bars["right"].value


def test_every_picture_has_a_heading(two):
    assert set(two.titles) == {"left", "right", "difference", "photo", "left cloud", "right cloud"}
    assert all(title.value for title in two.titles.values())
    two.scale.value = "score"
    assert "score of Fake 1" in two.titles["left"].value and "score of Fake 2, right" in two.titles["right cloud"].value


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
    seen, before = [], [image.value for image in picker.images.values()]
    picker.picked = seen.append
    picker.choose(40)
    row, column = picker.cloud.pixel[40]
    assert seen == [picker.point] and (picker.point.row, picker.point.column) == (row, column)
    assert picker.point.score == 24 * row + column and picker.point.defective == SAMPLES[0].mask[row, column]
    assert all(image.value != old for image, old in zip(picker.images.values(), before)) and f"row {row}, column {column}" in picker.label.value
    assert (picker.row.value, picker.column.value, picker.answer.value) == (row, column, "")
    mark = picker.figure.data[1]
    np.testing.assert_allclose([mark.x[0], mark.y[0]], SAMPLES[0].xyz[:2, row, column])
    assert 0 < SAMPLES[0].xyz[2, row, column] - mark.z[0] < 0.02         # just before its point, seen from the sensor
    assert mark.visible is True


def test_a_click_in_the_browser_chooses(picker):
    picker.field.value = "7 1700000000000"                 # number and time, as the page writes them
    assert picker.point.index == 7
    seen = []
    picker.picked = seen.append
    picker.field.value = "7 1700000000001"                 # the same point again
    for other in ("", "x 1"): picker.field.value = other
    assert [point.index for point in seen] == [7]


def test_twins_of_the_click(picker):
    seen = []
    picker.picked = seen.append
    bad, scores, menu = picker.cloud.labels, picker.scores, dict(picker.menu.options)
    places = {"highest score": scores.argmax(), "highest normal score": np.where(bad, -1, scores).argmax(),
              "highest defective score": np.where(bad, scores, -1).argmax(), "lowest defective score": np.where(bad, scores, 9e9).argmin()}
    assert {name: menu[name] for name in menu if menu[name] >= 0} == places
    picker.menu.value = menu["lowest defective score"]
    assert picker.point.index == menu["lowest defective score"] and (picker.row.value, picker.column.value) == (8, 8) and len(seen) == 1
    picker.row.value, picker.column.value = 11, 11          # the numbers alone choose nothing
    assert len(seen) == 1
    picker.button.click()
    assert (seen[-1].row, seen[-1].column) == (11, 11) and picker.menu.label == "highest defective score" and len(seen) == 2
    picker.row.value, picker.column.value = 0, 5            # nothing was measured there
    picker.button.click()
    gone = np.hypot(*(picker.cloud.pixel - [0, 5]).T)
    assert gone[seen[-1].index] == gone.min() > 3 and "nearest to row 0, column 5" in picker.label.value and picker.menu.value == -1
    assert (picker.row.value, picker.column.value) == (seen[-1].row, seen[-1].column) and len(seen) == 3
    for row, column in ((-1, 3), (3, 24)):
        with pytest.raises(DataError, match=f"row {row}, column {column}"): picker.choose_pixel(row, column)


def test_what_the_callback_says_stands_beside_the_label(picker):
    picker.picked = lambda point: f"<{point.index}>"
    picker.choose(40)
    assert picker.answer.value == "&lt;40&gt;"
    picker.picked = lambda point: 3                         # no text
    picker.choose(41)
    assert picker.answer.value == ""


def test_pictures_have_words_and_a_bar(picker):
    words = lambda: [c for c in picker.images["map"]._dom_classes if c.startswith("mmad-alt:")]
    before = words()
    picker.choose(40)
    assert len(before) == len(words()) == 1 and f"row\u00a0{picker.point.row}" in words()[0]
    low, high = picker.limits
    said = spoken(picker.box)
    assert f">{low:.3g}<" in said and f">{high:.3g}<" in said and "<b>photo</b>" in said and "<b>score</b>" in said


def test_hover_tells_pixel_score_and_defect(picker):
    trace = picker.figure.data[0]
    for i in (0, 50, 99):
        row, column = picker.cloud.pixel[i]
        assert trace.customdata[i].tolist() == [row, column, 24 * row + column]
        assert trace.text[i] == ("defective" if SAMPLES[0].mask[row, column] else "normal")


def test_an_error_in_the_callback_is_shown_and_raised(picker):
    def broken(point): raise KeyError("no <such> map")
    picker.picked = broken
    with pytest.raises(KeyError): picker.field.value = "7 1"
    assert "KeyError" in picker.message.value and "&lt;such&gt;" in picker.message.value
    picker.picked = None
    picker.field.value = "7 2"
    assert picker.message.value == ""


def test_unknown_defects_and_the_still():
    sample = SAMPLES[0]
    picker = PointPicker(Sample(sample.rgb, sample.xyz, sample.valid, category="thing"), np.zeros((24, 24)))
    assert headline(picker.still()) == "no point chosen"
    picker.choose(0)
    assert picker.point.defective is None and "not known" in headline(picker.still())
    assert [name for name, _ in picker.menu.options] == ["a click, or a pixel", "highest score"]
    nothing = Sample(sample.rgb, 0 * sample.xyz, sample.valid & False, id="thing/test/x/008")
    with pytest.raises(DataError, match="thing/test/x/008.*no valid point"): PointPicker(nothing, np.zeros((24, 24)))


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
    left, right, difference = panel.plots.values()
    assert [len(p.points.positions) for p in (left, right, difference)] == [180] * 3 and len(panel.link) == 2
    before = left.points.attribute.copy(), right.points.attribute.copy(), difference.points.attribute.copy(), panel.table.value
    panel.left.controls["alpha"].value = 0.1
    assert (left.points.attribute != before[0]).any() and panel.table.value != before[3]
    low, high = panel.limits
    change = np.subtract(*(np.clip(side.now.maps[2].numpy(), low, high) for side in (panel.left, panel.right)))
    assert np.allclose(difference.points.attribute, np.clip(0.5 + change / (high - low), 0, 1), atol=1e-5)      # ½: no difference
    assert panel.table.value.count("undefined") == 4
    assert not any(w is panel.outline for w in widgets_in(panel.box))             # there is nothing to outline
    panel.scale.value = "rank"
    ranks = panel.left.now.map(2, "rank")
    assert ranks.shape == (180,) and 0 <= ranks.min() and ranks.max() <= 1
    normal = np.concatenate([m.numpy() for m in panel.left.now.maps])[~np.concatenate([c.labels for c in clouds])]
    assert ranks[0] == pytest.approx((normal < panel.left.now.maps[2][0].item()).mean())
    panel.reset()
    assert [ax.name for ax in panel.still().axes[:5]] == ["3d"] * 4 + ["rectilinear"]


# ---- categories -----------------------------------------------------------------------------------------------------

def of_two_categories():
    from dataclasses import replace
    kinds = [("cup", "good"), ("jar", "dent"), ("cup", "dent"), ("jar", "good"), ("cup", "crack"), ("jar", "good")]
    return [replace(make_sample(kind, n), category=category, id=f"{category}/{n}") for n, (category, kind) in enumerate(kinds)]


def test_each_category_is_judged_by_itself():
    samples = of_two_categories()
    panel = Explorer([Fake(), Fake(seed=1), Fake(seed=2)], samples)
    assert panel.judged.options == ("mean of categories", "cup", "jar", "pooled") and panel.judged.value == "mean of categories"
    panel.set(left={"alpha": .2})                           # less than perfect, so that the categories differ
    side, kept = panel.left, panel.left.now.maps.clone()
    within = {}
    for name in ("cup", "jar"):
        some = [i for i, s in enumerate(samples) if s.category == name]
        within[name] = evaluate(side.now.maps[some], np.stack([samples[i].mask for i in some]), side.now.scores[some])
    mean = {metric: np.mean([within[name][metric] for name in within]) for metric in within["cup"]}
    pooled = evaluate(side.now.maps, np.stack([s.mask for s in samples]), side.now.scores)
    seen = set()
    for judged, expected in (("mean of categories", mean), ("cup", within["cup"]), ("jar", within["jar"]), ("pooled", pooled)):
        panel.judged.value = judged
        np.testing.assert_allclose(list(side.now.numbers(judged).values()), list(expected.values()), atol=1e-9)
        assert f"{expected['pixel_ap']:.3f}" in panel.table.value and rows_of(panel)[1][3:] == [f"{value:.3f}" for value in expected.values()]
        assert f"{expected['pixel_ap']:.3f}" in panel.still().axes[7].texts[0].get_text()
        seen.add(panel.table.value)
    assert len(seen) == 4 and side.now.metrics == side.now.numbers("mean of categories") and torch.equal(side.now.maps, kept)
    assert "in one pot" in panel.table.value and any(w is panel.judged for w in widgets_in(panel.box))


def test_a_metric_that_one_category_lacks_is_said(two):
    samples = [s for s in of_two_categories() if s.category == "cup" or s.defect == "good"]
    panel = Explorer(Fake(), Fake(seed=1), samples)
    assert "image AUROC is undefined in jar" in panel.table.value and "AUPRO to 30 % is undefined in jar" in panel.table.value
    assert two.judged.options == ("pooled",) and not any(w is two.judged for w in widgets_in(two.box)) and "pot" not in two.table.value


def test_pictures_say_what_they_show(two):
    words = lambda part: next(c for c in two.images[part]._dom_classes if c.startswith("mmad-alt:")).replace("\u00a0", " ")
    before = words("left")
    assert "rank map of thing, dent by Fake 1, α = 0.5" in before and "photo of thing, dent" in words("photo")
    two.left.controls["alpha"].value = .2
    assert "α = 0.2" in words("left") and "α = 0.5" in words("right")
    two.sample.value = 1
    assert all("thing, good" in words(part) for part in PARTS)


# ---- pictures first -------------------------------------------------------------------------------------------------

@pytest.fixture
def page(monkeypatch):
    "As if a page asked; `page(False)`: a cell again."
    def asks(yes=True): monkeypatch.setattr("mmad_nb.lab.explorer.asked_by_page", lambda: yes)
    asks()
    return asks


def slow_in_the_background(detector):
    "A gate before everything that is fused behind the back, and how many samples were fused at a time."
    gate, counts, fuse = threading.Event(), [], detector.fuse
    def fuse_slowly(components, **weights):
        counts.append(len(components["rgb"]))
        if threading.current_thread() is not threading.main_thread(): gate.wait(5)
        return fuse(components, **weights)
    detector.fuse = fuse_slowly
    return gate, counts


def test_a_page_gets_the_pictures_first_and_the_newest_numbers(one, page):
    gate, counts = slow_in_the_background(one.left.detector)
    before, table, now = pictures(one), one.table.value, one.left.now
    for alpha in (.6, .7, .4): one.left.controls["alpha"].value = alpha
    assert others(before, pictures(one)) == ["left", "difference"] and one.table.value == table and one.left.now is now
    assert "α = 0.4" in next(c for c in one.images["left"]._dom_classes if c.startswith("mmad-alt:")).replace("\u00a0", " ")
    assert counts[:3].count(1) == 3                             # each of the moves fused one sample
    one.sample.value = 3                                        # another one while the numbers are under way
    seen = pictures(one)
    gate.set()
    one.newest.wait()
    assert one.left.now.weights["alpha"] == .4 and one.table.value != table
    assert one.left.now.truth is one.truth and not one.message.value     # what stopped the background is forgotten
    assert pictures(one) == seen
    page(False)
    shown = one.table.value
    one.set(left={"alpha": .9}); one.set(left={"alpha": .4})    # a cell has its numbers when the line is done
    assert one.table.value == shown and pictures(one) == seen


@pytest.mark.parametrize("at", ("first", "last"))
def test_a_cell_does_not_wait_for_the_page(one, page, monkeypatch, at):
    if at == "last": monkeypatch.setattr(module.Truth, "gently", lambda truth, pause: truth)    # noticed only when all is computed
    gate, _ = slow_in_the_background(one.left.detector)
    one.left.controls["alpha"].value = .6
    page(False)
    one.set(left={"alpha": .9})
    assert one.left.now.weights["alpha"] == .9
    shown = one.table.value
    gate.set()
    one.newest.wait()                                           # what the page asked for is given up
    assert one.left.now.weights["alpha"] == .9 and one.table.value == shown
    assert not one.message.value


def test_ranks_are_estimated_first_and_exact_afterwards(page):
    samples = [make_sample("good" if i % 3 else "dent", i) for i in range(30)]
    panel = Explorer(Fake(), Fake(unit=10., seed=1), samples)
    assert panel.scale.value == "rank" and len(panel.left.truth.few) == 8
    gate, counts = slow_in_the_background(panel.left.detector)
    _, beside = slow_in_the_background(panel.right.detector)
    panel.left.controls["alpha"].value = .8
    assert beside == []                                         # the other side is known
    estimate = panel.left.seen.map(0, "rank")
    assert counts[:8].count(1) == 8 and panel.left.seen is not panel.left.now
    gate.set()
    panel.newest.wait()
    exact = panel.left.seen.map(0, "rank")
    normal = panel.left.now.maps.numpy()[~np.stack([s.mask for s in samples])]
    by_hand = (normal < panel.left.now.maps[0].numpy()[..., None]).mean(-1)
    assert abs(exact - by_hand).max() < .02 and 0 < abs(estimate - by_hand).max() < .06
    assert panel.left.seen is panel.left.now


def test_an_error_behind_the_back_of_the_explorer_is_shown(one, page, monkeypatch):
    monkeypatch.setattr(one.left.detector, "image_scores", lambda maps: 1 / 0)
    one.left.controls["alpha"].value = .35
    with pytest.raises(ZeroDivisionError): one.newest.wait()
    assert "division by zero" in one.message.value


@pytest.mark.parametrize("ask", [lambda panel: panel.rescale.click(), lambda panel: panel.still()])
def test_what_needs_all_samples_does_not_take_old_ones(one, page, monkeypatch, ask):
    monkeypatch.setattr(one.newest, "ask", lambda work: None)   # the background has not come to it yet
    one.left.controls["alpha"].value = .9
    ask(one)
    assert one.left.now.weights["alpha"] == .9 and one.left.seen is one.left.now
    if one.left.limits != one.left.first_limits: assert one.left.limits == score_limits(one.left.now.maps)


def test_a_closed_explorer_computes_nothing_any_more(one, page):
    gate, _ = slow_in_the_background(one.left.detector)
    one.left.controls["alpha"].value = .6
    newest, now, side = one.newest, one.left.now, one.left
    one.close()
    gate.set()
    newest.wait()
    assert side.now is now


def test_clouds_are_glimpsed_at_too(page):
    clouds = [make_cloud(d, i, 100 + 40 * i) for i, d in enumerate(("good", "dent", "crack"))]
    alpha = (Weight("alpha", "α", 0.5, 0, 1, "share"),)
    panel = Explorer(CloudFake(alpha), CloudFake(alpha, seed=1), clouds)
    gate, _ = slow_in_the_background(panel.left.detector)
    panel.sample.value = 2
    before = panel.plots["left"].points.attribute.copy()
    panel.left.controls["alpha"].value = .1
    seen = panel.left.seen
    assert seen.map(2, "score").shape == (180,) and (panel.plots["left"].points.attribute != before).any()
    gate.set()
    panel.newest.wait()
    for scale in ("score", "rank"): np.testing.assert_allclose(seen.map(2, scale), panel.left.now.map(2, scale), atol=1e-6)
