"""Prompts for two sensors: the losses on vectors of the plane, the modulation's readings, and what is refused."""
import math

import pytest
import torch
from test_detectors_pointad import small_clip

from mmad_nb.core.runtime import DataError
from mmad_nb.prompts.multimodal import READINGS, DecoupledPrompts, ModulationPanel, dual_contrast, modulate, triplet_contrast


def at(*degrees): return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


def triplet_by_hand(photo, points, margin):
    total = 0
    for here, there in ((photo, points), (points, photo)):
        for state in (0, 1):
            right = math.dist(here[state].tolist(), there[state].tolist())
            wrong = math.dist(here[state].tolist(), there[1 - state].tolist())
            total += max(0, right - wrong + margin)
    return total


@pytest.mark.parametrize("margin", [0., .5, 2.])
@pytest.mark.parametrize("degrees", [(0, 90, 0, 90), (0, 90, 20, 50), (0, 90, 80, 200), (10, 15, 12, 40)])
def test_triplets_are_those_of_the_formula(degrees, margin):
    photo, points = at(*degrees[:2]), at(*degrees[2:])
    assert triplet_contrast(photo, points, margin).item() == pytest.approx(triplet_by_hand(photo, points, margin), abs=1e-5)
    assert triplet_contrast(points, photo, margin).item() == pytest.approx(triplet_by_hand(photo, points, margin), abs=1e-5)


def test_triplets_pull_together_what_is_of_one_state():
    photo, points = at(0, 90).requires_grad_(), at(60, 30).requires_grad_()   # exchanged, so to speak
    for _ in range(200):
        loss = triplet_contrast(photo / photo.norm(dim=1, keepdim=True), points / points.norm(dim=1, keepdim=True))
        for leaf, slope in zip((photo, points), torch.autograd.grad(loss, (photo, points))): leaf.data -= .05 * slope
    assert loss.item() < .05 and (photo[0] @ points[0]) > (photo[0] @ points[1])


def test_equal_vectors_have_a_gradient():
    same = at(30, 30).requires_grad_()
    triplet_contrast(same, at(30, 30)).backward()
    assert same.grad.isfinite().all()


def test_dual_contrast_is_cross_entropy_over_two_cosines():
    own, other = at(0, 100), at(30, 160)
    wanted = 0
    for state in (0, 1):
        positive, negative = math.cos(math.radians((30, 60)[state])), math.cos(math.radians(100))
        wanted += -math.log(math.exp(positive) / (math.exp(positive) + math.exp(negative))) / 2
    assert dual_contrast(own, other).item() == pytest.approx(wanted, rel=1e-5)
    other.requires_grad_(); own.requires_grad_()
    dual_contrast(own, other).backward()
    assert other.grad is None and own.grad.any()


def test_each_reading():
    photo, points = torch.tensor([.9, .2, 0.]), torch.tensor([.3, .2, 0.])
    share = .9 / 1.2
    assert modulate(photo, points, .8)[0].item() == pytest.approx(.8 * (share * .9 + (1 - share) * .3) + .2 * .6)
    assert modulate(photo, points, .8).tolist()[1:] == pytest.approx([.2, 0.])
    assert torch.allclose(modulate(photo, points, .25, "points"), .25 * points + .75 * photo)
    assert torch.allclose(modulate(photo, points, .25, "photo"), .25 * photo + .75 * points)
    for reading in READINGS:
        found = modulate(photo, points, .6, reading)
        assert (found >= torch.minimum(photo, points) - 1e-6).all() and (found <= torch.maximum(photo, points) + 1e-6).all()
    for wrong in (dict(eta=1.2), dict(eta=-.1), dict(reading="share"), dict(eta=float("nan"))):
        with pytest.raises(DataError): modulate(photo, points, **wrong)


def test_two_pairs_learn_apart():
    prompts = DecoupledPrompts(small_clip(), length=3, deep=2)
    vectors = prompts.vectors()
    assert set(vectors) == {"photo", "points"} and not torch.allclose(vectors["photo"], vectors["points"])
    vectors["points"].sum().backward()
    assert prompts.pairs["photo"].context.grad is None and prompts.pairs["points"].context.grad.any()
    again = DecoupledPrompts(small_clip(), length=3, deep=2).vectors()
    assert all(torch.equal(vectors[name], again[name]) for name in vectors)


def test_the_panel_computes_what_it_shows():
    panel = ModulationPanel()
    panel.photo.value, panel.points.value, panel.eta.value = .5, .1, .3
    assert panel.scores["photo"] == pytest.approx(.3 * .5 + .7 * .1) and panel.scores["points"] == pytest.approx(.3 * .1 + .7 * .5)
    assert f"{panel.scores['shares']:.2f}" in panel.label.value
