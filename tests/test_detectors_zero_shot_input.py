"""What PointAD and GS-CLIP refuse to learn from and to judge: one rule for both, so that no silent number comes out."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_detectors_gs_clip import QUICK, clip  # noqa: F401

from mmad_nb.core.runtime import DataError
from mmad_nb.data import Cloud, prepare
from mmad_nb.data.neighbours import with_normals
from mmad_nb.detectors import create_detector
from mmad_nb.experiments import Splits, run_protocol
from mmad_nb.forge import forge_sample
from mmad_nb.forge.forge_clouds import forge_cloud

RANDOM = np.random.default_rng(0).random((1200, 3))
TILT = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]


def cloud(points, **more):
    points = np.asarray(points, np.float32)
    return Cloud(points, labels=np.arange(len(points)) < len(points) // 2, category="pear0", defect="bulge", id="odd", **more)


def sample(**change): return replace(prepare(forge_sample("bagel", "hole", seed=3), 64), **change)


def level(one): return replace(one, xyz=np.where(one.valid, np.stack([*one.xyz[:2], np.full_like(one.xyz[0], .5)]), 0).astype(np.float32))


CLOUDS = {
    "one point": (lambda: cloud(RANDOM[:1]), "1 points that all lie at one place"),
    "one place": (lambda: cloud(np.ones((1200, 3))), "at one place"),
    "two points": (lambda: cloud(RANDOM[:2]), "on one line"),
    "a line": (lambda: cloud(RANDOM[:, :1] * [1, 2, 3]), "1200 points that all lie on one line"),
    "a plane": (lambda: cloud(RANDOM * [1, 1, 0]), "1200 points that all lie in one plane"),
    "a tilted plane, far away": (lambda: cloud(RANDOM * [1, 1, 0] @ TILT + [1, 2, 3]), "in one plane"),
    "a sample in one plane": (lambda: level(sample()), "in one plane"),
    "nothing measured": (lambda: sample(valid=np.zeros((64, 64), bool)), "no valid point"),
    "no points": (lambda: cloud(np.zeros((0, 3))), "no valid point"),
    "NaN": (lambda: cloud(np.where(RANDOM > .999, np.nan, RANDOM)), "NaN"),
    "too large to be squared": (lambda: cloud(RANDOM * 1e25), "1e15"),
    "normals of NaN": (lambda: cloud(RANDOM, normals=np.full((1200, 3), np.nan, np.float32)), "NaN"),
}


@pytest.fixture(scope="module")
def known(): return [forge_cloud("ring0", defect, seed=n, points=1200) for n, defect in enumerate(("good", "bulge"))]


def made(name, clip, **more):  # noqa: F811
    few = {key: QUICK[key] for key in ("device", "epochs", "batch_size", "lr", "vv")} if name == "pointad" else QUICK
    return create_detector(name, encoders=clip, **few, **more)


@pytest.fixture(scope="module", params=["pointad", "gs_clip"])
def both(request, clip, known):  # noqa: F811
    "A name, and the detector of that name after a training."
    return request.param, made(request.param, clip).fit(known)


@pytest.mark.parametrize("case", CLOUDS)
def test_clouds_that_are_no_body_are_refused(both, clip, known, case):  # noqa: F811
    (name, fitted), (build, words) = both, CLOUDS[case]
    with pytest.raises(DataError, match=words): fitted.components([build()])
    with pytest.raises(DataError, match=words): made(name, clip).fit([known[0], build()])


def test_nearly_a_plane_is_judged(both):
    "A millimetre of noise on a metre: a sheet as a sensor sees it."
    sheet = cloud(RANDOM * [1, 1, 0] + np.random.default_rng(2).normal(0, .001, (1200, 3)))
    assert both[1].fuse(both[1].components([sheet]))[0].isfinite().all()


def test_normals_are_found_where_they_are_missing(both):
    plain = cloud(RANDOM)
    first, *others = (both[1].components([one])["points"][0] for one in (plain, with_normals(plain), replace(plain, normals=np.zeros((1200, 3), np.float32))))
    for other in others: torch.testing.assert_close(first, other)


def test_points_that_no_view_sees_get_a_finite_score(both, clip):  # noqa: F811
    "One camera sees half of a closed body at most."
    name, fitted = both
    half = made(name, clip, views=1).fit([forge_cloud("ring0", defect, seed=n, points=1200) for n, defect in enumerate(("good", "bulge"))])
    pear = forge_cloud("pear0", "bulge", seed=5, points=1200)
    features = next(half.recipe.encode([pear]))
    assert .2 < features.visible.float().mean() < .8
    assert half.fuse(half.components([pear]))[0].isfinite().all()


def test_too_few_points(clip, known, both):  # noqa: F811
    few = replace(cloud(RANDOM[:500]), id="few")
    name, fitted = both
    if name == "pointad": assert fitted.fuse(fitted.components([few]))[0].shape == (500,)     # nothing here needs more than three
    else:
        with pytest.raises(DataError, match="500 points.*1024"): fitted.components([few])
        with pytest.raises(DataError, match="500 points.*1024"): made(name, clip).fit([known[0], few])
        with pytest.raises(DataError, match="option 'k'.*1001"): create_detector("gs_clip", encoders=clip, **QUICK | {"k": 1001})  # more than it has points
        assert made(name, clip, prompts="learned").fit([known[0], few]).fitted                # no point network


def test_labels_and_categories(both, clip, known):  # noqa: F811
    name, fitted = both
    with pytest.raises(DataError, match="no mask"): made(name, clip).fit([known[0], replace(known[1], labels=None)])
    with pytest.raises(DataError, match="both kinds"): made(name, clip).fit(known[:1])
    with pytest.raises(DataError, match="no category"): made(name, clip).fit([known[0], replace(known[1], category="")])
    for spelling in ("ring0", "Ring_0"):
        with pytest.raises(DataError, match="learned from"): fitted.components([replace(known[0], category=spelling)])
    data = Splits(None, [*known, forge_cloud("pear0", "good", seed=3, points=1200), forge_cloud("pear0", "bulge", seed=4, points=1200)])
    how = dict(encoders=clip, device="cpu", epochs=1, vv="off") | ({"prior": "tiny_pointnet2"} if name == "gs_clip" else {})
    with pytest.raises(DataError, match="both training and test"): run_protocol("one-vs-rest", name, data, train_on="ring0", test_on=["ring0", "pear0"], **how)
    with pytest.raises(DataError, match="both training and test"): run_protocol("cross-dataset", name, data, train_on="ring0", test_data=data, **how)
