"""MCL-AD on a miniature CLIP: which branch learns from what, how both are joined, files, and what it refuses."""
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_detectors_pointad import clip, clouds, known, small_clip, unknown  # noqa: F401 (fixtures)

from mmad_nb.core.runtime import DataError
from mmad_nb.detectors import create_detector, load_detector
from mmad_nb.detectors.mcl import note_photo, photo_item, photo_loss
from mmad_nb.detectors.pointad import PointAD, gaussian_blur, view_losses
from mmad_nb.lab import AblationLab
from mmad_nb.prompts.learnable import enlarged, pixel_loss, similarity, similarity_maps
from mmad_nb.prompts.multimodal import modulate, triplet_contrast


def make(clip, **options): return create_detector("mcl", (clip,), **{**dict(device="cpu", epochs=2, lr=1e-2, vv="off", deep=2), **options})


@pytest.fixture(scope="module")
def fitted(clip, known): return make(clip).fit(known)


@pytest.fixture(scope="module")
def parts(fitted, unknown): return fitted.components(unknown)


@pytest.fixture(scope="module")
def items(fitted, known):
    features = list(fitted.recipe.encode(known))
    return [photo_item(f, note_photo(s, f), n) for n, (s, f) in enumerate(zip(known, features))]


def test_the_mask_lies_where_the_photo_shows_the_defect(items, known):
    for item, sample in zip(items, known):
        S = item.features.size
        wanted = F.interpolate(torch.from_numpy(sample.mask)[None, None].float(), (S, S), mode="bilinear", antialias=True)[0, 0]
        assert item.mask.shape == (S, S) and (item.mask[wanted > .6]).all() and not item.mask[wanted == 0].any()
        assert item.anomalous == sample.anomalous == bool(item.mask.any())


def test_a_single_defective_pixel_is_not_lost(known, items):
    mask = np.zeros_like(known[0].mask); mask[31, 17] = True
    assert 1 <= np.unpackbits(note_photo(replace(known[0], mask=mask), items[0].features).mask).sum() <= 4   # 64 -> 48 pixels


def test_the_loss_is_the_sum_of_its_parts(fitted, items):
    fitted.begin([]); fitted.modules.eval()
    v = fitted.sentences()
    seen = [item.features for item in items]
    whole = similarity(torch.stack([one.image[-1] for one in seen]), v["photo"])
    maps = enlarged(similarity_maps(torch.stack([one.patches[-1] for one in seen]), v["photo"]), seen[0].size)
    photo = F.cross_entropy(whole, torch.tensor([int(i.anomalous) for i in items])) + pixel_loss(maps, torch.stack([i.mask for i in items]))
    assert photo_loss(v["photo"], items).item() == pytest.approx(photo.item(), rel=1e-5)
    total, count = fitted.loss(items)
    parts = sum(view_losses(v["points"], items).values()) + photo + triplet_contrast(v["photo"], v["points"], .5)
    assert count == len(items) and total.item() / count == pytest.approx(parts.item(), rel=1e-5)


def test_the_photo_learns_from_the_photo_and_the_points_from_the_views(clip, items):
    one = make(clip, contrast=0.); one.begin([])
    pairs = one.modules["prompts"].pairs
    photo_loss(one.sentences()["photo"], items).backward()
    assert pairs["photo"].context.grad.any() and pairs["points"].context.grad is None
    sum(view_losses(one.sentences()["points"], items).values()).backward()
    assert pairs["points"].context.grad.any()


def test_options_change_the_loss_as_they_say(clip, items):
    losses = {}
    for name, options in {"plain": dict(contrast=0.), "contrast": {}, "wide": dict(margin=2.), "one pair": dict(decoupled=False)}.items():
        one = make(clip, **options); one.begin([])
        losses[name] = one.loss(items)[0].item()
        v = one.sentences()
        assert torch.equal(v["photo"], v["points"]) == (name == "one pair")
    assert losses["plain"] < losses["contrast"] < losses["wide"]
    half = make(clip, contrast=.5); half.begin([])
    assert half.loss(items)[0].item() == pytest.approx((losses["plain"] + losses["contrast"]) / 2, rel=1e-5)


def test_maps_are_those_of_each_branch(fitted, parts, unknown, clip):
    v = fitted.networks()
    feats = list(fitted.recipe.encode(unknown))
    for i in (0, 3):
        a, b = PointAD.maps_of(fitted, v["points"], unknown[i], feats[i]), PointAD.maps_of(fitted, v["photo"], unknown[i], feats[i])
        for name, wanted in (("points", a), ("view", a), ("photo", b), ("photo_view", b)):
            assert torch.allclose(parts[name][i], wanted[name], atol=1e-6)
        assert not torch.allclose(a["photo"], b["photo"])


@pytest.mark.parametrize("weights", [{}, dict(eta=0.), dict(eta=1., reading="photo"), dict(eta=.3, reading="points", share=.9, blur=2.)])
def test_fusion_and_scores_by_hand(fitted, parts, weights):
    w = dict(eta=.8, reading="shares", share=.5, blur=4.) | weights
    maps = fitted.fuse(parts, **weights)
    photo, points = gaussian_blur(parts["photo"], w["blur"]), gaussian_blur(parts["points"], w["blur"])
    assert torch.allclose(maps, modulate(photo, points, w["eta"], w["reading"]), atol=1e-6)
    s = [w["share"] * m.flatten(1).amax(1) + (1 - w["share"]) * parts[n][:, 0, 0] for m, n in ((photo, "photo_view"), (points, "view"))]
    assert torch.allclose(fitted.image_scores(maps, parts, **weights), modulate(*s, w["eta"], w["reading"]), atol=1e-6)
    with pytest.raises(DataError, match="maps alone"): fitted.image_scores(maps)


def test_save_load_and_resume(tmp_path, fitted, parts, clip, known, unknown):
    one = make(clip).fit(known)                                 # `fitted` may have been begun anew by another test
    one.save(tmp_path / "m")
    again = load_detector(tmp_path / "m", device="cpu", encoders=(clip,))
    a, b = one.components(unknown[:1]), again.components(unknown[:1])
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a) and again.names == ["key", "star"]
    shared = make(clip, decoupled=False).fit(known)
    shared.save(tmp_path / "s")
    assert not load_detector(tmp_path / "s", device="cpu", encoders=(clip,)).options["decoupled"]


def test_refusals(clip, known, unknown, clouds, fitted):
    for samples, words in ((known[::2][:1], "only flawless"), ([replace(s, mask=None) for s in known], "no mask"), (clouds, "RGB-3D samples"),
                           ([replace(s, category="") for s in known], "no category")):
        with pytest.raises(DataError, match=words): make(clip).fit(samples)
    with pytest.raises(DataError, match="learned from"): make(clip).fit(known).components(known)
    for options in (dict(length=0), dict(margin=3.), dict(contrast=-1.), dict(decoupled="yes"), dict(photo=False), dict(angles="front")):
        with pytest.raises(DataError): make(clip, **options)
    with pytest.raises(DataError, match="a training"): make(clip).read_prompts("x.pth", ["a"])


def test_the_lab_takes_it(clip, known, unknown):
    lab = AblationLab(make(clip).fit(known), unknown)
    assert {"eta", "reading", "share", "blur"} <= {w.name for w in lab.detector.weights}
