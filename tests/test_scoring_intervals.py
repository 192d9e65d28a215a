"Bootstrap intervals: every kind of scores against a plain loop over copied samples, strata, clouds, differences, and bad input."
import numpy as np
import pytest
import torch

from mmad_nb.core.runtime import DataError
from mmad_nb.scoring import Bootstrap, Draws, GroupEvaluator, Metrics, evaluate
from mmad_nb.scoring.intervals import IntervalPanel, area_from_bins, choose_bins, from_bins, resamples
from mmad_nb.scoring.sweep import Stopped, gently

KINDS = {"normal": lambda s: s, "few values": lambda s: s.round(1), "skewed": lambda s: np.exp(3 * s), "half at the lowest": lambda s: np.maximum(s, 0),
         "far away": lambda s: 1000 + s, "tiny": lambda s: s * 1e-30, "constant": lambda s: s * 0,
         "infinite": lambda s: np.where(s > 2.5, np.inf, np.where(s < -2, -np.inf, s))}


def case(seed=0, count=12, size=24):
    "Every second image with two regions."
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, size, size), bool)
    for i in range(0, count, 2):
        for _ in range(2):
            row, column = rng.integers(0, size - 5, 2)
            masks[i, row:row + rng.integers(1, 6), column:column + 4] = True
    return rng.normal(size=masks.shape) + 1.5 * masks, masks


def copies(judge, row): return np.repeat(np.arange(judge.counts.shape[1]), judge.counts[1 + row].int())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_draws_agree_with_a_loop_over_copied_images(kind, dtype):
    scores, masks = case()
    maps = KINDS[kind](scores).astype(dtype)
    judge, kept = Bootstrap(masks, draws=6), maps.copy()
    got = judge.of(maps)
    assert (maps == kept).all() and list(got.values) == list(evaluate(maps, masks))
    for row in range(-1, 6):
        some = np.arange(12) if row < 0 else copies(judge, row)
        for name, value in evaluate(maps[some], masks[some]).items():
            ours = got.whole[name] if row < 0 else got.values[name][row]
            assert ours == pytest.approx(value, abs=1e-12 if name.startswith("image") else 2e-3), (name, row)


def test_bins_keep_order_and_ties_and_are_fine_where_it_matters():
    rng = np.random.default_rng(1)
    scores = torch.from_numpy(rng.normal(size=200_000).round(4))
    normal = torch.from_numpy(rng.random(200_000) > .02)
    bins = choose_bins(scores, normal)
    number = bins.number(scores)
    order = torch.argsort(scores, descending=True, stable=True)
    assert (number[order].diff() >= 0).all() and number.max() < bins.count
    same = scores[order].diff() == 0
    assert (number[order].diff()[same] == 0).all() and same.any()
    inside = torch.bincount(number[~normal], minlength=bins.count)
    assert inside[:-1].max() < 8 * (~normal).sum() / bins.count                 # no bin but the last holds many of the defective ones
    top = scores[normal].sort(descending=True).values[: int(.01 * normal.sum())]
    assert len(bins.number(top).unique()) > 200                                 # the highest hundredth is cut finely


def test_metrics_from_bins_by_hand():
    auroc, ap, f1, above, at_least = from_bins(torch.tensor([[1, 1, 0]]), torch.tensor([[0, 1, 2]]))
    assert [auroc.item(), ap.item(), f1.item()] == pytest.approx([1 - (0 + 0 + 0 + 1) / 2 / 6, (1 + 2 / 3) / 2, 4 / 5])
    assert above.tolist() == [[0, 0, 1]] and at_least.tolist() == [[0, 1, 3]]
    ramp = area_from_bins(torch.tensor([[1.]]), torch.tensor([[0.]]), torch.tensor([[5.]]), .3)
    assert ramp.item() == pytest.approx(.3 ** 2 / 2 / .3)                       # all tie: a straight line
    none, bad_only = from_bins(torch.zeros(1, 2), torch.ones(1, 2)), from_bins(torch.ones(1, 2), torch.zeros(1, 2))
    assert all(torch.isnan(v).all() for v in none[:3]) and torch.isnan(bad_only[0]).all() and bad_only[1] == bad_only[2] == 1


def test_samples_are_drawn_within_labels_and_groups():
    labels = np.arange(30) % 3 == 0
    plain, grouped = resamples(labels, 200), resamples(labels, 200, groups={"a": np.arange(10), "b": np.arange(10, 30)})
    assert (plain[:, labels].sum(1) == 10).all() and (plain[:, ~labels].sum(1) == 20).all()
    for part in (slice(0, 10), slice(10, 30)): assert (grouped[:, part][:, labels[part]].sum(1) == labels[part].sum()).all()
    assert (plain[:, :10].sum(1) != 10).any()
    assert abs(plain.mean(0) - 1).max() < .3 and 0.9 < plain[:, ~labels].var() < 1.1          # each as likely as any other, nearly Poisson
    assert (resamples(labels, 5, seed=1) != resamples(labels, 5, seed=2)).any() and (resamples(labels, 5) == resamples(labels, 5)).all()
    overlapping = resamples(labels, 50, groups={"x": np.arange(20), "y": np.r_[0:10, 20:30]})  # shared samples are a stratum of their own
    assert (overlapping[:, :10].sum(1) == 10).all() and (overlapping[:, 10:20].sum(1) == 10).all()


def test_mean_within_groups():
    scores, masks = case(2, count=16)
    names = np.array(["a", "b"])[np.arange(16) // 2 % 2]
    scores[names == "b"] *= 5
    judge = Bootstrap(masks, groups=list(names), draws=5)
    got, exact = judge.of(scores, within=True), GroupEvaluator(masks, list(names)).evaluate(scores)
    for name, value in exact.mean.items(): assert got.whole[name] == pytest.approx(value, abs=2e-3)
    assert judge.of(scores).whole["image_ap"] == pytest.approx(exact.pooled["image_ap"]) and exact.pooled["pixel_ap"] < exact.mean["pixel_ap"]
    for row in range(5):
        some = copies(judge, row)
        slow = GroupEvaluator(masks[some], list(names[some])).evaluate(scores[some]).mean
        for name, value in slow.items(): assert got.values[name][row] == pytest.approx(value, abs=5e-3), name


def test_mean_within_leaves_out_a_group_without_a_defect():
    scores, masks = case(3, count=16)
    groups = {"mixed": np.arange(12), "good only": np.array([13, 15])}               # what is defective has an even number
    judge = Bootstrap(masks, groups=groups, draws=5)
    got, alone = judge.of(scores, within=True), evaluate(scores[:12], masks[:12])
    for name, value in alone.items(): assert got.whole[name] == pytest.approx(value, abs=2e-3), name
    for row in range(5):
        some = copies(judge, row)
        slow = evaluate(scores[some[some < 12]], masks[some[some < 12]])
        for name, value in slow.items(): assert got.values[name][row] == pytest.approx(value, abs=5e-3), name
    assert np.isfinite(np.array(list(got.values.values()))).all()
    only = Bootstrap(masks, groups={"good only": [13, 15]}, draws=2).of(scores, within=True)
    assert np.isnan(only.values["image_auroc"]).all() and np.isnan(only.whole["aupro@30"])   # defined in no group


def test_clouds_have_no_aupro():
    rng = np.random.default_rng(3)
    labels = [rng.random(n) < .3 * (i % 2) for i, n in enumerate(rng.integers(3, 60, 14))]
    clouds = [(rng.normal(size=len(bad)) + bad).astype(np.float32) for bad in labels]
    judge = Bootstrap(labels, draws=4)
    got = judge.of([torch.from_numpy(c) for c in clouds])
    joined = judge.of({"one": torch.from_numpy(np.concatenate(clouds))}, fuse=lambda parts: parts["one"])
    for row in range(4):
        some = copies(judge, row)
        for name, value in evaluate([clouds[i] for i in some], [labels[i] for i in some]).items():
            if np.isnan(value): assert np.isnan(got.values[name][row]) and name.startswith("aupro")
            else: assert got.values[name][row] == joined.values[name][row] == pytest.approx(value, abs=2e-3)
    assert np.isnan(got.interval()["aupro@30"]).all() and not np.isnan(got.interval()["pixel_ap"]).any()


def test_image_scores_labels_and_fusion():
    maps, masks = case(4)
    labels = np.arange(12) % 2 == 1
    judge = Bootstrap(masks, labels, draws=7, limits=[.2])
    one = judge.of(maps, labels * 1.)
    assert one.whole["image_auroc"] == 1 and one.interval()["image_auroc"] == (1, 1) and "aupro@20" in one.values
    parts = {"a": torch.from_numpy(maps), "b": torch.from_numpy(maps[:, ::-1].copy())}
    blend = lambda parts, alpha: torch.lerp(parts["a"], parts["b"], alpha)
    mean = lambda maps: maps.flatten(1).mean(1)
    fused = judge.of(parts, mean, blend, alpha=.3)
    direct = judge.of(blend(parts, .3), mean(blend(parts, .3)))
    for name in fused.values: assert fused.values[name] == pytest.approx(direct.values[name], abs=1e-9)


def test_undefined_stays_undefined():
    maps, masks = case(5)
    nothing = Bootstrap(masks & False, draws=3).of(maps)
    assert all(np.isnan(v).all() for v in nothing.values.values()) and "undefined" in str(nothing)
    everything, exact = Bootstrap(masks | True, draws=3).of(maps), evaluate(maps, masks | True)
    for name, value in exact.items(): assert everything.whole[name] == pytest.approx(value, nan_ok=True)
    hidden = Bootstrap(masks & False, np.arange(12) < 4, draws=3).of(maps)                    # defective, but no mask
    assert not np.isnan(hidden.interval()["image_auroc"]).any() and np.isnan(hidden.whole["pixel_auroc"])


def test_difference_and_levels():
    maps, masks = case(6)
    judge = Bootstrap(masks, draws=40)
    one, other = judge.of(maps), judge.of(maps[:, ::-1].copy())
    gap = one - other
    assert (gap.values["pixel_ap"] == one.values["pixel_ap"] - other.values["pixel_ap"]).all()
    assert gap.whole["pixel_ap"] == one.whole["pixel_ap"] - other.whole["pixel_ap"]
    assert all(v == (0, 0) for v in (one - one).interval().values())
    low, high = one.interval(.5)["pixel_ap"]
    assert ((one.values["pixel_ap"] >= low) & (one.values["pixel_ap"] <= high)).mean() == pytest.approx(.5, abs=.06)
    wide = one.interval(.99)["pixel_ap"]
    assert wide[0] <= one.interval()["pixel_ap"][0] < low < high < one.interval()["pixel_ap"][1] <= wide[1]
    same = Bootstrap(masks, draws=40).of(maps)
    assert all((same.values[n] == one.values[n]).all() for n in one.values)                    # the same seed, the same sets


def test_on_two_cores_and_in_the_background():
    maps, masks = case(7, count=40, size=160)                                                # more pixels than one piece of work
    judge, calls = Bootstrap(masks, draws=5), []
    judge.threads = 2
    expected = judge.of(maps)
    slow = gently(judge, lambda: calls.append(1)).of(maps)
    assert all((slow.values[n] == expected.values[n]).all() for n in slow.values) and len(calls) >= 3
    def give_up(): raise Stopped
    with pytest.raises(Stopped): gently(judge, give_up).of(maps)
    with torch.inference_mode(): judge.of(maps)


MASKS = case()[1]


@pytest.mark.parametrize("call, words", [
    (lambda: Bootstrap(MASKS, draws=0), "at least 1"),
    (lambda: Bootstrap(MASKS, draws=2.5), "a whole number"),
    (lambda: Bootstrap(MASKS, groups=["a"]), "12, one for each sample"),
    (lambda: Bootstrap(MASKS[0]), "not empty"),
    (lambda: Bootstrap(MASKS, labels=[1]), "12"),
    (lambda: Bootstrap(MASKS, draws=2).of(MASKS[:3]), "that of the masks"),
    (lambda: Bootstrap(MASKS, draws=2).of(np.full(MASKS.shape, np.nan)), "NaN"),
    (lambda: Bootstrap(MASKS, draws=2).of(MASKS, within=True), "no groups"),
    (lambda: Bootstrap(MASKS, draws=2).of(MASKS).interval(95), "0.95"),
    (lambda: Bootstrap(MASKS, draws=2).of(MASKS) - Bootstrap(MASKS, draws=2).of(MASKS), "of another Bootstrap"),
])
def test_bad_input(call, words):
    with pytest.raises(DataError, match=words): call()


def test_difference_with_something_else():
    with pytest.raises(TypeError): Draws({}, Metrics(), None) - 1


def test_panel_marks_what_is_clear():
    maps, masks = case(8)
    parts = {"a": torch.from_numpy(maps).float(), "b": torch.rand(maps.shape, generator=torch.Generator().manual_seed(0))}
    panel = IntervalPanel(parts, masks, lambda parts, alpha: torch.lerp(parts["a"], parts["b"], alpha))
    assert "● clear" not in panel.table.value and panel.table.value.count("○") == 10
    panel.alpha.value = 1
    assert panel.table.value.count("● clear") == sum(low > 0 or high < 0 for low, high in panel.change.interval().values()) > 0
