"GDDM and geometry prompts: gradients, layout, bad input; the lessons are in the notebook."
import pytest
import torch
import torch.nn.functional as F

from mmad_nb.core.runtime import DataError
from mmad_nb.features import create_encoder
from mmad_nb.features.pointnet2 import Plan, PointNet2, plan_groups, stack_plans, tiny_pointnet2, unit_sphere
from mmad_nb.prompts import geometry as G
from mmad_nb.prompts.learnable import LearnablePrompts

SMALL = dict(groups=(40, 20, 10, 5), radii=(.3, .5, .8, 1.2), neighbours=8)


def cloud(n=200, seed=0):
    return F.normalize(torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)), dim=1) * torch.tensor([1., .8, .5])


@pytest.fixture(scope="module")
def clip():
    return create_encoder("tiny_clip", device="cpu")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return PointNet2(**SMALL)


@pytest.fixture
def plan(network):
    return stack_plans([plan_groups(unit_sphere(cloud(seed=s)), network.groups, network.radii, network.neighbours) for s in (1, 2, 3)])


def words_of(clip, text):
    "The rows of a sentence without SOS, the dot and EOT."
    return clip.model.token_embedding.weight[clip.tokenize([text])[0, 1:-2]]


def test_prototypes_get_a_gradient_only_where_scores_weigh():
    "FACTS 7.6: choosing the largest scores passes no gradient to what the scores were made of."
    local = torch.rand(2, 50, 128, generator=torch.Generator().manual_seed(0))
    for tokens in (None, 1):
        for weigh in (True, False):
            torch.manual_seed(0)
            module = G.GDDM(64, k=6, tokens=tokens, weigh=weigh)
            (module(local).tokens ** 2).sum().backward()
            found = module.prototypes.grad
            assert (found is not None and found.abs().max() > 0) == weigh
            assert module.widen.weight.grad.abs().max() > 0


def test_prototype_gradient_is_the_slope_of_the_result():
    torch.manual_seed(0)
    module, local = G.GDDM(16, dim=8, prototypes=3, k=4, size=1.).double(), torch.rand(1, 20, 8).double()
    value = lambda: module(local).tokens.square().sum()
    value().backward()
    slope, step = module.prototypes.grad.clone(), 1e-6
    with torch.no_grad():
        for place in ((0, 1), (1, 5), (2, 7)):
            module.prototypes[place] += step; above = value().item()
            module.prototypes[place] -= 2 * step; below = value().item()
            module.prototypes[place] += step
            assert slope[place].item() == pytest.approx((above - below) / (2 * step), rel=1e-3, abs=1e-7)


def test_gddm_by_hand():
    "Scores, order, weights, attention, residual, norm and last layer, written out."
    torch.manual_seed(0)
    module, local = G.GDDM(16, dim=8, prototypes=3, k=4, tokens=2, size=.5), torch.rand(2, 20, 8)
    found = module(local)
    for b in range(2):
        scores = torch.stack([1 - max(F.cosine_similarity(f, p, dim=0) for p in module.prototypes) for f in local[b]])
        assert torch.allclose(scores, found.scores[b], atol=1e-5)
        order = scores.argsort(descending=True)[:4]
        assert torch.equal(order, found.index[b])
        a = 4 * torch.softmax(scores[order] / .1, 0)
        x = module.widen(local[b][order] * a[:, None])
        y = F.layer_norm(x + module.attention(x[None], x[None], x[None])[0][0], (16,), module.norm.weight, module.norm.bias)
        assert torch.allclose(found.tokens[b], (y + F.gelu(module.last(y)))[:2], atol=1e-5)
    assert found.tokens.shape == (2, 2, 16) and (module.norm.weight == .5).all()


def test_learned_bank_separates_and_ignores_length():
    draw = torch.Generator().manual_seed(1)
    flawless, damaged = torch.rand(400, 16, generator=draw) ** 3, torch.rand(100, 16, generator=draw) ** 3
    flawless[:, :4] += 1.5
    damaged[:, 4:8] += 1.
    local, bad = torch.cat([flawless, damaged]), torch.arange(500) >= 400
    gap = lambda bank: (G.outlier_scores(damaged, bank).mean() - G.outlier_scores(flawless, bank).mean()).item()
    gaps = [gap(G.learn_prototypes(local, bad, 8, steps)) for steps in (0, 20, 150)]
    assert gaps == sorted(gaps) and gaps[2] > gaps[0] + .1
    first = G.learn_prototypes(local, bad, 8, 0)                                         # begins with flawless points
    assert all((F.normalize(flawless, dim=1) - p).norm(dim=1).min() < 1e-5 for p in first)
    scaled = local * torch.rand(500, 1, generator=draw).add(.5)
    assert gap(G.learn_prototypes(scaled, bad, 8)) > gaps[0] + .1
    assert torch.allclose(G.learn_prototypes(local, bad, 8).norm(dim=1), torch.ones(8), atol=1e-5)
    assert torch.equal(G.learn_prototypes(local, bad, 8), G.learn_prototypes(local, bad, 8))
    assert not torch.equal(G.learn_prototypes(local, bad, 8, seed=1), G.learn_prototypes(local, bad, 8))


def test_a_given_bank_is_where_the_module_begins(clip, network, plan):
    bank = F.normalize(torch.rand(5, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    prompts = G.GeometryPrompts(clip, network, prototypes=bank, k=6, length=3, deep=2)
    kept = bank.clone()
    assert torch.equal(prompts.defect.prototypes, bank) and prompts.defect.prototypes.requires_grad
    local, _ = network(plan)
    assert torch.allclose(prompts.defect(local).scores, G.outlier_scores(local, bank), atol=1e-5)
    prompts.vectors(plan)[..., 0].sum().backward()
    with torch.no_grad(): prompts.defect.prototypes -= prompts.defect.prototypes.grad.sign()
    assert prompts.defect.prototypes.grad.abs().max() > 0 and torch.equal(bank, kept)             # the bank itself is a copy
    assert not torch.equal(G.GDDM(16, 128, 5).prototypes, bank)


@pytest.mark.parametrize("order", G.ORDERS)
@pytest.mark.parametrize("shape, defect", [(True, True), (True, False), (False, True)])
def test_tokens_stand_where_words_stood_and_eot_where_the_tokenizer_put_it(clip, network, plan, order, shape, defect):
    "Real words in the places of the tokens give the vectors of the real sentences: FACTS 7.3."
    prompts = G.GeometryPrompts(clip, network, shape, defect, order, k=2, length=3, deep=0, blocks=0)
    texts = ["big " * shape + "old iron key.", "big " * shape + "old iron key" + " with dent" * defect + "."]
    rows = [words_of(clip, text) for text in texts]
    for row, text in zip(prompts.rows, texts):
        assert int(row.argmax()) == int(clip.tokenize([text])[0].argmax())
    for found, row in zip(prompts.sentences(*network(plan)), rows): assert found.shape == (3, *row.shape)
    prompts.sentences = lambda local, whole, k: [row.expand(3, -1, -1) for row in rows]
    with torch.no_grad():
        for one in prompts.vectors(plan): assert torch.allclose(one, clip.encode_text(texts), atol=1e-4)


@pytest.mark.parametrize("order", G.ORDERS)
def test_other_numbers_of_points_than_in_the_training(clip, network, plan, order):
    prompts = G.GeometryPrompts(clip, network, order=order, k=4, length=4, deep=2, size=1.)
    with torch.no_grad():
        trained = prompts.vectors(plan)
        torch.testing.assert_close(prompts.vectors(plan, 4), trained)
        for k in (1, 3, 9):
            other = prompts.vectors(plan, k)
            torch.testing.assert_close(other[:, 0], trained[:, 0])               # the flawless sentence hears of no point
            assert k > 4 or (other[:, 1] - trained[:, 1]).abs().max() > 1e-5
            assert prompts.defect(network(plan)[0], k).index.shape[1] == k
            fresh = prompts.sentences(*network(plan), k)
            assert fresh[1].shape[1] - fresh[0].shape[1] == min(k, 4)            # at most the tokens of the training
        short = G.GeometryPrompts(clip, network, order=order, k=1, length=4, deep=2, size=1.)   # made for one point, with the same numbers
        short.load_state_dict(prompts.state_dict())
        torch.testing.assert_close(prompts.vectors(plan, 1), short.vectors(plan))
    for k in (0, 10**6):
        with pytest.raises(DataError, match="k"): prompts.vectors(plan, k)



def test_order_and_asymmetry(clip, network, plan):
    paper, release = (G.GeometryPrompts(clip, network, order=order, k=3, length=4, deep=2) for order in G.ORDERS)
    local, whole = network(plan)
    for one in (paper, release):
        token, defects = one.shape(whole), one.defect(local).tokens
        flawless, damaged = one.sentences(local, whole)
        assert flawless.shape[1] == 5 and damaged.shape[1] == 8
        where = 0 if one is paper else 4
        assert torch.equal(flawless[:, where], token) and torch.equal(damaged[:, where], token)     # the same in both
        assert torch.equal(damaged[:, 5:], defects)                                                 # only there, at the end
        start = 1 - where // 4
        assert torch.equal(flawless[0, start:start + 4], one.context[0]) and torch.equal(damaged[0, start:start + 4], one.context[1])
    assert (paper.first, release.first) == (2, 1)


def test_deep_prompts_spare_the_shape_prompt(clip, network, plan):
    "They replace learned vectors, not the shape prompt: in the last block it is still what it was made to be."
    seen = {}
    for first in (2, 1):
        prompts = G.GeometryPrompts(clip, network, k=2, length=4, deep=4)
        prompts.first = first
        block = clip.text_blocks[len(prompts.layers)]
        hook = block.register_forward_pre_hook(lambda module, given: seen.setdefault((first, len(seen)), given[0].detach().clone()))
        with torch.no_grad(): prompts.vectors(plan)
        hook.remove()
    spared, overwritten = (next(v for (f, _), v in seen.items() if f == first) for first in (2, 1))
    assert not torch.allclose(spared[0, 1], spared[1, 1], atol=1e-5)              # position 1 depends on the cloud
    assert torch.equal(overwritten[0, 1], overwritten[1, 1])                     # the deep prompt, whatever the cloud


def test_without_tokens_they_are_the_learned_prompts(clip, network, plan):
    plain, same = G.GeometryPrompts(clip, network, shape=False, defect=False, length=6, seed=3), LearnablePrompts(clip, length=6, seed=3)
    with torch.no_grad():
        found = plain.vectors(plan)
        assert found.shape == (3, 2, clip.joint_dim) and torch.allclose(found, same.vectors().expand(3, -1, -1), atol=1e-6)


def test_a_tower_in_half_precision(network, plan):
    half = create_encoder("tiny_clip", device="cpu", dtype=torch.bfloat16)
    prompts = G.GeometryPrompts(half, network)
    found = prompts.vectors(plan)
    found.sum().backward()
    assert found.dtype == torch.float32 and found.isfinite().all() and prompts.defect.prototypes.grad.abs().max() > 0


def test_each_cloud_is_served_by_itself(clip, network, plan):
    prompts = G.GeometryPrompts(clip, network)
    with torch.no_grad():
        together = prompts.vectors(plan)
        for b in range(3):
            alone = Plan(*(tuple(level[b:b + 1] for level in part) for part in plan))
            assert torch.allclose(prompts.vectors(alone)[0], together[b], atol=1e-5)


def test_every_part_learns_and_the_text_tower_does_not(clip, network, plan):
    prompts = G.GeometryPrompts(clip, network)
    prompts.vectors(plan).mul(torch.randn(2, clip.joint_dim, generator=torch.Generator().manual_seed(0))).sum().backward()
    dead = {name for name, p in prompts.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    # the last layers give names, not vectors; attention does not change when a constant is added to all keys
    assert {name for name in dead if not name.startswith("network.conv2")} <= {"defect.attention.in_proj_bias"}
    assert all(p.grad is None for p in clip.model.parameters())
    assert not any(name.startswith("encoder") for name in prompts.state_dict()) and any(name.startswith("network.") for name in prompts.state_dict())


def test_training_mode_leaves_the_point_network_alone(clip, network, plan):
    prompts = G.GeometryPrompts(clip, network).train()
    assert prompts.training and prompts.defect.training and not any(m.training for m in network.modules())
    with torch.no_grad(): assert torch.equal(prompts.vectors(plan), prompts.vectors(plan))


def test_seeds_and_the_global_generator(clip, network):
    torch.manual_seed(5); expected = torch.rand(3); torch.manual_seed(5)
    one, same, other = (G.GeometryPrompts(clip, network, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    for name, value in one.state_dict().items(): assert torch.equal(value, same.state_dict()[name])
    assert not torch.equal(one.defect.prototypes, other.defect.prototypes)
    assert G.GeometryPrompts(clip).network.name == "tiny_pointnet2"


@pytest.mark.parametrize("make, word", [
    (lambda c, n: G.strongest(torch.rand(1, 11), 12), "12 for a cloud of 11 points"),
    (lambda c, n: G.strongest(torch.rand(1, 11), 0), "from 1"), (lambda c, n: G.strongest(torch.rand(1, 11), 2.5), "whole number"),
    (lambda c, n: G.GDDM(64, k=12)(torch.rand(1, 11, 128)), "12 for a cloud of 11 points"),
    (lambda c, n: G.GDDM(64, k=0), "k at least 1"), (lambda c, n: G.GDDM(64, k=3, tokens=4), "at most k tokens"),
    (lambda c, n: G.GDDM(64, prototypes=0), "at least one prototype"),
    (lambda c, n: G.GDDM(64)(torch.rand(1, 30, 64)), "128 numbers"), (lambda c, n: G.outlier_scores(torch.rand(3, 4), torch.rand(4)), "at least one prototype"),
    (lambda c, n: G.GDDM(16, prototypes=torch.rand(4, 64)), r"\(4, 64\).*\(l,128\)"),
    (lambda c, n: G.GDDM(16, prototypes=torch.rand(128)), r"\(l,128\)"),
    (lambda c, n: G.GDDM(16, prototypes=torch.rand(0, 128)), "at least one prototype"),
    (lambda c, n: G.learn_prototypes(torch.rand(3, 4), torch.tensor([True, False, False]), 3), "a flawless one for each"),
    (lambda c, n: G.learn_prototypes(torch.rand(3, 4), torch.zeros(3), 1), "a damaged point"),
    (lambda c, n: G.learn_prototypes(torch.rand(3, 4), torch.ones(2), 1), r"\(n,C\)"),
    (lambda c, n: G.GeometryPrompts(c, n, order="last"), "no such name"), (lambda c, n: G.GeometryPrompts(c, n, k=17), "18 words from the cloud; expected at most 17"),
    (lambda c, n: G.GeometryPrompts(c, n, length=0), "length"),
    *((lambda c, n, points=points: G.GeometryPrompts(c, tiny_pointnet2()).network.plan(points), word) for points, word in (
        (torch.zeros(1, 3), "at one place"), (torch.rand(2000, 1) * torch.tensor([[1., 2, 3]]), "on one line"),
        (torch.rand(2000, 3) * torch.tensor([1., 0, 1]), "in one plane"), (cloud(500), "at least the 1024")))])
def test_bad_input_is_refused(clip, network, make, word):
    with pytest.raises(DataError, match=word): make(clip, network)


def test_outlier_panel():
    torch.manual_seed(0)
    clouds = {"a": (torch.rand(60, 3), torch.rand(60, 8), torch.rand(60) > .7), "b": (torch.rand(40, 3), torch.rand(40, 8), torch.rand(40) > .5)}
    panel = G.OutlierPanel(clouds, {l: torch.rand(l, 8) for l in (2, 4, 64)})
    assert panel.prototypes.value == 4
    panel.cloud.value, panel.k.value, panel.prototypes.value = "b", 5, 64
    scores, chosen = G.chosen_points(clouds["b"][1], panel.banks[64], 5)
    assert torch.equal(panel.chosen, chosen) and torch.equal(panel.scores, scores) and len(panel.halo.positions) == 5
    assert torch.allclose(torch.from_numpy(panel.halo.positions.copy()), clouds["b"][0][chosen], atol=1e-6)
    assert panel.hits == clouds["b"][2][chosen].float().mean()
    glowing = panel.view.points.colors == panel.view.points.colors[int(chosen[0])]
    assert glowing.sum() == 5 and (panel.view.plot.objects.count(panel.halo), len(panel.view.plot.objects)) == (1, 2)
