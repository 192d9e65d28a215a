"Normals from a photo: the network's shape and range, the loss by hand, lessons from the right categories, a seed, the shipped weights."
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mmad_nb.core.runtime import DataError
from mmad_nb.data.prepare import prepare
from mmad_nb.features.normals import surface_normals
from mmad_nb.features.zoo import PACKAGED, create_encoder, find_card, find_weights, list_encoders, load_weights
from mmad_nb.forge import list_categories
from mmad_nb.pretraining import normals as N
from mmad_nb.pretraining.encoders import Stage, save_half
from mmad_nb.pretraining.lessons import CATEGORIES, HELD_OUT


@pytest.fixture(autouse=True)
def no_other_weights(tmp_path, monkeypatch):
    "The shipped file, not somebody's cache."
    monkeypatch.setenv("MMAD_NB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def lessons():
    return N.forge_normal_lessons(["peach", "anything"], 2)


def test_never_a_sample_category():
    assert not set(N.LEARNED) & (set(list_categories("sample")) | set(HELD_OUT)) and set(HELD_OUT) < set(CATEGORIES)
    for name in list_categories("sample"):
        with pytest.raises(DataError, match=f"{name}.*auxiliary"): N.forge_normal_lessons([name], 1)
        with pytest.raises(DataError, match=name): N.styled(name, 0)


def test_lessons_depend_on_their_arguments_alone(lessons):
    again = N.forge_normal_lessons(["anything"], 1, first=1)[0]
    assert np.array_equal(again.photo, lessons[3].photo) and np.array_equal(again.normals, lessons[3].normals)
    assert not np.array_equal(lessons[1].photo, lessons[3].photo)
    length = np.linalg.norm(lessons[0].normals / 127, axis=0)
    assert (length > 0).mean() > .9 and abs(length[length > 0] - 1).max() < .02 and (lessons[0].normals[2][length > 0] <= 0).mean() > .999


def test_a_lesson_holds_the_normals_of_its_points(lessons):
    scene = prepare(N.styled("peach", 1), size=224, remove_plane=False)
    assert np.abs(lessons[2].normals / 127 - surface_normals(scene.xyz, scene.valid).numpy()).max() < .005
    assert np.abs(lessons[2].photo / 255 - scene.rgb).max() < .003


def test_the_lamp_moves_light_and_nothing_else():
    left, right = (N.styled("banana", 3, azimuth) for azimuth in (180, 0))
    assert np.array_equal(left.xyz, right.xyz) and np.array_equal(left.mask, right.mask) and not np.array_equal(left.rgb, right.rgb)
    one = prepare(left)
    normals, brighter = surface_normals(one.xyz, one.valid).numpy(), (left.rgb - right.rgb).mean(0)
    side = prepare(right).rgb.mean(0) - one.rgb.mean(0)                           # brighter with the lamp on the right
    assert np.corrcoef(normals[0][one.valid], side[one.valid])[0, 1] > .5 and brighter.std() > 0


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (33, 50), (224, 224)])
def test_any_size_and_unit_length(size):
    net = N.NormalUNet(seed=1).eval()
    with torch.no_grad(): found = net(torch.rand(2, 3, *size))
    assert found.shape == (2, 3, *size) and found.dtype == torch.float32
    assert torch.allclose(found.norm(dim=1), torch.ones(2, *size), atol=1e-4)


def test_every_pixel_of_the_photo_may_be_used_and_every_number_learns():
    net = N.NormalUNet()
    photo = torch.rand(1, 3, 48, 48, requires_grad=True)
    (net(photo)[0, 0, 24, 24]).backward()
    assert photo.grad[0, :, 24, 24].abs().max() > 0 and photo.grad[0, :, 4, 4].abs().max() > 0      # near and far
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    assert sum(p.numel() for p in net.parameters()) < 2e6


def test_a_photo_in_a_batch_is_a_photo_alone():
    net, photos = N.NormalUNet().eval(), torch.rand(3, 3, 32, 32)
    with torch.no_grad(): assert torch.allclose(net(photos)[1:2], net(photos[1:2]), atol=1e-3)


def test_loss_by_hand():
    truth = torch.tensor([[0., 0, -1], [1, 0, 0], [0, 0, 0]]).T.view(1, 3, 1, 3)
    guess = torch.tensor([[0., 0, 1], [.6, .8, 0], [1, 0, 0]]).T.view(1, 3, 1, 3)
    turn = N.turn_loss(guess, truth)
    assert turn.tolist() == pytest.approx([2, .4]) and N.degrees(turn).tolist() == pytest.approx([180, 53.13], abs=.01)


def test_the_batch_is_cut_where_the_normals_are_cut(lessons):
    "A photo that holds its own normals as colours is cut with them, whatever light `relit` adds."
    marked = [N.NormalLesson((one.normals.astype(int) + 128).astype(np.uint8), one.normals) for one in lessons]
    photos, truth = N.normal_batch(marked, range(6), 3, 64)
    assert photos.shape == truth.shape == (6, 3, 64, 64) and photos.min() >= 0 and photos.max() <= 1
    known = truth.norm(dim=1) > .5
    assert torch.allclose(truth.norm(dim=1)[known], torch.ones(int(known.sum())), atol=1e-5)
    together = [max(abs(np.corrcoef(p.numpy()[i][k], t.numpy()[j][k])[0, 1]) for i in range(3) for j in range(3))
                for p, t, k in zip(photos, truth, known.numpy())]
    assert min(together) > .9


def test_the_loss_counts_pixels(lessons):
    "Sum and number for `train`: two batches of one window are one batch of two."
    net, log = N.NormalUNet().eval(), []
    loss = N.normals_loss(net, lessons, 0, 32, torch.float32, log)
    with torch.no_grad(): (a, n), (b, m), (both, count) = loss([0]), loss([1]), loss([0, 1])
    assert count == n + m and both.item() == pytest.approx((a + b).item(), rel=1e-4)
    assert log[2][0] == pytest.approx(both.item() / count, rel=1e-4) and 0 < log[2][1] < 180


def test_a_seed_decides_a_run(lessons, tmp_path):
    stages = (Stage(2, 1e-3, sides=(32,)), Stage(2, 3e-4, sides=(48,)))
    state = torch.get_rng_state()
    one, log = N.train_tiny_normals(lessons, 3, stages, 2, folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), state) and log.shape == (4, 2) and not one.training
    again, _ = N.train_tiny_normals(lessons, 3, stages, 2)
    other, _ = N.train_tiny_normals(lessons, 4, stages, 2)
    resumed, rest = N.train_tiny_normals(lessons, 3, stages, 2, folder=tmp_path)                    # from the finished checkpoints
    assert len(rest) == 0
    for p, q, r, s in zip(*(net.parameters() for net in (one, again, other, resumed))):
        assert torch.allclose(p, q, atol=1e-6) and torch.equal(p, s)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_half_precision_arithmetic_trains_too(lessons):
    net, log = N.train_tiny_normals(lessons, 0, (Stage(8, 1e-3, sides=(32,)),), 4, dtype=torch.bfloat16)
    assert log[-2:, 0].mean() < log[0, 0] and all(p.dtype == torch.float32 for p in net.parameters())


# ---- what ships ----

def test_shipped_file():
    file, run = PACKAGED / "tiny_normals.safetensors", json.loads((PACKAGED / "tiny_normals.json").read_text())
    state = load_file(file)
    assert file.stat().st_size < 4e6 and {v.dtype for v in state.values()} == {torch.float16}
    assert run["steps"] == sum(stage.steps for stage in N.NORMAL_STAGES) and len(run["at"]) == len(run["log"])
    assert (PACKAGED / "tiny_normals.md").read_text().count("banana") >= 1
    assert run["log"][-1][0] < .7 * run["log"][2][0]


def test_card_of_the_zoo(tmp_path):
    card = find_card("tiny_normals")
    assert card.kind == "normals" and find_weights("tiny_normals") == PACKAGED / "tiny_normals.safetensors"
    assert list_encoders("normals") == ["tiny_normals"] and "tiny_normals" not in list_encoders()   # it makes no features
    with pytest.raises(DataError, match="no such name"): create_encoder("tiny_normals")
    with pytest.raises(DataError, match="leave `weights` out"): find_weights("tiny_normals", tmp_path / "nowhere")


def test_weights_of_another_build_are_refused(tmp_path):
    save_half(N.NormalUNet((8, 16)), tmp_path / "tiny_normals.safetensors")
    with pytest.raises(DataError, match="another architecture"): load_weights(N.NormalUNet(), tmp_path / "tiny_normals.safetensors", "normals")


def test_shipped_weights_beat_what_needs_no_training():
    "On individuals of held-out categories, each under a lamp of its own."
    net = load_weights(N.NormalUNet(), find_weights("tiny_normals"), "normals").eval()
    samples = [prepare(N.styled(category, 2000 + k), size=224) for k in range(3) for category in HELD_OUT]
    mean = {name: np.mean([e.mean().item() for e in N.angle_errors(guess, samples)])
            for name, guess in (("shipped", net), ("facing", N.facing), ("random", N.NormalUNet().eval()))}
    assert mean["shipped"] < .8 * mean["facing"] and mean["facing"] < mean["random"], mean


def test_angle_errors_by_hand():
    sample = prepare(N.styled("banana", 0), size=64)
    truth = surface_normals(sample.xyz, sample.valid)
    known = truth.norm(dim=0) > .5
    assert N.angle_errors(lambda photo: truth[None], [sample])[0].max() < .1
    leaning = N.angle_errors(N.facing, [sample])[0]
    assert torch.allclose(leaning, torch.rad2deg(torch.arccos(-truth[2][known].clamp(-1, 1))), atol=.1)
