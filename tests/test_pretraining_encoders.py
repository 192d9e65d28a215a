"Pre-training: losses on hand-worked values, seeds, a loss that falls, the shipped weights against random ones, families kept apart."
import json
import os
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmad_nb.core.runtime import DataError
from mmad_nb.data import prepare
from mmad_nb.data.neighbours import knn
from mmad_nb.forge import forge_sample, list_categories
from mmad_nb.forge.shapes import build_surface
from mmad_nb.pretraining import encoders as P, lessons as L
from mmad_nb.features.points import group_points
from mmad_nb.features.zoo import PACKAGED, create_encoder

NAMES = ("tiny_vit", "tiny_point_mae")


@pytest.fixture(autouse=True)
def no_other_weights(tmp_path, monkeypatch):
    "The shipped files, not somebody's cache."
    monkeypatch.setenv("MMAD_NB_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def lessons():
    return L.forge_lessons(["peach", "brick"], 1)


def test_the_losses_by_hand():
    bad, ok = torch.tensor([True, False, False]), torch.tensor([False, True, False])
    assert P.balanced(torch.tensor([4., 3., 99.]), bad, ok).item() == 3 + 2
    assert P.balanced(torch.tensor([4., 3., 99.]), bad & False, ok).item() == 3
    assert P.alarm(torch.tensor([0., 0., 50.]), bad, ok).item() == pytest.approx(3 * np.log(2))
    a, b = torch.tensor([[[0., 0, 0], [3, 0, 0]]]), torch.tensor([[[0., 0, 0], [0, 4, 0]]])
    assert P.chamfer(a, b).item() == pytest.approx((0 + 9) / 2 + (0 + 16) / 2)
    head = P.Rehearsal(1, 2)
    with torch.no_grad():
        for p in head.guess.parameters(): p.zero_()
        head.guess[2].bias[1] = -1                                   # points to (0, -1)
        head.slope.zero_()
        assert head(torch.zeros(1, 1), torch.tensor([[0., 7.]])).item() == pytest.approx(2 - .7, abs=1e-4)  # opposite


def test_sample_categories_are_refused():
    for name in list_categories("sample"):
        with pytest.raises(DataError, match=f"{name}.*auxiliary"): L.forge_lessons([name], 1)
    assert set(L.HELD_OUT) < set(L.CATEGORIES) and not set(L.CATEGORIES) & set(list_categories("sample"))


def test_lessons_depend_on_their_arguments_alone(lessons):
    again = L.forge_lessons(["brick"], 1)
    for one, other in zip(lessons[3:], again):
        assert all(np.array_equal(getattr(one, f), getattr(other, f)) for f in vars(one))
    assert [one.kinds[1:].sum() > 0 for one in again] == [False, True, True]   # a twin and two damaged captures
    assert again[0].group_kinds[:, 1:].sum() == 0


def test_a_turned_photo_keeps_its_labels(lessons):
    one, number = lessons[1], 3
    photo, known, corner = P.window(one, number, 0, 224)              # the whole picture, turned
    assert corner == (0, 0)
    damage = known[:, 1:8].sum(1)
    assert damage.sum().item() == pytest.approx(one.kinds[1:].astype(np.float32).sum(), abs=1e-2)
    lengths = known[:, 9:12].norm(dim=1).sort().values.numpy()
    assert np.allclose(lengths, np.sort(np.linalg.norm(one.flawless[:3].astype(np.float32), axis=0).ravel()), atol=1e-3)


@pytest.mark.parametrize("train_it, batch_size", [(P.pretrain_image, 2), (P.pretrain_points, 1)])
def test_a_seed_decides_a_run(lessons, train_it, batch_size, tmp_path):
    stages = (P.Stage(2, 1e-3, 4, (80,)), P.Stage(2, 3e-4, 4, (80,)))
    state = torch.get_rng_state()
    one, log = train_it(lessons, stages, seed=3, batch_size=batch_size, folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    again, _ = train_it(lessons, stages, seed=3, batch_size=batch_size)
    other, _ = train_it(lessons, stages, seed=4, batch_size=batch_size)
    resumed, rest = train_it(lessons, stages, seed=3, batch_size=batch_size, folder=tmp_path)  # from the finished checkpoints
    same = lambda a, b: all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    assert same(one, again) and same(one, resumed) and not same(one, other)
    assert len(log) == 4 and len(rest) == 0 and np.isfinite(log[:, :4]).all()


def test_a_few_steps_lower_the_loss(lessons):
    _, log = P.pretrain_image(lessons, (P.Stage(14, 1e-3, 4, (80,)),), batch_size=4)
    assert log[-4:, 2].mean() < .8 * log[:4, 2].mean()
    _, log = P.pretrain_points(lessons, (P.Stage(10, 1e-3),), batch_size=1)
    assert log[-4:, 2].mean() < .8 * log[:4, 2].mean()


def test_every_weight_of_the_networks_is_reached(lessons):
    vit, heads = P.fresh_vit(), P.ImageHeads()
    with torch.no_grad():
        for block in vit.blocks[4:]: block.attn.proj.weight += .01; block.mlp.fc2.weight += .01    # no longer identities
    P.image_loss(vit, heads, lessons, 0, 12, (80,), [])([1, 2])[0].backward()
    assert [n for n, p in vit.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())] == []
    net, heads = P.fresh_points(), P.PointHeads()
    P.point_loss(net, heads, lessons, 0, [])([1])[0].backward()
    unused = {"encoder.first_conv.0.bias", "encoder.first_conv.3.bias", "encoder.second_conv.0.bias"}   # cancelled by a mean
    without = {n for n, p in net.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-7}
    assert without <= unused


@pytest.mark.parametrize("name", NAMES)
def test_shipped_files(name):
    path = PACKAGED / f"{name}.safetensors"
    card, run = (PACKAGED / f"{name}.md").read_text(), json.loads((PACKAGED / f"{name}.json").read_text())
    encoder = create_encoder(name, device="cpu")
    assert "random" not in encoder.provenance and path.name in encoder.provenance
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in encoder.parameters())
    assert path.stat().st_size < 13e6                                 # half precision
    assert "Apache-2.0" in card and "auxiliary" in card and str(run["steps"]) in card
    stages = P.IMAGE_STAGES if name == "tiny_vit" else P.POINT_STAGES
    assert run["steps"] == sum(stage.steps for stage in stages)       # the curve is that of the recipe
    assert not set(re.findall(r"\w+", run["categories"])) & {*list_categories("sample"), *L.HELD_OUT}


def test_all_twelve_blocks_were_trained():
    "Pruning and taps mean something: every block moves the features."
    encoder = create_encoder("tiny_vit", device="cpu")
    photo = torch.from_numpy(forge_sample("gear", "dent", seed=5, size=112).rgb)[None]
    maps = encoder.encode(photo, range(12))
    moved = [1 - F.cosine_similarity(a, b, dim=1).mean().item() for a, b in zip(maps, maps[1:])]
    assert min(moved) > 1e-3, moved


def test_objects_without_a_name():
    grid = np.meshgrid(*[np.linspace(-60, 60, 90)] * 2)
    objects = [L.anything(*grid, seed) for seed in range(40)]
    again = L.anything(*grid, 7)
    assert np.array_equal(again.height, objects[7].height) and np.array_equal(again.color, objects[7].color)
    for one in objects:
        assert one.height.dtype == one.color.dtype == np.float32 and np.isfinite(one.height).all()
        assert 0 <= one.height.min() and 5 < one.height.max() < 50 and one.color.min() >= 0 and one.color.max() <= 1
        assert .02 < (one.height > 0).mean() < .8
    means = np.array([o.color[:, o.height > 0].mean(1) for o in objects])
    assert (means.std(0) > .1).all()                                  # of all colours
    finer = L.anything(*np.meshgrid(*[np.linspace(-60, 60, 179)] * 2), 7)   # the grid does not change the object
    assert np.abs(finer.height[::2, ::2] - again.height).max() < 1e-2


def test_packaged_weights_fit_in_the_wheel():
    assert sum(os.path.getsize(path) for path in PACKAGED.iterdir()) < 60e6   # what a wheel may carry


def separation(kind, name, categories, defects):
    "Share of (damaged, normal) pairs in order: distance to the nearest feature of three flawless individuals."
    encoder, found = create_encoder(name, kind, device="cpu"), []
    for category in categories:
        good = [prepare(forge_sample(category, seed=7100 + n), 224) for n in range(3)]
        bad = [prepare(forge_sample(category, defect, 1.2, seed=7200 + n), 224) for n, defect in enumerate(defects)]
        if name == "tiny_vit":
            maps = encoder.encode(torch.from_numpy(np.stack([s.rgb for s in good + bad])))[0]
            known, rows = maps[:3].permute(0, 2, 3, 1).flatten(0, 2), [m.flatten(1).T for m in maps[3:]]
            labels = [torch.from_numpy(L.patch_means(s.mask[None].astype(np.float32))[0].ravel()) for s in bad]
            used = [torch.from_numpy(L.patch_means(s.valid[None].astype(np.float32))[0].ravel()) > .9 for s in bad]
        else:
            encoded = [encoder.encode(torch.from_numpy(s.cloud().points))[1] for s in good + bad]
            known, rows = torch.cat(encoded[:3]), encoded[3:]
            labels = [share_of_groups(s) for s in bad]
            used = [torch.ones(len(r), dtype=torch.bool) for r in rows]
        for row, label, use in zip(rows, labels, used):
            far = 1 - (F.normalize(row, dim=1) @ F.normalize(known, dim=1).T).amax(1)
            found.append(P.ordered(far, (label > .3) & use, (label == 0) & use))
    return np.mean(found)


def share_of_groups(sample):
    "Of each group's points, how many are in the mask."
    cloud = sample.cloud()
    points = torch.from_numpy(cloud.points)
    centers, _ = group_points(points, 384, 32)
    return torch.from_numpy(cloud.labels[knn(centers, points, 32)[1].numpy()].mean(1))


@pytest.mark.parametrize("name, defects, gain", [("tiny_point_mae", ("dent", "bump", "crack"), .1),
                                                 ("tiny_vit", ("contamination", "scratch", "stain"), .04)])
def test_on_unseen_categories_trained_weights_are_worth_something(name, defects, gain):
    categories = ("banana", "cookie", "gear")
    trained, random = separation(None, name, categories, defects), separation("random", name, categories, defects)
    assert trained > max(.9, random + gain)                          # measured .93 and .76 (points), .97 and .88 (photos)


def test_styles_are_an_option(lessons):
    "Without them lessons are what the shipped weights learned from; with them every individual has its own."
    plain, styled = L.forge_lessons(["brick"], 1), L.forge_lessons(["brick"], 1, styles=True)
    assert all(np.array_equal(getattr(plain[0], f), getattr(lessons[3], f)) for f in vars(plain[0]))
    assert not np.array_equal(plain[0].photo, styled[0].photo) and np.array_equal(styled[1].flawless, styled[0].flawless)
    assert np.array_equal(styled[1].photo, L.forge_lessons(["brick"], 1, styles=True)[1].photo)


def test_blots_stay_on_the_object_and_say_their_kind():
    grid = np.meshgrid(*[np.linspace(-60, 60, 90, dtype=np.float32)] * 2)
    before, kinds = build_surface("brick", *grid, 3), set()
    for seed in range(30):
        after, kind = L.blot(before, *grid, np.random.default_rng(seed))
        table, moved = before.height == 0, after.height - before.height
        assert np.array_equal(after.height[table], before.height[table]) and np.array_equal(after.color[:, table], before.color[:, table])
        assert np.isfinite(after.height).all() and 0 <= after.color.min() and after.color.max() <= 1
        assert kind == ("stain" if not moved.any() else "bump" if moved[np.abs(moved).argmax() // 90, np.abs(moved).argmax() % 90] > 0 else "hole")
        kinds.add(kind)
    assert kinds == {"stain", "bump", "hole"}


def test_a_run_goes_on_from_a_copy(lessons):
    start = P.fresh_points(3)
    same, _ = P.pretrain_points(lessons, (P.Stage(2, 1e-3, heads_only=True),), batch_size=1, start=start)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), start.parameters()))
    assert all(p.requires_grad for p in same.parameters())
    before = [p.clone() for p in start.parameters()]
    moved, _ = P.pretrain_points(lessons, (P.Stage(1, 1e-3),), batch_size=1, start=start)
    assert any(not torch.equal(a, b) for a, b in zip(moved.parameters(), before))
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), before))
