"Depth tower, refinement module and consistency: what learns, what is shared, who hears whom, and bad input."
import copy

import open_clip
import pytest
import torch
import torch.nn.functional as F

from mmad_nb.core.runtime import DataError
from mmad_nb.core.training import drawn_from, train
from mmad_nb.features.text import ClipEncoder, ImageFeatures
from mmad_nb.streams import SRM, DepthTower, LowRank, consistency_loss, two_way_attention
from mmad_nb.streams.synergy import as_tokens, looks_at


def small_clip(seed=0, dtype=torch.float32, layers=3, side=48):
    "A CLIP of 3 x 3 patches with small random weights."
    with drawn_from(seed):
        model = open_clip.CLIP(16, dict(image_size=side, patch_size=16, width=32, layers=layers, head_width=16),
                               dict(context_length=16, vocab_size=49408, width=16, heads=2, layers=1))
    return ClipEncoder("small", model, "random", "cpu", dtype)


@pytest.fixture(scope="module")
def clip(): return small_clip()


def pictures(count=2, side=48, seed=0): return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def said(count=2, seed=0, dim=16, side=3):
    "Random unit vectors of pictures and of their patches."
    draw = torch.Generator().manual_seed(seed)
    return ImageFeatures(F.normalize(torch.randn(count, dim, generator=draw), dim=1),
                         F.normalize(torch.randn(count, dim, side, side, generator=draw), dim=1), ())


def moved(tower, seed=0):
    "The changes with B away from zero, as after some training."
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for change in tower.changes: change.B.normal_(0, .1, generator=draw)
    return tower


def test_the_depth_tower_is_the_render_tower_before_the_first_step(clip):
    rgb, tower = pictures(), DepthTower(clip)
    found, expected = tower(rgb), clip.encode_image(rgb)
    for mine, its in zip(found[:2], expected[:2]): torch.testing.assert_close(mine, its)
    assert (moved(tower)(rgb).image - expected.image).abs().max() > 1e-3
    torch.testing.assert_close(clip.encode_image(rgb).image, expected.image)                 # the render tower stays


def test_every_matrix_gets_a_gradient(clip):
    "Under no_grad, as published, none does."
    tower = moved(DepthTower(clip))
    made = SRM(16)(clip.encode_image(pictures()), tower(pictures(seed=1)))
    (made.image[:, :5].sum() + made.patches[:, :5].sum()).backward()
    assert len(tower.changes) == 6
    for change in tower.changes:
        assert change.A.grad.abs().max() > 0 and change.B.grad.abs().max() > 0
    assert not any(p.requires_grad for p in clip.parameters()) and all(p.grad is None for p in clip.parameters())


def test_a_training_moves_the_changes_and_nothing_else(clip):
    before, tower = copy.deepcopy(clip.state_dict()), DepthTower(clip)
    start = copy.deepcopy(tower.state_dict())
    loss = lambda items: (tower(pictures(len(items))).image[:, 0].sum(), len(items))
    train({"tower": tower}, range(4), loss, epochs=2, batch_size=2, lr=.01)
    assert all(not torch.equal(value, start[name]) for name, value in tower.state_dict().items())
    for name, value in clip.state_dict().items(): assert torch.equal(value, before[name]), name


def test_weights_that_are_loaded_later_are_in_both_towers():
    "The published order: first the copy, then the weights."
    clip, other, rgb = small_clip(0), small_clip(1), pictures()
    tower = DepthTower(clip)
    clip.model.load_state_dict(other.model.state_dict())
    torch.testing.assert_close(tower(rgb).image, other.encode_image(rgb).image)


def test_frozen_tensors_are_shared_and_the_state_holds_the_changes_alone(clip):
    tower, shared = DepthTower(clip, rank=4), {id(p) for p in clip.parameters()}
    for name, p in tower.twin.named_parameters():
        assert (id(p) in shared) != name.endswith((".A", ".B")), name
    assert {name.rsplit(".", 1)[1] for name in tower.state_dict()} == {"A", "B"}
    assert sum(p.numel() for p in tower.parameters()) == 3 * 2 * 4 * (32 + 128)
    again = DepthTower(clip, rank=4, seed=5)
    again.load_state_dict(moved(tower).state_dict())
    torch.testing.assert_close(again.eval()(pictures()).patches, tower.eval()(pictures()).patches)


@pytest.mark.parametrize("alpha, rank", [(16., 8), (3., 2)])
def test_the_formula_inside_a_block(clip, alpha, rank):
    tower = moved(DepthTower(clip, rank, alpha)).eval()
    block, frozen = tower.twin.image_blocks[1].mlp, clip.image_blocks[1].mlp
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    first, second = block.c_fc, block.c_proj
    hidden = F.gelu(x @ (frozen.c_fc.weight + alpha / rank * first.B @ first.A).T + frozen.c_fc.bias)
    expected = hidden @ (frozen.c_proj.weight + alpha / rank * second.B @ second.A).T + frozen.c_proj.bias
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_dropout_is_of_training_alone(clip):
    tower, rgb = moved(DepthTower(clip, dropout=.5)), pictures()
    assert not torch.equal(tower(rgb).image, tower(rgb).image)
    tower.eval()
    assert torch.equal(tower(rgb).image, tower(rgb).image)


def test_two_seeds_are_two_towers_and_one_seed_is_one(clip):
    a, b, c = (DepthTower(clip, seed=seed).changes[0].A for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(SRM(16, seed=0).f1.weight, SRM(16).f1.weight) and not torch.equal(SRM(16, seed=1).f1.weight, SRM(16).f1.weight)


def test_half_precision_stays_half_precision():
    clip = small_clip(dtype=torch.bfloat16)
    tower = moved(DepthTower(clip))
    seen = tower.changes[0](torch.zeros(2, 32, dtype=torch.bfloat16))
    assert seen.dtype == torch.bfloat16 and tower.changes[0].A.dtype == torch.float32
    tower(pictures()).image.sum().backward()
    assert tower.changes[0].A.grad.abs().max() > 0


def test_attention_by_loops():
    draw = torch.Generator().manual_seed(0)
    k_r, k_d, v_r, v_d = (torch.randn(4, 3, generator=draw) for _ in range(4))
    E_r, E_d, S = two_way_attention(k_r, k_d, v_r, v_d)
    for i in range(4):
        for j in range(4): torch.testing.assert_close(S[i, j], (k_r[i] * k_d[j]).sum() / 3 ** .5)
        share = S[i].exp() / S[i].exp().sum()
        torch.testing.assert_close(E_r[i], sum(share[j] * v_d[j] for j in range(4)))
        share = S[:, i].exp() / S[:, i].exp().sum()
        torch.testing.assert_close(E_d[i], sum(share[j] * v_r[j] for j in range(4)))


def test_every_token_hears_every_token_of_the_other_modality():
    "With sequences of one, as published, a token hears its counterpart alone, and the keys nothing."
    render, depth = said(1), said(1, seed=1)
    for alone in (False, True):
        module = SRM(16, alone=alone)
        def patch_of(changed):
            "G of the first patch, where the last patch of one modality is another one."
            r, d = (ImageFeatures(s.image, s.patches.clone(), ()) for s in (render, depth))
            if changed: {"render": r, "depth": d}[changed].patches[..., 2, 2] *= -1
            return module(r, d).patches[..., 0, 0]
        for changed in ("render", "depth"): assert torch.allclose(patch_of(changed), patch_of(None), atol=1e-7) == alone
        made = module(render, depth)
        assert made.scores.shape == ((10, 1, 1) if alone else (1, 10, 10))
        (made.image[:, :3].sum() + made.patches[:, :3].sum()).backward()
        for keys in (module.f1, module.f2): assert (keys.weight.grad.abs().max() > 1e-9) != alone


def test_the_module_is_near_the_render_at_first_and_has_two_joins():
    render, depth, module = said(2), said(2, seed=1), SRM(16)
    made = module(render, depth)
    torch.testing.assert_close(made.image.norm(dim=1), torch.ones(2)); torch.testing.assert_close(made.patches.norm(dim=1), torch.ones(2, 3, 3))
    assert (made.patches * render.patches).sum(1).min() > .98
    torch.testing.assert_close(module.f1.weight, module.f2.weight)
    assert module.f1.weight is not module.f2.weight
    with torch.no_grad(): module.whole[2].bias += 1
    changed = module(render, depth)
    assert torch.equal(changed.patches, made.patches) and not torch.allclose(changed.image, made.image)


def test_patches_stay_where_they_are():
    render, depth, module = said(1), said(1, seed=1), SRM(16)
    with torch.no_grad():
        for last in (module.whole[2], module.patch[2]): last.weight.zero_()
    made = module(render, depth)
    torch.testing.assert_close(made.patches, render.patches); torch.testing.assert_close(made.image, render.image)
    torch.testing.assert_close(as_tokens(render)[0, 1 + 3 * 2 + 1], render.patches[0, :, 2, 1])


def test_where_a_patch_looks():
    scores = torch.zeros(10, 10)
    scores[1 + 3 * 1 + 2, 1 + 3 * 2 + 0] = 50.                                # patch (1,2) of the render at (2,0) of the depth map
    there = looks_at(scores, 1, 2, 3)
    assert int(there.argmax()) == 6 and there[2, 0] > .99
    assert int(looks_at(scores, 2, 0, 3, back=True).argmax()) == 5
    torch.testing.assert_close(looks_at(scores, 2, 0, 3), torch.full((3, 3), .1))


def test_consistency_is_of_each_object_and_over_features():
    draw = torch.Generator().manual_seed(0)
    whole = torch.randn(2, 4, 8, generator=draw)
    expected = torch.stack([1 - torch.stack([g @ one.mean(0) / g.norm() / one.mean(0).norm() for g in one]).mean() for one in whole]).mean()
    torch.testing.assert_close(consistency_loss(whole), expected)
    by_view = torch.stack([1 - (4 ** .5 * one.mean(0).abs() / one.norm(dim=0)).mean() for one in whole]).mean()
    torch.testing.assert_close(consistency_loss(whole, "views"), by_view)
    assert (consistency_loss(whole) - consistency_loss(whole, "views")).abs() > .01


def test_bad_input(clip):
    linear = torch.nn.Linear(4, 6)
    for wrong in (dict(rank=0), dict(rank=5), dict(rank=2.), dict(alpha=0), dict(alpha=-1.), dict(dropout=1.), dict(dropout=-.1)):
        with pytest.raises(DataError, match="rank"): LowRank(linear, **{"rank": 2, **wrong})
    with pytest.raises(DataError, match="a linear map"): LowRank(LowRank(linear, rank=1))
    with pytest.raises(DataError, match="a linear map"): DepthTower(DepthTower(clip).twin)
    with pytest.raises(DataError, match="ClipEncoder"): DepthTower(clip.model)
    with pytest.raises(DataError, match="rank"): DepthTower(clip, rank=64)
    with pytest.raises(DataError, match="same views"): SRM(16)(said(2), said(3))
    with pytest.raises(DataError, match="same views"): SRM(16)(said(2, side=2), said(2))
    with pytest.raises(DataError, match="16 entries"): SRM(16)(said(dim=8), said(dim=8))
    with pytest.raises(DataError, match="whole"): consistency_loss(torch.zeros(4, 8))
    with pytest.raises(DataError, match="views"): consistency_loss(torch.zeros(1, 4, 8), "view")


def test_tokens_are_stretched_before_they_are_compared():
    "Unit vectors would give scores near 0, an almost even attention."
    render, depth, module = said(2), said(2, seed=1), SRM(16, inner=8)
    with torch.no_grad():
        scores = module(render, depth).scores
        expected = module.f1(4. * as_tokens(render)) @ module.f2(4. * as_tokens(depth)).mT / 8 ** .5
    torch.testing.assert_close(scores, expected)
