"Lessons of surface names, the training of tiny_pointnet2, and its shipped file; the lessons are in the notebook."
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmad_nb.core.runtime import DataError
from mmad_nb.features.pointnet2 import create_pointnet2, tiny_pointnet2
from mmad_nb.features.zoo import PACKAGED, find_card, find_weights, load_weights
from mmad_nb.forge.forge_clouds import list_cloud_categories
from mmad_nb.pretraining import pointnet2 as P
from mmad_nb.pretraining.encoders import Stage
from mmad_nb.pretraining.lessons import HELD_OUT


@pytest.fixture(scope="module")
def lessons():
    return P.forge_surface_lessons([P.BODY], 3) + [P.surface_lesson("brick", 0, defects=4)]


def test_bending_does_not_depend_on_the_frame():
    rng = np.random.default_rng(0)
    p = F.normalize(torch.from_numpy(rng.normal(size=(1500, 3)).astype(np.float32)), dim=1)
    points = p * torch.tensor([1., .7, .4])                                              # an ellipsoid with its normals
    normals = F.normalize(p / torch.tensor([1., .7, .4]), dim=1)
    once, q = P.bending(points, normals), P.turn(rng)
    assert torch.allclose(once, P.bending(points @ q, normals @ q), atol=2e-2)
    assert torch.allclose(once / 2, P.bending(points * 2, normals), atol=1e-3)           # twice as large: half as bent
    assert (once[:, 0] >= once[:, 1]).all() and (once[:, 1] > 0).float().mean() > .99    # outwards everywhere
    pole = points[:, 2].argmax()                                                         # kappa = c / a^2 and c / b^2
    assert torch.allclose(once[pole], torch.tensor([.4 / .49, .4]), rtol=.15)


@pytest.mark.parametrize("seed", range(12))
def test_solids_are_closed_and_of_size_one(seed):
    rng = np.random.default_rng(seed)
    shape = P.solid(rng)
    u, v = np.linspace(0, 1, 40, endpoint=False), np.linspace(.01, .99, 40)
    around = shape(np.zeros(40), v) - shape(np.ones(40), v)                              # u = 0 meets u = 1
    assert np.abs(around).max() < 1e-6 and np.isfinite(shape(u, v)).all()
    points, twin, normals, moved = P.damaged_solid(np.random.default_rng(seed), 2, 500)
    assert .3 < np.linalg.norm(twin - twin.mean(0), axis=1).max() < 2.2
    assert np.allclose(points - twin, moved[:, None] * normals, atol=1e-9) and not P.damaged_solid(np.random.default_rng(seed), 0, 50)[3].any()


def test_captures_and_their_twins():
    for category in ("key", "peach"):
        points, twin, normals, moved = P.damaged_capture(category, np.random.default_rng(3), 4, 1500)
        assert len(points) == len(moved) <= 1500 and np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)
        assert (normals * twin).sum(1).max() < 0                                         # towards the sensor
        same = np.abs(np.nan_to_num(moved)) < 1e-6
        assert .5 < same.mean() < 1                                                      # most of the object is as it was
    good = P.damaged_capture("key", np.random.default_rng(3), 0, 500)[3]
    assert np.nanmax(np.abs(good)) == 0


def test_raised_points_are_nearer_to_the_sensor_or_farther_out(lessons):
    "The names agree with the geometry: a lesson with a raised place, compared with the same without defects."
    found = 0
    for number in range(8):
        points, twin, normals, moved = P.damaged_solid(np.random.default_rng([1, number]), 3, 2000)
        names = P.surface_names(torch.zeros(2000, 2), torch.from_numpy(moved).float())
        outward = ((points - twin) * normals).sum(1)
        assert (outward[names == 6] > 0).all() and (outward[names == 7] < 0).all()
        found += int((names == 6).sum())
    assert found


def test_lessons_repeat_and_differ(lessons):
    again = P.surface_lesson(P.BODY, 1)
    assert torch.equal(again.names, lessons[1].names) and torch.equal(again.plan.members[2], lessons[1].plan.members[2])
    assert not torch.equal(lessons[0].names, lessons[1].names)
    for one in lessons:
        assert one.plan.points[0].shape == (1, 3000, 3) and one.names.shape == (3000,) and one.names.min() >= -1 and one.names.max() < 8
        assert one.plan.points[0].norm(dim=-1).max() == pytest.approx(1, abs=.05)
    quiet, noisy = (P.surface_lesson(P.BODY, 1, noise=n) for n in (0., .02))
    assert torch.equal(quiet.names, noisy.names) and (quiet.plan.points[0] - noisy.plan.points[0]).norm(dim=-1).mean() > .01
    assert not set(P.LEARNED) & {*HELD_OUT, *list_cloud_categories()}
    for name in (*list_cloud_categories()[:2], "bagel", "nonsense"):
        with pytest.raises(DataError, match="auxiliary"): P.surface_lesson(name, 0)


def test_small_objects_repeat_points():
    "A key covers few pixels; clouds must still stack."
    small = [P.surface_lesson("key", n, defects=0) for n in range(6)]
    assert {len(one.names) for one in small} == {3000}
    assert min(len(one.plan.points[0][0].unique(dim=0)) for one in small) < 3000
    assert not any((one.names >= 6).any() for one in small)


def test_batches_ask_the_points_that_they_say(lessons):
    plan, names = P.surface_batch(lessons, [4, 9], seed=0, asked=500)
    again, same = P.surface_batch(lessons, [4, 9], seed=0, asked=500)
    assert torch.equal(names, same) and torch.equal(plan.points[2], again.points[2]) and names.shape == (2, 500)
    other = P.surface_batch(lessons, [5, 9], seed=0, asked=500)[0]
    assert torch.equal(other.points[0][1], plan.points[0][1]) and not torch.equal(other.points[0][0], plan.points[0][0])
    net = P.fresh_pointnet2()
    with torch.no_grad():                                        # the asked points get what they would get among all
        everything, some = P.surface_batch(lessons, [4], 0, 3000), P.surface_batch(lessons, [4], 0, 500)
        assert torch.allclose(net(everything[0])[0][:, :500], net(some[0])[0], atol=1e-5)
        assert torch.equal(everything[1][:, :500], some[1])


def test_unknown_points_have_no_say(lessons):
    from dataclasses import replace
    hidden = replace(lessons[0], names=torch.where(torch.arange(3000) % 2 == 0, lessons[0].names, -1))
    log, wrong = [], replace(lessons[0], names=torch.full((3000,), -1))
    total, count = P.surface_loss(P.fresh_pointnet2(), P.Alarm(), [hidden], 0, torch.float32, log)([0])
    asked = P.surface_batch([hidden], [0], 0)[1]
    assert count == (asked >= 0).sum() < 1000 and total > 0
    weight = P.name_weights([hidden])
    assert (weight[hidden.names[hidden.names >= 0]]).mean() == pytest.approx(1, abs=1e-4) and P.name_weights([wrong]).shape == (8,)


def test_alarm_rewards_distance_of_damage():
    alarm = P.Alarm(4, seed=1)
    local = torch.rand(10, 128).requires_grad_()
    alarm(local).sum().backward()
    step = alarm(local.detach() + .1 * local.grad) - alarm(local.detach())
    assert (step > 0).all() and alarm.prototypes.grad.abs().sum() > 0
    assert torch.equal(P.Alarm(4, seed=1).prototypes, alarm.prototypes)


def test_training_repeats_and_resumes(lessons, tmp_path):
    stages = Stage(2, 1e-3), Stage(2, 1e-3)
    one, log = P.train_tiny_pointnet2(lessons, 3, stages, 2, folder=tmp_path)
    again, _ = P.train_tiny_pointnet2(lessons, 3, stages, 2)
    resumed, rest = P.train_tiny_pointnet2(lessons, 3, stages, 2, folder=tmp_path)       # from the finished checkpoints
    other, _ = P.train_tiny_pointnet2(lessons, 4, stages, 2)
    same = lambda a, b: all(torch.allclose(x.float(), y.float(), atol=1e-6) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    assert same(one, again) and same(one, resumed) and not same(one, other)
    assert log.shape == (4, 3) and rest.shape[0] == 0 and not one.training and np.isfinite(log).all()
    assert not torch.equal(one.bn1.running_mean, torch.zeros(128))                       # statistics were gathered


def test_half_precision_arithmetic(lessons):
    net, log = P.train_tiny_pointnet2(lessons, 0, (Stage(3, 1e-3),), 2, dtype=torch.bfloat16)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in net.parameters()) and np.isfinite(log).all()


def test_shipped_run():
    file, run = PACKAGED / "tiny_pointnet2.safetensors", json.loads((PACKAGED / "tiny_pointnet2.json").read_text())
    assert file.stat().st_size < 3e6 and run["steps"] == sum(stage.steps for stage in P.POINTNET2_STAGES)
    assert len(run["at"]) == len(run["log"]) and len(run["columns"]) == len(run["log"][0]) == 1
    card = (PACKAGED / "tiny_pointnet2.md").read_text()
    assert "banana" in card and "button" in card and find_card("tiny_pointnet2").files == ("tiny_pointnet2.safetensors",)


def test_shipped_weights_know_damage_of_an_unseen_object():
    "Its own two last names separate damaged points of objects kept apart; those of random weights do not."
    from sklearn.metrics import roc_auc_score
    judged = [P.surface_lesson(P.BODY, 9000 + n, defects=3, noise=.002) for n in range(4)]
    nets = create_pointnet2(device="cpu"), tiny_pointnet2()
    scores = [np.mean([roc_auc_score(a[0] >= 6, a[1][:, 6:].sum(1)) for a in P.guessed(net, judged) if (a[0] >= 6).any()]) for net in nets]
    assert scores[0] > .75 and scores[0] > scores[1] + .1
    assert load_weights(tiny_pointnet2(4), find_weights("tiny_pointnet2"), "prior").conv1.weight.isfinite().all()


def test_surface_panel():
    panel = P.SurfacePanel(tiny_pointnet2())
    panel.category.value, panel.defects.value = P.BODY, 0
    assert "called damaged, and" not in panel.label.value and not (panel.one.names >= 6).any()
    panel.shown.value = "truth"
    r, g, b = (P.NAME_COLOURS[panel.one.names[0]] * 255).astype(int)
    assert int(panel.view.points.colors[0]) == (r << 16) + (g << 8) + b
    assert panel.label.value.startswith(f"{(panel.guess == panel.one.names).float().mean():.0%}")
    panel.one = replace(panel.one, names=torch.full_like(panel.one.names, -1))
    panel.colour()
    r, g, b = (P.NAME_COLOURS[len(P.SURFACES)] * 255).astype(int)                        # unknown has a colour of its own
    assert set(panel.view.points.colors.tolist()) == {(r << 16) + (g << 8) + b}


def test_every_name_by_its_curvatures():
    bent = torch.tensor([[1.9, -1.9], [4, 0], [0, -4], [3, 2.5], [-3, -5], [5, -5], [4, 0], [-3, -5]])
    moved = torch.tensor([0, 0, 0, 0, 0, .005, .02, -.02])
    assert [P.SURFACES[n] for n in P.surface_names(bent, moved)] == ["flat", "ridge", "rut", "peak", "pit", "saddle", "raised", "sunken"]


def test_raised_in_a_capture_is_nearer_to_the_sensor():
    "Along the same line of sight the damaged surface lies in front of the twin where it was raised, behind it where sunken."
    signs = []
    for seed in range(6):
        points, twin, _, moved = P.damaged_capture("brick", np.random.default_rng(seed), 5, 8000)
        direction = lambda p: p / np.linalg.norm(p, axis=1, keepdims=True)
        for p, m in zip(points, moved):
            if not abs(m) > .002: continue                                               # more than 2 mm; not NaN
            q = twin[(direction(twin) @ direction(p[None])[0]).argmax()]
            signs.append(np.sign(q[2] - p[2]) == np.sign(m))
    assert len(signs) > 50 and np.mean(signs) > .95


def made(monkeypatch, scale=1., unknown=0):
    "A lesson of a fixed body, as if it had been measured in another unit, with movements of some points unknown."
    points, twin, normals, moved = P.damaged_solid(np.random.default_rng(5), 3, 3000)
    moved = np.where(np.arange(3000) < unknown, np.nan, moved * scale)
    with monkeypatch.context() as patched:
        patched.setattr(P, "damaged_solid", lambda rng, defects: (points * scale, twin * scale, normals, moved))
        return P.surface_lesson(P.BODY, 1, noise=0.)


def test_names_do_not_depend_on_the_unit_and_unknown_stays_unknown(monkeypatch):
    metres, millimetres = made(monkeypatch, 1.), made(monkeypatch, 1000.)
    assert (metres.names == millimetres.names).float().mean() > .999 and len(metres.names.unique()) > 4
    assert (made(monkeypatch, unknown=400).names == -1).sum() == 400 and not (metres.names == -1).any()


def test_the_loss_is_what_it_says(lessons):
    "Weighted cross-entropy plus twice the weighted alarm, once more with torch's own losses."
    net, alarm, log = P.fresh_pointnet2(), P.Alarm(), []
    torch.manual_seed(0)
    total, count = P.surface_loss(net, alarm, lessons, 0, torch.float32, log)([3, 5])
    plan, names = P.surface_batch(lessons, [3, 5], 0)
    torch.manual_seed(0)
    local = net.train()(plan)[0]
    known, weight = names >= 0, P.name_weights(lessons)
    of_names = F.cross_entropy(net.classify(local)[known], names[known], weight, reduction="sum")
    of_alarm = F.binary_cross_entropy_with_logits(alarm(local)[known], (names[known] >= 6).float(), weight[names[known]], reduction="sum")
    assert total.item() == pytest.approx((of_names + 2 * of_alarm).item(), rel=1e-4) and count == known.sum()
    assert log[0][:2] == pytest.approx([of_names.item() / int(count), of_alarm.item() / int(count)], rel=1e-4)


def test_rare_names_count_more(lessons):
    from dataclasses import replace
    hand = replace(lessons[0], names=torch.tensor([0] * 90 + [7] * 10))
    assert torch.allclose(P.name_weights([hand])[[0, 7]], torch.tensor([5 / 6, 2.5]), atol=1e-4)


def test_batches_are_turned_and_nothing_else(lessons):
    plan, _ = P.surface_batch(lessons[:1], [0, 1], 0)
    own = lessons[0].plan.points[0][0]
    for one in plan.points[0]:
        assert not torch.allclose(one, own, atol=.05) and torch.allclose(one @ one.T, own @ own.T, atol=1e-4)
    assert not torch.allclose(plan.points[0][0], plan.points[0][1], atol=.05)


def test_training_begins_with_offsets_that_count():
    plain, begun = tiny_pointnet2(3), P.fresh_pointnet2(3)
    for n, radius in enumerate((.1, .2, .4, .8)):
        a, b = (getattr(net, f"sa{n + 1}").mlp_convs[0].weight for net in (plain, begun))
        assert torch.allclose(b[:, :3], a[:, :3] / radius, atol=1e-6) and torch.allclose(b[:, 3:], a[:, 3:] * (.1 if n == 0 else 1))
