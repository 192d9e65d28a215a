"""Lines of tables and metrics that decide a printed number, against rules written out another way."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from lab_samples import make_sample

from mmad_nb.detectors.per_category import evaluate_maps
from mmad_nb.experiments.protocols import measure
from mmad_nb.scoring import Evaluator, auroc, average_precision, evaluate, f1_max, fuse_maps, image_score, roc_curve, scale_maps


def noisy():
    rng, masks = np.random.default_rng(4), np.zeros((5, 20, 20), bool)
    masks[1, 2:4, 2:9], masks[3, 5:15, 5:15], masks[3, 17:19, 1:3] = True, True, True
    return torch.from_numpy(rng.random(masks.shape) + masks * rng.random(masks.shape)).float(), masks


def by_99_ranks(maps, masks, limit):
    "AUPRO as the released code has it: 99 ranks of the normal scores, a trapezoid between each two."
    from scipy import ndimage
    normal = np.sort(maps[~masks])
    regions = [(i, place) for i in range(len(masks)) for label, n in [ndimage.label(masks[i], np.ones((3, 3)))] for place in (label == k + 1 for k in range(n))]
    points = [(1 - (k + 1) / len(normal), np.mean([(maps[i][place] > normal[k]).mean() for i, place in regions])) for k in np.linspace(0, len(normal) - 1, 99).astype(int)]
    x, y = map(np.array, zip(*[*points[::-1], (1, 1)]))
    steps = np.append(x[x < limit], limit)
    return np.trapezoid(np.interp(steps, x, y), steps) / limit if hasattr(np, "trapezoid") else np.trapz(np.interp(steps, x, y), steps) / limit


def test_legacy_columns_hold_legacy_values():
    maps, masks = noisy()
    labels = masks.any((1, 2))
    found = measure(maps, maps.amax((1, 2)), masks, labels)
    for name, limit in (("aupro@30", .3), ("aupro@10", .1), ("aupro@5", .05), ("aupro@1", .01)):
        wanted = by_99_ranks(maps.numpy(), masks, limit)
        assert found["legacy-99"][name] == pytest.approx(wanted, abs=1e-5), name
        assert abs(found["exact"][name] - wanted) > 1e-4, name
        mean = np.array([m[m != 0].mean() for m in maps.numpy()])[:, None, None]
        assert found["release"][name] == pytest.approx(by_99_ranks(maps.numpy() / mean, masks, limit), abs=1e-5), name


def test_labels_come_from_the_samples_not_from_their_masks():
    "A defective capture whose defect lies in no measured pixel has an empty mask and is defective all the same."
    samples = [make_sample("good"), make_sample("dent", 1), replace(make_sample("good", 2), defect="crack"), make_sample("good", 3)]
    assert samples[2].anomalous and not samples[2].mask.any()
    maps = torch.rand(4, 24, 24, generator=torch.Generator().manual_seed(0))
    scores = torch.tensor([.1, .5, .9, .6])
    assert evaluate_maps(maps, scores, samples)["thing"]["image_auroc"] == 3 / 4      # .5 and .9 against .1 and .6


def test_lists_of_scores_written_out():
    bad, good = np.array([3., 3, 1, 2]), np.array([0., 3, 2])
    assert auroc(bad, good) == pytest.approx(np.mean([(b > g) + (b == g) / 2 for b in bad for g in good]))
    found = [(bad >= t).sum() for t in bad], [(good >= t).sum() for t in bad]
    precision = [t / (t + f) for t, f in zip(*found)]
    assert average_precision(bad, good) == pytest.approx(np.mean(precision))
    assert f1_max(bad, good) == pytest.approx(max(2 / (1 / p + 4 / t) for p, t in zip(precision, found[0])))
    x, y = roc_curve(bad, good)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1) and auroc(bad, good) == pytest.approx(float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum()))


def test_image_score_is_the_largest_pixel_of_its_own_image():
    maps, masks = noisy()
    labels = np.array([0, 1, 0, 1, 1], bool)
    for found in (evaluate(maps, masks, labels=labels), Evaluator(masks, labels).evaluate(maps)):
        assert found["image_auroc"] == pytest.approx(auroc(maps.amax((1, 2))[labels], maps.amax((1, 2))[~labels]))


def test_the_released_score_has_a_root():
    maps = torch.tensor([[[0., 4], [9, 5]], [[0., 0], [0, 2]]])
    assert torch.allclose(image_score(maps, "release"), torch.tensor([9 / 6 ** .5, 2 / 2 ** .5]))
    assert torch.allclose(scale_maps(maps, "mean")[0], maps[0] / 6) and torch.allclose(scale_maps(maps, "sqrt-mean")[0], maps[0] / 4.5 ** .5)
    assert torch.allclose(fuse_maps(maps, maps + 1, "mul", .25), maps ** 1.5 * (maps + 1) ** .5)
    assert evaluate(maps, maps > 4, labels=[True, False])["image_auroc"] == 1
