"""What scoring refuses, each with a DataError that names the argument; and awkward input that has to give the right numbers."""
import numpy as np
import pytest
import torch

from mmad_nb.core.runtime import DataError
from mmad_nb.scoring import (AnomalyMetrics, Evaluator, aupro, auroc, average_precision, box_blur, evaluate, f1_max, fuse_maps, image_score, pro_curve,
                             roc_curve, scale_maps)

NAN = float("nan")
MAPS, MASKS = np.random.default_rng(0).random((4, 8, 8)), np.zeros((4, 8, 8), bool)
MASKS[2:, 2:5, 2:5] = True
TORCH = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("metric", [auroc, average_precision, f1_max, roc_curve])
@pytest.mark.parametrize("kind", [np.array, torch.tensor, list])
def test_lists_of_scores(metric, kind):
    for name, lists in {"anomalous": ([NAN, 1.], [0., 2.]), "normal": ([0., 2.], [1., NAN])}.items():
        with pytest.raises(DataError, match=f"^{name}: found 1 NaN"): metric(*map(kind, lists))
    if kind is list: assert metric is roc_curve or metric([1, 2], [0]) == 1.0
    for wrong in ([["a"], [1.]], [[1j], [1.]], [[[1.]], [1.]], [None, [1.]], [[1.], "word"]):
        with pytest.raises(DataError, match="^(anomalous|normal): "): metric(*wrong)


def test_a_curve_needs_both_kinds():
    for lists in (([], [1.]), ([1.], []), ([], [])):
        with pytest.raises(DataError, match="at least one of each"): roc_curve(*lists)
    for masks in (MASKS & False, MASKS | True):
        with pytest.raises(DataError, match="at least one of each"): pro_curve(MAPS, masks)


REFUSED = {
    "masks: found 256 NaN": lambda maps, masks: (maps, masks * NAN),
    "masks: found values of type <U": lambda maps, masks: (maps, masks.astype(str)),
    "masks: found values of type complex": lambda maps, masks: (maps, masks + 1j),
    "masks: found values of type object": lambda maps, masks: (maps, None),
    "maps: found values of type <U": lambda maps, masks: (maps.astype(str), masks),
    "maps: found values of type complex": lambda maps, masks: (maps + 1j, masks),
    "maps: found torch.complex": lambda maps, masks: (torch.tensor(maps + 1j), masks),
    "maps: found lists of unequal": lambda maps, masks: ([[1, 2], [3]], masks),
    r"shapes \(0, 8, 8\)": lambda maps, masks: (maps[:0], masks[:0]),
    r"shapes \(4, 0, 8\)": lambda maps, masks: (maps[:, :0], masks[:, :0]),
    r"shapes \(4, 8, 8\) and \(4, 8, 7\)": lambda maps, masks: (maps, masks[..., 1:]),
    "maps: found 1 NaN": lambda maps, masks: (np.where(np.arange(256).reshape(4, 8, 8) == 7, NAN, maps), masks),
}


@pytest.mark.parametrize("message", REFUSED)
def test_maps_and_masks(message):
    given = REFUSED[message](MAPS, MASKS)
    for use in (evaluate, aupro, pro_curve, lambda maps, masks: AnomalyMetrics().update(maps, masks)):
        with pytest.raises(DataError, match=message): use(*given)
    if given[1] is not MASKS and message.startswith("masks"):
        with pytest.raises(DataError, match=message): Evaluator(given[1])
    elif given[1] is MASKS:
        with pytest.raises(DataError, match="maps"): Evaluator(MASKS).evaluate(given[0])


@pytest.mark.parametrize("labels", [["good", "crack", "good", "good"], [0, 1, 2, 1], [0, .5, 1, 1], [NAN, 0, 1, 1], [0, 1], None, [[0, 1, 0, 1]], [None] * 4])
def test_labels(labels):
    makers = [lambda: evaluate(MAPS, MASKS, labels=labels), lambda: Evaluator(MASKS, labels), lambda: AnomalyMetrics().update(MAPS, MASKS, labels=labels)]
    for make in makers:
        if labels is None: make()
        else:
            with pytest.raises(DataError, match="^labels: "): make()


def test_labels_as_numbers_and_truth_values_are_the_same():
    whole = evaluate(MAPS, MASKS, labels=[False, True, True, True])
    for labels in ([0, 1, 1, 1], np.array([0., 1., 1., 1.]), torch.tensor([False, True, True, True])): assert evaluate(MAPS, MASKS, labels=labels) == whole
    assert whole != evaluate(MAPS, MASKS)


@pytest.mark.parametrize("limits", [None, "wide", [.3, "x"], 0, -.1, 1.1, [NAN], [.3, .3], [.3, .3000000001]])
def test_limits(limits):
    for use in (lambda: evaluate(MAPS, MASKS, limits=limits), lambda: Evaluator(MASKS, limits=limits), lambda: aupro(MAPS, MASKS, limits)):
        with pytest.raises(DataError, match="^limit: "): use()


@pytest.mark.parametrize("mode", ["nope", None, 3, ["exact"]])
@pytest.mark.parametrize("masks", [MASKS, MASKS & False])
def test_modes(mode, masks):
    "A mistyped mode is told even where there is no region to measure."
    for use in (lambda: aupro(MAPS, masks, mode=mode), lambda: evaluate(MAPS, masks, mode=mode), lambda: Evaluator(masks).evaluate(MAPS, mode=mode),
                lambda: AnomalyMetrics(mode=mode), lambda: evaluate([MAPS.ravel()], [masks.ravel()], mode=mode)):
        with pytest.raises(DataError, match="^mode "): use()


def test_image_scores_given():
    for scores in ([1, 2, NAN, 3], ["a"] * 4, [1, 2], [1j] * 4):
        for use in (lambda: evaluate(MAPS, MASKS, scores), lambda: Evaluator(MASKS).evaluate(MAPS, scores)):
            with pytest.raises(DataError, match="^scores: "): use()
    with pytest.raises(DataError, match="^scores: "): Evaluator(MASKS).evaluate(MAPS, scores=lambda maps: maps.flatten(1))


def test_clouds():
    scores, labels = [np.array([.1, .9, .3]), np.array([.4, .2])], [np.array([0, 1, 0]), np.array([0, 0])]
    assert evaluate(scores, labels)["pixel_auroc"] == 1
    for maps, masks in ((scores, labels[:1]), (scores, None), (scores, 5), ([scores[0], 3], labels), ([scores[0], None], labels),
                        (scores, [labels[0], ["a", "b"]]), ([scores[0], scores[1] * NAN], labels), (scores, [labels[0], labels[1] * NAN])):
        with pytest.raises(DataError): evaluate(maps, masks)


def test_every_kind_of_number_gives_the_same():
    maps = np.round(MAPS * 100)
    whole = evaluate(maps, MASKS)
    for kind in ("f2", ">f4", ">f8", "g", "u1", "i2", ">i8"):
        for masks in (MASKS, MASKS.astype(">i2") * 255, MASKS.astype("g")):
            assert evaluate(maps.astype(kind), masks) == whole == Evaluator(masks).evaluate(maps.astype(kind)), kind
    for kind in (torch.bfloat16, torch.uint8): assert Evaluator(torch.tensor(MASKS)).evaluate(torch.tensor(maps).to(kind)) == whole


def test_infinite_scores_keep_their_rank():
    maps = MAPS.copy()
    maps[3, 3, 3], maps[0, 0, :3] = np.inf, -np.inf
    bounded = np.nan_to_num(maps, posinf=2, neginf=-1)
    for scorer in (evaluate, lambda m, k: Evaluator(k).evaluate(m)): assert scorer(maps, MASKS) == scorer(bounded, MASKS)


@pytest.mark.parametrize("alpha", [NAN, 2., -.1, float("inf"), "0.5", None, 1j, torch.tensor([.1, .2]), torch.tensor(NAN)])
def test_shares(alpha):
    for rule in ("mul", "add", "max", "single"):
        with pytest.raises(DataError, match="^alpha: "): fuse_maps(TORCH, TORCH, rule, alpha)


def test_maps_to_fuse_blur_and_score():
    for wrong in (TORCH.numpy(), (TORCH * 9).int(), -TORCH, TORCH * NAN, None):
        with pytest.raises(DataError, match="^rgb: "): fuse_maps(wrong, TORCH)
        with pytest.raises(DataError, match="^xyz: "): fuse_maps(TORCH, wrong)
        with pytest.raises(DataError, match="^maps: "): image_score(wrong, "release")
        with pytest.raises(DataError, match="^maps: "): scale_maps(wrong, "mean")
    for other in (TORCH[:, :5], TORCH[..., :1]):
        with pytest.raises(DataError, match="^xyz: found shape"): fuse_maps(TORCH, other)
    for one in (TORCH[0], TORCH[:, :0], None):
        with pytest.raises(DataError, match="^maps: "): image_score(one)
    with pytest.raises(DataError, match="NaN in 2"): image_score(TORCH * NAN)
    for wrong in (TORCH.numpy(), (TORCH * 9).int(), TORCH[0, 0], None):
        with pytest.raises(DataError, match="^blur: "): box_blur(wrong)


@pytest.mark.parametrize("passes", [((-3, 1),), ((0, 1),), ((4, 1),), ((5, -1),), ((5.5, 1),), ((NAN, 1),), (("5", 1),), 5, None, (5, 5), "ab"])
def test_kernels(passes):
    with pytest.raises(DataError, match="^blur: "): box_blur(TORCH, passes)
