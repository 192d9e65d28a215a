"Metrics within groups: against a plain loop over hostile cases, clouds and tensors, a slow pace in the background, and bad input."
import re
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmad_nb.core.runtime import DataError
from mmad_nb.scoring import Evaluator, GroupEvaluator, Grouped, Metrics, evaluate, kinds
from mmad_nb.scoring.groups import GroupPanel, strips_svg, two_categories
from mmad_nb.scoring.sweep import Stopped, gently


def same(one, other): np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-12)


def case(seed, dtype=np.float32):
    "Scores with ties, masks of which some are empty, three groups whose samples alternate."
    rng = np.random.default_rng(seed)
    masks = rng.random((12, 9, 11)) < .1
    masks[rng.random(12) < .4] = False
    masks[0] = True
    return (rng.normal(size=masks.shape) + masks).round(seed % 3).astype(dtype), masks, [("a", "b", "c")[i % 3] for i in range(12)]


@pytest.mark.parametrize("by_sorting", [True, False])
def test_agrees_with_a_loop(by_sorting):
    for seed in range(12):
        maps, masks, names = case(seed, (np.float32, np.float64)[seed % 2])
        judge = GroupEvaluator(masks, names, limits=[.3, .02])
        judge.threads = 1 + seed % 2
        for one in (judge.whole, *judge.within.values()): one.by_sorting = by_sorting
        kept = maps.copy()
        for given in (maps, torch.from_numpy(maps)):
            got = judge.evaluate(given)
            assert list(got.groups) == ["a", "b", "c"]
            for k, name in enumerate("abc"): same(got.groups[name], evaluate(maps[k::3], masks[k::3], limits=[.3, .02]))
            same(got.pooled, evaluate(maps, masks, limits=[.3, .02]))
        assert (maps == kept).all()
        for metric in got.mean:
            known = [m[metric] for m in got.groups.values() if not np.isnan(m[metric])]
            assert got.mean[metric] == pytest.approx(sum(known) / len(known)) if known else np.isnan(got.mean[metric])
            assert got.left_out.get(metric, ()) == tuple(n for n, m in got.groups.items() if np.isnan(m[metric]))


def test_a_function_scores_each_map_and_fusion_is_done_once():
    maps, masks, names = case(1)
    parts, calls = {"a": torch.from_numpy(maps), "b": torch.from_numpy(maps[:, ::-1].copy())}, []
    def fuse(parts, alpha):
        calls.append(len(parts["a"]))
        return torch.lerp(parts["a"], parts["b"], alpha)
    mean = lambda maps: maps.flatten(1).mean(1)
    got = GroupEvaluator(masks, names).evaluate(parts, mean, "legacy-99", fuse, alpha=.25)
    assert sum(calls) == 12 + 1                                          # and one map to learn the type
    fused = torch.lerp(parts["a"], parts["b"], .25)
    same(got.groups["b"], evaluate(fused[1::3], masks[1::3], mean(fused[1::3]), mode="legacy-99"))
    same(got.pooled, evaluate(fused, masks, mean(fused), mode="legacy-99"))


def test_clouds_one_of_them_alone_in_its_group():
    rng = np.random.default_rng(0)
    labels = [rng.random(n) < .3 for n in (5, 8, 3, 9, 4)]
    clouds = [rng.random(len(bad)).astype(np.float32) + bad for bad in labels]
    judge, kept = GroupEvaluator(labels, ["x", "y", "x", "x", "z"]), [c.copy() for c in clouds]
    for given in (clouds, [torch.from_numpy(c) for c in clouds]):
        got = judge.evaluate(given)
        same(got.groups["x"], evaluate([clouds[i] for i in (0, 2, 3)], [labels[i] for i in (0, 2, 3)]))
        same(got.groups["z"], evaluate(clouds[4:], labels[4:]))
        same(got.pooled, evaluate(clouds, labels))
        assert got.left_out["aupro@30"] == ("x", "y", "z") and np.isnan(got.mean["aupro@30"])
        assert all((a == b).all() for a, b in zip(clouds, kept))
    joined = {"one": torch.from_numpy(np.concatenate(clouds))}                                # as components have them
    same(judge.evaluate(joined, fuse=lambda parts: parts["one"]).groups["x"], got.groups["x"])


def test_labels_of_hidden_defects_and_overlapping_groups():
    maps, masks, _ = case(2)
    masks = masks & False
    labels = np.arange(12) % 4 == 0
    scores = np.arange(12.)
    groups = {"one": [0, 1, 2], "two": np.array([1, 2, 4, 8])}
    got = GroupEvaluator(masks, groups, labels, pooled=False).evaluate(maps, scores)
    assert got.pooled is None and "pooled" not in str(got) and "pooled" not in got._repr_markdown_()
    assert got.groups["one"]["image_auroc"] == 0 and got.groups["two"]["image_auroc"] == 1


def test_numbers_of_a_group_in_any_order():
    "Labels, image scores, masks and maps follow the numbers as they are given."
    maps, masks, _ = case(4)
    labels, scores, places = np.arange(12) % 3 == 0, np.arange(12.) ** 2 % 7, np.array([9, 0, 5, 3, 11, 2])
    assert labels[places].tolist() != np.sort(labels[places]).tolist() and labels[places].tolist() != labels[np.sort(places)].tolist()
    judge = GroupEvaluator(masks, {"a": places, "b": [1, 4]}, labels)
    assert judge.within["a"].labels.tolist() == labels[places].tolist()
    for given in (scores, None):
        got = judge.evaluate(maps, given).groups["a"]
        same(got, evaluate(maps[places], masks[places], None if given is None else given[places], labels=labels[places]))


def test_the_room_of_the_last_call_is_used_again():
    maps, masks, names = case(3)
    judge = GroupEvaluator(masks, names)
    first = judge.evaluate(maps)
    room = judge.whole.spare["room"]
    room.fill_(float("nan"))                                             # what is left in it must not matter
    again = judge.evaluate(maps)
    assert judge.whole.spare["room"].data_ptr() == room.data_ptr()
    for name in first.groups: same(again.groups[name], first.groups[name])
    same(again.pooled, first.pooled)
    clouds = GroupEvaluator([np.array([0, 1]), np.array([0, 0, 1])], ["a", "b"])
    clouds.evaluate([np.array([.1, .2]), np.array([.1, .2, .3])])
    assert not clouds.whole.spare                                        # clouds have no room to keep


def test_at_the_pace_of_the_background():
    maps, masks, names = case(3)
    judge = GroupEvaluator(masks, names)
    expected, seen = judge.evaluate(maps), set()
    slow = gently(judge, lambda: seen.add(threading.get_ident()))
    got = slow.evaluate(maps)
    for name in expected.groups: same(got.groups[name], expected.groups[name])
    assert seen == {threading.get_ident()}                                                    # on this core alone
    def give_up(): raise Stopped
    with pytest.raises(Stopped): gently(judge, give_up).evaluate(maps)
    same(judge.evaluate(maps).pooled, expected.pooled)


def test_kinds_of_one_and_of_several_categories():
    def of(*words): return [SimpleNamespace(category=c, defect=d) for c, d in words]
    one = kinds(of(("bun", "hole"), ("bun", "good"), ("bun", "cut"), ("bun", "good")))
    assert {k: v.tolist() for k, v in one.items()} == {"hole": [0, 1, 3], "cut": [1, 2, 3]}
    two = kinds(of(("bun", "hole"), ("bar", "hole"), ("bun", "good"), ("bar", "good")))
    assert {k: v.tolist() for k, v in two.items()} == {"bun/hole": [0, 2], "bar/hole": [1, 3]}


def test_image_auroc_of_a_category_is_the_weighted_mean_of_its_kinds():
    rng = np.random.default_rng(5)
    defects = rng.choice(["good", "hole", "cut"], 60)
    samples, scores = [SimpleNamespace(category="bun", defect=d) for d in defects], rng.normal(size=60).round(1)
    blank = np.zeros((60, 2, 2), bool)
    got = GroupEvaluator(blank, kinds(samples), defects != "good").evaluate(blank, scores)
    share = {k: (defects == k).sum() / (defects != "good").sum() for k in got.groups}
    assert sum(share[k] * m["image_auroc"] for k, m in got.groups.items()) == pytest.approx(got.pooled["image_auroc"])


def test_table_lists_groups_mean_and_pot():
    table = Grouped({"bun": Metrics(image_ap=.25), 7: Metrics(image_ap=float("nan"))}, Metrics(image_ap=.5))
    assert [line.split() for line in str(table).splitlines()] == [["image_ap"], ["bun", "0.2500"], ["7", "undefined"], ["mean", "0.2500"], ["pooled", "0.5000"]]
    assert table._repr_markdown_().splitlines()[2:] == ["|bun|0.2500|", "|7|undefined|", "|mean|0.2500|", "|pooled|0.5000|"]


BLANK = np.zeros((3, 2, 2), bool)


@pytest.mark.parametrize("call, words", [
    (lambda: GroupEvaluator(BLANK, ["a", "b"]), "3, one for each sample"),
    (lambda: GroupEvaluator(BLANK, "abc"), "one for each sample"),
    (lambda: GroupEvaluator(BLANK, {}), "at least one"),
    (lambda: GroupEvaluator(BLANK, {"a": []}), "group 'a'"),
    (lambda: GroupEvaluator(BLANK, {"a": [0, 3]}), "from 0 to 2"),
    (lambda: GroupEvaluator(BLANK, {"a": [-1]}), "from 0 to 2"),
    (lambda: GroupEvaluator(BLANK, {"a": [1, 1]}), "at most once"),
    (lambda: GroupEvaluator(BLANK, {"b": [0, 1], "a": [0, 2, 0]}), "group 'a': found numbers from 0 to 2"),
    (lambda: GroupEvaluator(BLANK, {"a": [True, False, True]}), "a list of numbers of samples"),
    (lambda: GroupEvaluator(BLANK, {"a": [[0]]}), "a list of numbers of samples"),
    (lambda: GroupEvaluator(BLANK, list("abc")).evaluate(BLANK[:2]), "that of the masks"),
    (lambda: GroupEvaluator(BLANK, list("abc")).evaluate(BLANK, mode="exakt"), "exakt"),
    (lambda: GroupEvaluator(BLANK, list("abc")).evaluate(BLANK, scores=[1, 2]), "(3,)"),
    (lambda: GroupEvaluator(BLANK, list("abc")).evaluate(np.full((3, 2, 2), np.nan)), "NaN"),
    (lambda: GroupEvaluator(BLANK, list("abc"), limits=[30]), "30 percent is 0.3"),
    (lambda: kinds([1, 2]), "category and defect"),
    (lambda: kinds([SimpleNamespace(category="a", defect="good")]), "good ones only"),
])
def test_bad_input(call, words):
    with pytest.raises(DataError, match=words.replace("(", r"\(").replace(")", r"\)")): call()


def test_strips_are_safe_text_and_take_anything():
    text = strips_svg({"<a>": (np.array([1.]), np.array([1., np.inf]))}, {"<a>": "\"x\""}, line=3., title="'t'")
    assert "<a>" not in text and "nan" not in text and text.count("stroke-dasharray") == 1 and "aria-label" in text
    assert "nan" not in strips_svg({"a": (np.zeros(0), np.zeros(0))}) and "nan" not in strips_svg({})
    assert "stroke-dasharray" not in strips_svg({"a": (np.ones(1), np.zeros(1))}, line=np.inf)


def test_marks_of_the_strips_fill_the_room_between_both_texts():
    circles = lambda svg: [float(x) for x in re.findall(r"<circle cx='([-\d.]+)' cy='[\d.]+' r='4' fill='#3b8fd4' opacity", svg)]
    diamonds = lambda svg: [float(x) for x in re.findall(r"<path d='M([-\d.]+) [\d.]+l5 6l-5 6l-5 -6z' fill='#d55e00' opacity", svg)]
    rows = {"a": (np.array([4., 2.]), np.array([0., 1.])), "b": (np.array([3.]), np.array([-np.inf, np.inf]))}
    svg = strips_svg(rows)
    assert circles(svg) == [96, 182, 96, 440] and diamonds(svg) == [440, 268, 354]      # 86 for each unit; what is infinite stands at an end
    wide = strips_svg(rows, line=8.)                                                    # a line beyond all scores makes room for itself
    assert circles(wide) == [96, 139, 96, 440] and "x1='440.0' x2='440.0'" in wide and ">8</text>" in wide
    low = strips_svg(rows, line=-4.)
    assert circles(low)[:2] == [268, 311] and "x1='96.0' x2='96.0'" in low
    assert circles(strips_svg({"a": (np.array([2.]), np.array([2., 2.]))})) == [96, 96]  # one score alone: no width to share
    heights = [int(y) for y in re.findall(r"<text x='4' y='(\d+)'", strips_svg({str(k): rows["a"] for k in range(4)}))]
    assert np.diff(heights).tolist() == [44] * 3 and f"viewBox='0 0 600 {16 + 44 * 4 + 42}'" in strips_svg({str(k): rows["a"] for k in range(4)})


def test_panel():
    panel = GroupPanel()
    panel.share.value = .25
    rows = two_categories(0, 2, .25)
    assert [len(part) for both in rows.values() for part in both] == [30, 10, 10, 30]
    assert f"pooled <b>{panel.pooled:.3f}</b>" in panel.picture.value
