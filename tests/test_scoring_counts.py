"""Exact metrics: the plain definition against the fast counts, random cases of every unpleasant kind, and what is refused."""
import sys
import threading
import time

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from mmad_nb.core.runtime import DataError
from mmad_nb.scoring import (AnomalyMetrics, Evaluator, Sweep, Turns, aupro, auroc, average_precision, evaluate, f1_max,
                             pro_curve, roc_curve)
from mmad_nb.scoring.evaluator import Buckets, choose_buckets, count_by_buckets, share_out
from mmad_nb.scoring.sweep import Stopped, coarse_to_fine

aupro_module = sys.modules["mmad_nb.scoring.aupro"]  # the name mmad_nb.scoring.aupro is the function
evaluator_module = sys.modules["mmad_nb.scoring.evaluator"]


# ---- the definition, word by word -----------------------------------------------------------------------------------

def count_by_loop(anomalous, normal):
    return [[int((normal > s).sum()) for s in anomalous], [int((normal >= s).sum()) for s in anomalous]]


def aupro_by_thresholds(scores, masks, limit):
    "One threshold after the other, regions labelled image by image, trapezoids cut at the limit."
    regions = []
    for k, mask in enumerate(masks):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        for r in range(count):
            full = np.zeros(masks.shape, bool)
            full[k] = labels == r + 1
            regions.append(full)
    x, y = [0.0], [0.0]
    for t in np.unique(scores)[::-1]:
        x.append((scores[~masks] >= t).mean())
        y.append(np.mean([(scores[r] >= t).mean() for r in regions]))
    area = 0.0
    for x0, x1, y0, y1 in zip(x, x[1:], y, y[1:]):
        if x0 < limit and x1 > x0:
            cut = min(x1, limit)
            area += (cut - x0) * (y0 + y0 + (y1 - y0) * (cut - x0) / (x1 - x0)) / 2
    return area / limit


def draw_masks(rng, shape=(4, 11, 13)):
    patches = ndimage.binary_dilation(rng.random(shape) < rng.choice([0, .01, .04]), np.ones((1, 3, 3)))
    masks = patches | (rng.random(shape) < rng.choice([.005, .05]))         # single pixels
    if rng.random() < .3: masks[rng.integers(shape[0])] = True              # a wholly defective image
    return masks


KINDS = {
    "smooth": lambda rng, n: rng.standard_normal(n),
    "few levels": lambda rng, n: rng.integers(0, 4, n).astype(float),
    "half zero": lambda rng, n: np.maximum(rng.standard_normal(n), 0),
    "heavy tail": lambda rng, n: np.exp(15 * rng.standard_normal(n)),
    "tail below": lambda rng, n: -np.exp(15 * rng.standard_normal(n)),
    "constant": lambda rng, n: np.full(n, -2.5),
    "infinities": lambda rng, n: rng.choice([-np.inf, -1., 0., 2., np.inf], n),
    "some infinite": lambda rng, n: np.where(rng.random(n) < .05, rng.choice([-np.inf, np.inf], n), rng.standard_normal(n)),
    "both zeros": lambda rng, n: rng.choice([-0., 0., 1., -1.], n),
    "subnormal": lambda rng, n: rng.standard_normal(n) * 1e-41,
    "huge": lambda rng, n: rng.standard_normal(n) * 1e35,
    "far from zero": lambda rng, n: 1e6 + rng.standard_normal(n),
}


def same(one, other):
    "Equal but for the order in which floats were added; NaN equals NaN."
    assert one.keys() == other.keys()
    np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-12)


# ---- counts and areas -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_counts_by_buckets_equal_the_loop(kind, dtype):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scores = KINDS[kind](rng, rng.integers(2, 400)).astype(dtype)
        normal = rng.random(len(scores)) < rng.choice([.1, .7, .98])
        ranked, lowest = np.sort(scores[~normal])[::-1].copy(), float(scores.min())
        for count in (4, 37, 1 << 12):
            buckets = choose_buckets(torch.from_numpy(scores), lowest, count)
            got = count_by_buckets(torch.from_numpy(scores), torch.from_numpy(normal), ranked, buckets, 1 + seed % 3)
            assert [list(c) for c in got] == count_by_loop(ranked, scores[normal]), (seed, count)
            assert all(np.asarray(c).dtype == np.int64 for c in got)


def test_buckets_beyond_the_largest_number():
    "The upper end of the last bucket may lie beyond what int32 holds, which some versions of torch refuse as a bound."
    for dtype, shift in ((np.float32, 29), (np.float64, 61)):
        one = int(dtype(1).view(f"i{dtype().itemsize}"))
        buckets = Buckets(low=0., first=one, shift=shift, count=8, solid=False)
        scores = torch.tensor([-1., 0., 1., 2., 1e30, torch.inf], dtype=torch.from_numpy(dtype([0])).dtype)
        expected = [max(0, int(bits) - one) >> shift for bits in scores.clamp(0).numpy().view(f"i{dtype().itemsize}")]
        assert buckets.number(scores).tolist() == expected
    huge = torch.tensor([0., 1., 1e38, 2e38, 3e38, torch.inf])
    assert choose_buckets(huge, 0., 4).number(huge).diff().min() >= 0


def test_the_stop_watch_decides_unless_told(monkeypatch):
    roads = []
    monkeypatch.setattr(evaluator_module, "choose_buckets", lambda *args: roads.append("buckets") or choose_buckets(*args))
    components, masks = pair()
    for pays, told, expected in ((True, None, 0), (False, None, 1), (True, False, 1), (False, True, 0)):
        monkeypatch.setattr(evaluator_module, "sorting_pays", lambda: pays)
        judge = Evaluator(masks)
        judge.by_sorting = told
        roads.clear()
        same(judge.evaluate(components["rgb"]), evaluate(components["rgb"], masks))
        assert len(roads) == expected


def test_only_fused_maps_are_sorted_where_they_lie():
    "The user's maps come back as they were, however the counts are made."
    rng = np.random.default_rng(0)
    maps, masks = rng.random((6, 32, 32), np.float32), rng.random((6, 32, 32)) < .1
    expected = evaluate(maps, masks)
    for by_sorting in True, False:
        given, judge = maps.copy(), Evaluator(masks)
        judge.by_sorting = by_sorting
        parts = {"a": torch.from_numpy(given), "b": torch.from_numpy(given)}
        fuse = lambda parts, w: torch.lerp(parts["a"], parts["b"], w)
        for mode in "exact", "legacy-100", "exact":
            same(judge.evaluate(given, mode=mode), evaluate(given, masks, mode=mode))
            same(judge.evaluate(parts, fuse=fuse, w=.5, mode=mode), evaluate(given, masks, mode=mode))
        same(judge.evaluate(given), expected)
        assert np.array_equal(given, maps)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_agrees_with_the_definition(kind):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        masks = draw_masks(rng)
        scores = KINDS[kind](rng, masks.size).reshape(masks.shape).astype(rng.choice([np.float32, np.float64]))
        roads = Evaluator(masks), Evaluator(masks)
        roads[0].by_sorting, roads[1].by_sorting = True, False
        every = evaluate(scores, masks), *(judge.evaluate(scores) for judge in roads)
        for limit in (.3, .1, .05, .01) if masks.any() and not masks.all() else ():
            expected = aupro_by_thresholds(scores, masks, limit)
            for metrics in every: assert metrics[f"aupro@{100 * limit:g}"] == pytest.approx(expected, abs=1e-12)
        if masks.any() and not masks.all() and np.isfinite(scores).all():
            truth, flat = masks.ravel(), scores.ravel()
            for metrics in every:
                assert metrics["pixel_auroc"] == pytest.approx(roc_auc_score(truth, flat), abs=1e-12)
                assert metrics["pixel_ap"] == pytest.approx(average_precision_score(truth, flat), abs=1e-12)
                assert metrics["pixel_f1"] == pytest.approx(f1_by_thresholds(truth, flat), abs=1e-12)
        for other in every[1:]: same(every[0], other)


def f1_by_thresholds(truth, scores):
    "The definition: 2 TP / (2 TP + FP + FN) at every distinct score, the highest of them."
    truth, scores = np.asarray(truth, bool), np.asarray(scores, float)
    order = np.argsort(-scores, kind="stable")
    hits, passed = np.cumsum(truth[order]), np.arange(1, len(scores) + 1)
    last = np.append(np.diff(scores[order]) != 0, True)                     # of equal scores all are reported
    return (2 * hits / (passed + truth.sum()))[last].max()


@pytest.mark.parametrize("score, higher, at_least", [(1, 1, 1), (0, 1, (1 << 24) + 5), (2, 0, 1)])
def test_large_counts_are_exact(score, higher, at_least):
    "More normal pixels than a float32 can count: one of 2, all others 0."
    scores = torch.zeros((1 << 24) + 6)
    scores[0], scores[-1] = 2, score                                        # the last pixel is the defective one
    normal = torch.arange(len(scores)) < len(scores) - 1
    got = count_by_buckets(scores, normal, np.array([score], np.float32), choose_buckets(scores, 0., 1 << 10), 2)
    assert [c.item() for c in got] == [higher, at_least]


def test_a_tie_with_a_million_background_zeros_opens_nothing():
    scores = torch.zeros(1 << 20)
    scores[::100] = torch.rand(len(scores[::100]), generator=torch.Generator().manual_seed(0)) + 1
    buckets = choose_buckets(scores, 0., 1 << 16)
    assert buckets.solid and (buckets.number(scores) == 0).sum() == (scores == 0).sum()


def test_monotone_rescaling_changes_nothing():
    rng = np.random.default_rng(0)
    masks = draw_masks(rng)
    scores = rng.standard_normal(masks.shape) + masks
    judge = Evaluator(masks)
    for stretch in (np.exp, np.arctan, lambda s: s ** 3, lambda s: 1e5 * s - 7):
        same(judge.evaluate(stretch(scores)), judge.evaluate(scores))


def test_curves_enclose_their_areas():
    rng = np.random.default_rng(3)
    masks = draw_masks(rng)
    for scores in (rng.standard_normal(masks.shape) + masks, rng.integers(0, 5, masks.shape) + masks):
        area = lambda x, y: ((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum()
        assert area(*roc_curve(scores[masks], scores[~masks])) == pytest.approx(auroc(scores[masks], scores[~masks]))
        assert area(*pro_curve(scores, masks)) == pytest.approx(aupro(scores, masks, 1.))


def test_f1_max_is_the_best_of_all_thresholds():
    rng = np.random.default_rng(1)
    for decimals in (0, 1, 6):
        bad, good = rng.normal(1, 1, 40).round(decimals), rng.normal(0, 1, 90).round(decimals)
        truth, scores = np.repeat([1, 0], [40, 90]), np.concatenate([bad, good])
        assert f1_max(bad, good) == pytest.approx(max(f1_score(truth, scores >= t) for t in np.unique(scores)))
        assert f1_max(bad, good) == pytest.approx(f1_by_thresholds(truth, scores))


def test_limits_may_be_none_and_the_mode_touches_aupro_alone():
    components, masks = pair()
    maps = blend(components)
    names = ["image_auroc", "image_ap", "image_f1", "pixel_auroc", "pixel_ap", "pixel_f1"]
    exact, coarse = Evaluator(masks).evaluate(maps), Evaluator(masks).evaluate(maps, mode="legacy-99")
    assert list(exact) == list(coarse) == [*names, "aupro@30", "aupro@10", "aupro@5", "aupro@1"]
    assert [exact[n] for n in names] == [coarse[n] for n in names] and exact["aupro@1"] != coarse["aupro@1"]
    same(coarse, evaluate(maps, masks, mode="legacy-99"))
    assert list(Evaluator(masks, limits=()).evaluate(maps)) == names == list(evaluate(maps, masks, limits=()))


# ---- torch, devices, number types -----------------------------------------------------------------------------------

def test_tensors_that_stay_on_their_device(monkeypatch):
    "No GPU here: CPU tensors are treated as if they were on one, so that only torch touches the maps."
    rng, masks = np.random.default_rng(5), pair()[1]
    scores = (rng.standard_normal(masks.shape).round(1) + masks).astype(np.float32)
    expected = evaluate(scores, masks)
    monkeypatch.setattr(aupro_module, "_on_gpu", lambda maps: True)
    maps, kept = aupro_module.as_maps_and_masks(torch.from_numpy(scores), masks)
    assert isinstance(maps, torch.Tensor) and isinstance(kept, np.ndarray)
    tensors = torch.from_numpy(scores), torch.from_numpy(masks)
    same(evaluate(*tensors), expected)
    assert aupro(*tensors, [.3, .01]) == pytest.approx([expected["aupro@30"], expected["aupro@1"]])
    assert aupro(*tensors, .05, "legacy-100") == pytest.approx(aupro(scores, masks, .05, "legacy-100"))
    np.testing.assert_allclose(pro_curve(*tensors), pro_curve(scores, masks), rtol=1e-12)
    assert average_precision(tensors[0][tensors[1]], tensors[0][~tensors[1]]) == pytest.approx(expected["pixel_ap"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_agrees():
    rng, masks = np.random.default_rng(5), pair()[1]
    scores = torch.from_numpy(rng.standard_normal(masks.shape) + masks).cuda()
    for metrics in (evaluate(scores, masks), Evaluator(masks).evaluate(scores)):
        same(metrics, evaluate(scores.cpu(), masks))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int32, torch.float16, torch.bfloat16, torch.float64])
def test_number_types(dtype):
    masks = pair()[1]
    maps = (torch.rand(masks.shape, generator=torch.Generator().manual_seed(0)) * 50).to(dtype)
    same(Evaluator(masks).evaluate(maps), evaluate(maps, masks))
    if dtype != torch.bfloat16: same(Evaluator(masks).evaluate(maps.numpy()), Evaluator(masks).evaluate(maps))


def test_views_and_read_only_arrays():
    masks = pair(6, 10)[1]
    maps = np.random.default_rng(0).standard_normal((6, 10, 20)).astype(np.float32)[::-1, :, ::2]
    expected = evaluate(maps.copy(), masks)
    same(Evaluator(masks).evaluate(maps), expected)
    maps = maps.copy()
    maps.setflags(write=False)
    before = maps.copy()
    same(Evaluator(masks).evaluate(maps), expected)
    assert np.array_equal(maps, before)
    same(Evaluator(masks).evaluate(torch.from_numpy(before).permute(1, 2, 0).contiguous().permute(2, 0, 1)), expected)


# ---- the evaluator --------------------------------------------------------------------------------------------------

def pair(count=10, size=17, seed=0):
    rng = np.random.default_rng(seed)
    masks = draw_masks(rng, (count, size, size))
    masks[1::2] = False
    masks[0, 3:6, 3:6] = True
    maps = torch.from_numpy(rng.random((2, count, size, size)).astype(np.float32)) + .5 * torch.from_numpy(masks)
    return {"rgb": maps[0], "xyz": maps[1]}, masks


def blend(parts, alpha=.5): return torch.lerp(parts["rgb"], parts["xyz"], alpha)


def test_fused_block_by_block_is_fused_at_once():
    components, masks = pair()
    judge = Evaluator(masks)
    for alpha in (0., .3, 1., .3):
        now = judge.evaluate(components, fuse=blend, alpha=alpha)
        for other in judge, Evaluator(masks): same(now, other.evaluate(blend(components, alpha)))
    given = judge.evaluate(components, fuse=blend, alpha=.3, scores=lambda maps: maps.flatten(1).mean(1))
    same(given, judge.evaluate(blend(components, .3), scores=blend(components, .3).flatten(1).mean(1)))
    same(judge.evaluate(components, fuse=lambda parts: blend(parts).double()), judge.evaluate(blend(components).double()))


def test_components_of_a_detector():
    from mmad_nb.detectors import Components
    components, masks = pair()
    whole = Components(components, torch.ones(masks.shape, dtype=torch.bool))
    judge = Evaluator(masks)
    same(judge.evaluate(whole, fuse=blend, alpha=.2), judge.evaluate(components, fuse=blend, alpha=.2))


def test_labels_given_and_metrics_undefined():
    components, masks = pair()
    maps = blend(components)
    assert Evaluator(masks, labels=~masks.any((1, 2))).evaluate(maps)["image_auroc"] \
        == pytest.approx(1 - Evaluator(masks).evaluate(maps)["image_auroc"])
    none, everything = Evaluator(masks & False).evaluate(maps), Evaluator(masks | True).evaluate(maps)
    assert all(np.isnan(v) for v in none.values())
    assert all(np.isnan(v) for name, v in everything.items() if name not in ("image_ap", "image_f1"))


@pytest.mark.parametrize("call, words", [
    (lambda: Evaluator(np.zeros((4, 4), bool)), "(N,H,W)"),
    (lambda: Evaluator(np.zeros((0, 4, 4), bool)), "not empty"),
    (lambda: Evaluator(pair()[1], limits=[30]), "30 percent is 0.3"),
    (lambda: Evaluator(pair()[1], labels=[1, 0]), "(10,)"),
    (lambda: Evaluator(pair()[1]).evaluate(torch.zeros(9, 17, 17)), "(10, 17, 17)"),
    (lambda: Evaluator(pair()[1]).evaluate(torch.full((10, 17, 17), torch.nan)), "NaN in 10"),
    (lambda: Evaluator(pair()[1]).evaluate(pair()[0], fuse=lambda parts: parts["rgb"][:, :5]), "that of the masks"),
    (lambda: Evaluator(pair()[1]).evaluate(pair()[0]["rgb"], scores=[1.]), "(10,)"),
    (lambda: Evaluator(pair()[1]).evaluate(pair()[0]["rgb"], scores=[np.nan] * 10), "scores"),
    (lambda: Evaluator(pair()[1]).evaluate(pair()[0]["rgb"], mode="legacy-7"), "legacy-100"),
    (lambda: evaluate(np.full((10, 17, 17), np.nan), pair()[1]), "NaN"),
])
def test_refused(call, words):
    with pytest.raises(DataError) as error: call()
    assert words in str(error.value)


def test_one_nan_among_many_is_found():
    components, masks = pair()
    maps = blend(components).clone()
    maps[7, 3, 4] = torch.nan
    with pytest.raises(DataError, match="NaN in 1"): Evaluator(masks).evaluate(maps)


def test_batches_are_evaluated_together():
    components, masks = pair(23)
    maps = blend(components)
    metric = AnomalyMetrics()
    for first in range(0, 23, 5): metric.update(maps[first:first + 5], masks[first:first + 5])
    assert list(metric.compute().values()) == pytest.approx(list(evaluate(maps, masks).values()))
    legacy = AnomalyMetrics(limits=[.1], mode="legacy-99")
    legacy.update(maps.numpy(), masks, scores=np.arange(23), labels=np.arange(23) > 11)
    assert legacy.compute()["aupro@10"] == pytest.approx(aupro(maps, masks, .1, "legacy-99")) and legacy.compute()["image_auroc"] == 1


# ---- clouds ---------------------------------------------------------------------------------------------------------

class CloudParts(dict):
    "Components of clouds: flat tensors of all points, and how many each cloud has; parts[2:5] are three of the clouds."
    def __init__(self, values, sizes): super().__init__(values); self.sizes = tuple(sizes)

    def __getitem__(self, key):
        if isinstance(key, str): return super().__getitem__(key)
        inside = slice(sum(self.sizes[:key.start]), sum(self.sizes[:key.stop]))
        return CloudParts({name: values[inside] for name, values in self.items()}, self.sizes[key])


def cloud_pair(count=9, seed=0, largest=400):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, largest, count)
    labels = [rng.random(n) < .15 * (i % 2) for i, n in enumerate(sizes)]
    lift = torch.from_numpy(np.concatenate(labels)).float() * .4
    values = [(torch.from_numpy(rng.random(sizes.sum()).astype(np.float32)) + lift).mul(64).round() / 64 for _ in range(2)]   # ties
    return dict(zip(("rgb", "xyz"), values)), labels, sizes.tolist()


@pytest.mark.parametrize("pays", [True, False], ids=["sorted", "buckets"])
def test_clouds_agree_with_the_definition(pays, monkeypatch):
    from mmad_nb.scoring import evaluator
    monkeypatch.setattr(evaluator, "sorting_pays", lambda: pays)
    for seed in range(5):
        parts, labels, sizes = cloud_pair(seed=seed)
        flat, truth = blend(parts, .3).numpy(), np.concatenate(labels)
        clouds = list(blend(parts, .3).split(sizes))
        tops, bad = [c.max().item() for c in clouds], [m.any() for m in labels]
        fuse_to_list = lambda some, alpha: list(blend(some, alpha).split(list(some.sizes)))
        judge = Evaluator(labels)
        both = CloudParts(parts, sizes)
        for metrics in (evaluate(clouds, labels), evaluate([c.numpy() for c in clouds], labels), judge.evaluate(clouds),
                        judge.evaluate(parts, fuse=blend, alpha=.3),
                        Evaluator([torch.from_numpy(m) for m in labels]).evaluate([c.numpy() for c in clouds])):
            assert metrics["pixel_auroc"] == pytest.approx(roc_auc_score(truth, flat), abs=1e-12)
            assert metrics["pixel_ap"] == pytest.approx(average_precision_score(truth, flat), abs=1e-12)
            assert metrics["image_auroc"] == pytest.approx(roc_auc_score(bad, tops), abs=1e-12)
            assert metrics["image_ap"] == pytest.approx(average_precision_score(bad, tops), abs=1e-12)
            assert metrics["pixel_f1"] == pytest.approx(f1_by_thresholds(truth, flat), abs=1e-12)
            assert metrics["image_f1"] == pytest.approx(f1_by_thresholds(bad, tops), abs=1e-12)
            assert all(np.isnan(metrics[name]) for name in metrics if name.startswith("aupro"))
        maps, (means,) = judge.fused(WithSlices(both), fuse_to_list, dict(alpha=.3), lambda some: torch.stack([c.mean() for c in some]))
        assert all(torch.equal(a, b) for a, b in zip(maps, clouds)) and len(maps) == len(clouds)
        assert means.tolist() == pytest.approx([c.mean().item() for c in clouds], rel=1e-6)


class WithSlices:
    "The same, no dict: sliced by its own method only, as a detector's components are."
    def __init__(self, parts): self.parts, self.sizes = parts, parts.sizes
    def __getitem__(self, key): return self.parts[key] if isinstance(key, str) else WithSlices(self.parts[key])
    def __iter__(self): return iter(self.parts)
    def __len__(self): return len(self.parts)
    def values(self): return self.parts.values()


def test_large_clouds_are_shared_out():
    "Blocks of clouds end where clouds end, whatever their sizes."
    parts, labels, sizes = cloud_pair(count=7, seed=3, largest=400_000)
    judge, seen = Evaluator(labels), []
    fuse = lambda some: seen.append(len(some["rgb"])) or some["rgb"]
    assert judge.evaluate(parts, fuse=fuse)["pixel_auroc"] == pytest.approx(roc_auc_score(np.concatenate(labels), parts["rgb"].numpy()))
    assert len(seen) > 2 and sum(seen[1:]) == sum(sizes)      # the first call asks for type and device


@pytest.mark.parametrize("call, words", [
    (lambda c, m: evaluate(c, m[:-1]), "labels of 8 clouds"),
    (lambda c, m: evaluate(c, [*m[:3], m[3][:-1], *m[4:]]), "cloud 3"),
    (lambda c, m: evaluate(c, [*m[:2], None, *m[3:]]), "cloud 2"),
    (lambda c, m: evaluate([*c[:1], c[1][:0], *c[2:]], [*m[:1], m[1][:0], *m[2:]]), "cloud 1"),
    (lambda c, m: evaluate([*c[:1], c[1] * torch.nan, *c[2:]], m), "NaN"),
    (lambda c, m: evaluate(c, m, scores=[1.]), "(9,)"),
    (lambda c, m: evaluate(torch.zeros(9, 4, 4), m), "cloud 0"),
    (lambda c, m: evaluate(c, np.zeros((9, 4, 4))), "cloud 0"),
    (lambda c, m: Evaluator(m).evaluate(c[::-1]), "of the same samples"),
    (lambda c, m: Evaluator(m).evaluate(c[:-1]), "that of the masks"),
    (lambda c, m: Evaluator(m).evaluate([*c, c[0]]), "that of the masks"),
    (lambda c, m: Evaluator(m).evaluate({"a": torch.cat([*c, c[0]])}, fuse=lambda parts: parts["a"]), "that of the masks"),
    (lambda c, m: Evaluator(m).evaluate(torch.zeros(9, 4, 4)), "of the same samples"),
    (lambda c, m: Evaluator(np.zeros((9, 4, 4))).evaluate(c), "of the same samples"),
    (lambda c, m: Evaluator([*m[:2], np.zeros((2, 2)), *m[3:]]), "cloud 2"),
    (lambda c, m: aupro(c, m), "one value a point"),
    (lambda c, m: AnomalyMetrics().update(c, m), "one value a point"),
])
def test_clouds_refused(call, words):
    parts, labels, sizes = cloud_pair()
    with pytest.raises(DataError) as error: call(list(parts["rgb"].split(sizes)), labels)
    assert words in str(error.value)


# ---- threads and the sweep ------------------------------------------------------------------------------------------

def test_threads_leave_torch_alone():
    usual = torch.get_num_threads()
    assert share_out(lambda k: torch.get_num_threads(), range(4), threads=3) == [1] * 4
    seen = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert torch.get_num_threads() == usual and seen == [usual]


def test_sweep_is_the_same_as_one_after_the_other():
    components, masks = pair()
    values = np.linspace(0, 1, 9)
    sweep = Sweep(Evaluator(masks), components, blend, "alpha", values)
    for metrics, a in zip(sweep.result(60), values, strict=True): same(metrics, Evaluator(masks).evaluate(blend(components, a)))
    assert sweep.best("aupro@30")[1] == max(sweep.curve("aupro@30"))


def test_sweep_waits_for_the_slider_and_goes_on():
    components, masks = pair()
    turns = Turns(rest=.05)
    with turns:
        sweep = Sweep(Evaluator(masks), components, blend, "alpha", turns=turns)
        time.sleep(.3)
        assert not any(sweep.metrics)                       # not a single position while somebody is at the slider
    assert len(sweep.result(60)) == 101 and all(sweep.metrics)


def test_sweep_stops_and_tells_errors():
    components, masks = pair()
    turns = Turns()
    with turns:
        sweep = Sweep(Evaluator(masks), components, blend, "alpha", turns=turns)
        sweep.stop()
    with pytest.raises(Stopped): sweep.result(60)
    with pytest.raises(DataError, match="no position"): sweep.best("aupro@30")
    wrong = Sweep(Evaluator(masks), components, blend, "beta")
    with pytest.raises(TypeError): wrong.result(60)
    with pytest.raises(TypeError): wrong.curve("aupro@30")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 101, 128])
def test_each_position_once(count):
    assert sorted(coarse_to_fine(count)) == list(range(count))


def many(count, seed=0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 224, 224), bool)
    masks[::2, 40:60, 40:60] = True
    return (rng.random(masks.shape) + masks).astype(np.float32), masks


def test_maps_come_back_as_they_were():
    maps, masks = many(15)
    judge, parts = Evaluator(masks), {"maps": torch.from_numpy(maps)}
    held, _ = judge.fused(parts, lambda parts: parts["maps"], {})
    first = judge.evaluate(held)
    for again in judge.evaluate(held), judge.evaluate(maps): same(again, first)
    assert np.array_equal(held, maps)
    judge.evaluate(maps[::-1].copy())
    assert np.array_equal(held, maps)


def test_two_threads_may_ask_one_evaluator():
    from concurrent.futures import ThreadPoolExecutor
    sets = [many(15, seed)[0] for seed in range(4)]
    judge = Evaluator(many(15)[1])
    alone = [judge.evaluate(maps) for maps in sets]
    with ThreadPoolExecutor(4) as pool: together = list(pool.map(judge.evaluate, sets * 6))
    for one, other in zip(together, alone * 6, strict=True): same(one, other)


def test_inference_mode_changes_nothing():
    maps, masks = many(15)
    judge = Evaluator(masks)
    with torch.inference_mode(): inside = judge.evaluate(torch.from_numpy(maps) + 0)
    same(judge.evaluate(maps), inside)


def test_a_function_of_scores_gives_one_for_each_map():
    maps, masks = many(15)
    judge = Evaluator(masks)
    for wrong in (lambda some: some.max(), lambda some: some.max().reshape(1), lambda some: some[0]):
        with pytest.raises(DataError, match="one for each map"): judge.evaluate(maps, scores=wrong)
    grows = lambda some: some.amax((1, 2)) * torch.ones((), requires_grad=True)
    same(judge.evaluate(maps, scores=grows), judge.evaluate(maps, scores=lambda some: some.numpy().max((1, 2))))
