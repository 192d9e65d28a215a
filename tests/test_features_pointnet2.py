"PointNet++: every formula against a slow version, published files, bad input; the lessons are in the notebook."
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from mmad_nb.core.runtime import DataError
from mmad_nb.features import pointnet2 as P
from mmad_nb.features.points import farthest_point_sampling
from mmad_nb.features.zoo import PACKAGED, create_encoder, find_card, list_encoders
from mmad_nb.forge.forge_clouds import forge_cloud

SMALL = dict(groups=(40, 20, 10, 5), radii=(.3, .5, .8, 1.2), neighbours=8)


def cloud(n=200, seed=0):
    return F.normalize(torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)), dim=1) * torch.tensor([1., .8, .5])


def network(seed=0, **changes):
    "A small network whose normalisation does something."
    torch.manual_seed(seed)
    net = P.PointNet2(**SMALL | changes)
    for layer in net.modules():
        if isinstance(layer, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            layer.running_mean.normal_(0, .1), layer.running_var.uniform_(.5, 2)
            with torch.no_grad(): layer.weight.uniform_(.5, 2), layer.bias.normal_(0, .1)
    return net


PUBLISHED = {  # first and last number of each layer's widths, as the repository states them
    "sa1": (12, 32, 32, 64), "sa2": (67, 64, 64, 128), "sa3": (131, 128, 128, 256), "sa4": (259, 256, 256, 512),
    "fp4": (768, 256, 256), "fp3": (384, 256, 256), "fp2": (320, 256, 128), "fp1": (128, 128, 128, 128)}


def published_state(seed=0):
    "A state dict with the published names and shapes, written down without the class."
    draw, state = torch.Generator().manual_seed(seed), {}
    def layer(conv, norm, a, b, ones):
        state[f"{conv}.weight"], state[f"{conv}.bias"] = (torch.randn(s, generator=draw) * .1 for s in ((b, a, *ones), (b,)))
        if norm is None: return
        for name, value in (("weight", torch.ones(b)), ("bias", torch.zeros(b)), ("running_mean", torch.zeros(b)),
                            ("running_var", torch.ones(b)), ("num_batches_tracked", torch.tensor(7))): state[f"{norm}.{name}"] = value
    for block, widths in PUBLISHED.items():
        for i, (a, b) in enumerate(zip(widths, widths[1:])):
            layer(f"{block}.mlp_convs.{i}", f"{block}.mlp_bns.{i}", a, b, (1, 1) if block[0] == "s" else (1,))
    layer("conv1", "bn1", 128, 128, (1,))
    layer("conv2", None, 128, 13, (1,))
    return state


@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_file_loads_by_name(tmp_path, prefix):
    state = published_state()
    torch.save({"epoch": 3, "class_avg_iou": np.float64(.4), "optimizer_state_dict": {"state": {0: {"step": torch.tensor(1.)}}, "param_groups": [{"lr": .1}]},
                "model_state_dict": {prefix + name: value for name, value in state.items()}}, tmp_path / "best_model.pth")
    for where in (tmp_path, tmp_path / "best_model.pth"):
        net = P.create_pointnet2("pointnet2_sem_seg", where, device="cpu")
        assert not net.training and "best_model.pth" in net.provenance and "given" in net.provenance
        for name, value in net.state_dict().items():
            if not name.endswith("num_batches_tracked"): assert torch.equal(value, state[name]), name
    with torch.no_grad(): features = net.encode(cloud(3200))
    assert features.local.shape == (3000, 128) and features.whole.shape == (512,) and features.local.std() > 0


def test_files_that_do_not_fit_are_refused(tmp_path):
    state = published_state()
    for change, word in ((dict(state, **{"conv2.weight": torch.zeros(5, 128, 1)}), r"conv2.weight: file \(5, 128, 1\), network \(13, 128, 1\)"),
                         ({n: v for n, v in state.items() if n != "fp1.mlp_bns.2.weight"}, "lacks it"),
                         (dict(state, **{"bn1.bias": torch.full((128,), torch.nan)}), "NaN")):
        save_file(change, tmp_path / "pointnet2_sem_seg.safetensors")
        with pytest.raises(DataError, match=word): P.create_pointnet2("pointnet2_sem_seg", tmp_path / "pointnet2_sem_seg.safetensors")
    with pytest.raises(DataError, match="best_model.pth"): P.create_pointnet2("pointnet2_sem_seg", tmp_path / "nowhere")
    with pytest.raises(DataError, match="no such name"): P.create_pointnet2("pointnet")
    with pytest.raises(DataError, match="no such name"): create_encoder("tiny_pointnet2")    # it makes no encoder of pictures or groups
    assert list_encoders("prior") == ["tiny_pointnet2", "pointnet2_sem_seg"] and not set(list_encoders()) & {"tiny_pointnet2"}


def test_shipped_weights():
    file = PACKAGED / "tiny_pointnet2.safetensors"
    assert file.stat().st_size < 3e6 and find_card("tiny_pointnet2").kind == "prior"
    net, other = P.create_pointnet2(device="cpu"), P.create_pointnet2(weights="random", device="cpu")
    assert "tiny_pointnet2.safetensors" in net.provenance and "not trained" in other.provenance and not net.training
    ring = forge_cloud("ring0", seed=5, points=3000).points
    with torch.no_grad(): a, b, again = net.encode(ring), other.encode(ring), P.create_pointnet2(device="cpu").encode(ring)
    assert not torch.allclose(a.whole, b.whole) and torch.equal(a.local, again.local)
    assert torch.equal(other.encode(ring).local, P.create_pointnet2(weights="random", device="cpu", seed=0).encode(ring).local)
    assert not torch.equal(P.create_pointnet2(weights="random", seed=1, device="cpu").conv1.weight, other.conv1.weight)


def test_ball_query_against_a_loop():
    points = cloud(150)
    for radius, k in ((.05, 4), (.3, 4), (.3, 60), (3., 7)):
        found = P.ball_query(points, points[::7], radius, k)
        for centre, row in zip(points[::7], found.tolist()):
            near = [n for n, p in enumerate(points) if (p - centre).norm() <= radius][:k]
            assert row == near + near[:1] * (k - len(near))


def slow_layers(x, block):
    for conv, norm in zip(block.mlp_convs, block.mlp_bns):
        x = torch.relu(norm(conv(x)))
    return x


def test_network_against_plain_convolutions():
    "The same numbers by torch's own layers, channels second, one cloud at a time and point by point."
    net = network()
    clouds = [P.unit_sphere(cloud(200, seed)) for seed in (1, 2)]
    plans = [P.plan_groups(c, net.groups, net.radii, net.neighbours) for c in clouds]
    with torch.no_grad(): local, whole = net(P.stack_plans(plans))
    for b, points in enumerate(clouds):
        xyz, features = [points], [torch.cat([points] * 3, 1)]
        for n, (count, radius) in enumerate(zip(net.groups, net.radii)):
            centers = xyz[n][farthest_point_sampling(xyz[n], count)]
            members = P.ball_query(xyz[n], centers, radius, net.neighbours)
            ball = torch.cat([xyz[n][members] - centers[:, None], features[n][members]], -1)      # (G,K,C)
            with torch.no_grad(): up = slow_layers(ball.permute(2, 1, 0)[None], getattr(net, f"sa{n + 1}"))
            xyz.append(centers), features.append(up.amax(2)[0].T)
        x = features[4]
        for n in (3, 2, 1, 0):
            distance, index = torch.cdist(xyz[n], xyz[n + 1]).topk(3, largest=False)
            share = 1 / (distance ** 2 + 1e-8)
            x = (x[index] * (share / share.sum(1, keepdim=True))[..., None]).sum(1)
            if n: x = torch.cat([features[n], x], 1)
            with torch.no_grad(): x = slow_layers(x.T[None], getattr(net, f"fp{n + 1}"))[0].T
        with torch.no_grad(): x = torch.relu(net.bn1(net.conv1(x.T[None])))[0].T
        assert torch.allclose(local[b], x, atol=1e-3) and torch.allclose(whole[b], features[4].amax(0), atol=1e-4)
        with torch.no_grad(): assert torch.allclose(net.classify(x), net.conv2(x.T[None])[0].T, atol=1e-5)


def test_training_mode_uses_the_batch_and_drops():
    net = network()
    plan = P.plan_groups(P.unit_sphere(cloud()), net.groups, net.radii, net.neighbours)
    calm, before = net(plan)[0], net.conv1.weight.clone()
    net.train()
    mean = net.bn1.running_mean.clone()
    assert not torch.allclose(net(plan)[0], calm) and not torch.equal(net.bn1.running_mean, mean)
    x = torch.ones(400, 128)
    assert not torch.equal(net.classify(x[:1]), net.classify(x[:1]))                     # dropout
    net.eval()
    assert torch.equal(net.classify(x[:1]), net.classify(x[:1])) and torch.equal(net.conv1.weight, before)


def test_gradients_reach_every_weight():
    net = network()
    local, whole = net(P.plan_groups(P.unit_sphere(cloud()), net.groups, net.radii, net.neighbours))
    (net.classify(local).square().sum() + whole.sum()).backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_sampling_is_deterministic_and_knows_no_global_state():
    points = cloud(5000)
    torch.manual_seed(0), np.random.seed(0)
    plan, index = P.tiny_pointnet2().plan(points)
    torch.rand(5), np.random.rand(5)
    again, same = P.tiny_pointnet2().plan(points)
    assert torch.equal(index, same) and all(torch.equal(a, b) for x, y in zip(plan, again) for a, b in zip(x, y))
    assert torch.allclose(plan.points[0][0], P.unit_sphere(points)[index]) and len(index) == 3000
    assert torch.equal(P.choose_points(10, 4), P.choose_points(10, 10)[:4]) and len(P.choose_points(10, 3000)) == 10
    assert len(index.unique()) == 3000 and torch.equal(P.choose_points(50, 3000).sort().values, torch.arange(50))   # none twice
    assert P.unit_sphere(points).norm(dim=1).max() == pytest.approx(1) and P.unit_sphere(points).mean(0).abs().max() < 1e-5
    other = P.tiny_pointnet2().plan(points, seed=1)[1]
    assert not torch.equal(other, index) and len(P.tiny_pointnet2().plan(points, count=1500)[1]) == 1500


@pytest.mark.parametrize("points, word", [
    (torch.zeros(1, 3), "at one place"), (torch.full((2000, 3), 4.), "at one place"),
    (torch.rand(2000, 1) * torch.tensor([[1., 2, 3]]) + 5, "on one line"),
    (torch.rand(2000, 3) * torch.tensor([1., 1, 0]), "in one plane"),
    (torch.rand(2000, 2) @ torch.tensor([[1., 2, 3], [3., -1, 2]]) + 9, "in one plane"),
    (cloud(1023), "at least the 1024"), (torch.rand(2000, 2), r"\(N, 3\)"), (torch.empty(0, 3), r"\(N, 3\)"),
    (torch.full((2000, 3), torch.nan), "NaN"), ("points", "str")])
def test_bad_clouds_are_refused(points, word):
    with pytest.raises(DataError, match=word): P.tiny_pointnet2().encode(points)


def test_thin_but_real_clouds_are_taken():
    "A plate whose thickness is a ten-thousandth of its width, far from the origin, in numpy's doubles."
    plate = np.random.default_rng(0).random((1024, 3)) * [1, 1, 1e-4] + [0, 0, .5]
    with torch.no_grad(): features = P.tiny_pointnet2().encode(plate)
    assert features.local.isfinite().all() and len(features.points) == 1024


def test_receptive_field_is_what_moves_a_vector():
    "A point outside the field can be moved without the vector noticing; one inside cannot."
    net = network()
    plan = P.plan_groups(P.unit_sphere(cloud()), net.groups, net.radii, net.neighbours)
    heard = P.receptive_field(plan, 2, 3)
    assert 0 < heard.sum() < len(heard)
    def level2(points):
        "The vector of point 3 of level 2, from the positions on level 0 as features alone."
        x = points.repeat(1, 1, 3)
        for n in (0, 1):
            offset = P.pick(plan.points[n], plan.members[n]) - plan.points[n + 1][:, :, None]
            x = getattr(net, f"sa{n + 1}")(torch.cat([offset, P.pick(x, plan.members[n])], -1)).amax(2)
        return x[0, 3]
    points = plan.points[0].clone().requires_grad_()
    level2(points).sum().backward()
    touched = points.grad[0].abs().sum(1) > 0
    assert not touched[~heard].any() and touched.any()


def test_field_panel():
    net = network()
    panel = P.FieldPanel(P.plan_groups(P.unit_sphere(cloud()), net.groups, net.radii, net.neighbours))
    assert panel.number.max == 4                                                         # points that every level has
    panel.level.value, panel.number.value = 3, 2
    assert torch.equal(panel.heard, P.receptive_field(panel.plan, 3, 2))
    assert (panel.view.points.colors == panel.view.points.colors[int(panel.heard.int().argmax())]).sum() == panel.heard.sum()
