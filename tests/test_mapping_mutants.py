"""One line each that decides a formula of mapping and prompts, against the formula written out another way."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_mapping_memory import rows
from test_prompts_states import CATEGORIES, Words, features, networks, spot

from mmad_nb.core.runtime import DataError
from mmad_nb.mapping import TextAdaptor, nearest, text_loss
from mmad_nb.mapping.crossmodal import choose_pixels, disturb, feature_distance, masked_cosine_loss
from mmad_nb.mapping.memory import patch_rows, remember, reweight, seen_patches, spread, usual_distance
from mmad_nb.prompts import anchors, encode_prompts, labelled_item, prompt_loss
from mmad_nb.prompts.states import contrastive_loss, psi_text


def test_equations_6_to_8_written_out():
    "The prototype P stands in (7) beside the answer, and (8) adds what it refines."
    torch.manual_seed(0)
    adaptor, text = TextAdaptor(6, experts=3, top=2).eval(), torch.randn(2, 5, 6)
    with torch.no_grad():
        adaptor.prototype.mul_(50)                                 # as large as the answers
        adaptor.norm.weight.copy_(torch.rand(6) + .5)
        found = adaptor(text)
        for c in range(2):
            told = adaptor.experts(text[c])
            asked = adaptor.prototype[0] @ adaptor.query.weight.T
            share = torch.softmax(torch.stack([asked @ (adaptor.key.weight @ one) for one in told]) / 6 ** .5, 0)
            answer = sum(s * (adaptor.value.weight @ one) for s, one in zip(share, told))                       # (6)
            mixed = F.gelu(F.linear(adaptor.prototype[0] + answer, adaptor.mlp[0].weight, adaptor.mlp[0].bias))    # (7)
            summed = mixed + adaptor.ffn[2](F.gelu(adaptor.ffn[0](mixed)))                                      # (8)
            centred = summed - summed.mean()
            wanted = centred / (centred.square().mean() + 1e-5).sqrt() * adaptor.norm.weight + adaptor.norm.bias
            assert torch.allclose(found[c], wanted, atol=1e-5)


def test_equation_14_pixel_by_pixel():
    "Ψ_text is the product of both distances to the anchor, each between vectors of length 1."
    one, text, (_, modules) = features(1), encode_prompts("oct", CATEGORIES, Words()), networks("oct")
    with torch.no_grad():
        anchor, found = anchors("oct", modules, text.of(0))[0][0], psi_text("oct", modules, text.of(0), one)
        pixels = one.valid.flatten().nonzero()[:, 0]
        kinds = (("rgb_to_text", one.image_matrix.rows(pixels) @ one.image.flatten(1).T.contiguous()),
                 ("xyz_to_text", one.point_matrix.rows(pixels) @ one.points))
        factors = [(2 - 2 * F.cosine_similarity(modules[name](values), anchor[None])).clamp(min=0).sqrt() for name, values in kinds]
    assert torch.allclose(found.flatten()[pixels], factors[0] * factors[1], atol=1e-4)
    assert not torch.allclose(found.flatten()[pixels], factors[0] + factors[1], atol=.05)
    assert not found[~one.valid].any()


def test_text_loss_counts_each_pixel_once():
    items = [labelled_item(features(0), None, 17), labelled_item(features(1), None, 11)]
    _, modules = networks("oct")
    total, count = text_loss(modules, items, torch.randn(2, modules["adaptor"].norm.weight.numel()))
    assert count == 28 and 0 < total.item() < 2 * 2 * 28           # two sensors, each loss at most 2


def test_neighbours_survive_uncertain_digits(monkeypatch):
    "Four candidates more than asked for: the order by products may be wrong by a few places."
    import mmad_nb.mapping.memory as module
    usual, asked = module._propose, []
    monkeypatch.setattr(module, "_propose", lambda queries, bank, middle, count, chunk: asked.append(count) or usual(queries, bank, middle, count, chunk))
    bank = torch.cat([torch.full((1, 4), 3e4), torch.full((1, 4), -3e4), torch.arange(6.)[:, None] * 1e-3 + torch.zeros(6, 4)])
    distance, index = nearest(bank[5:6] + 2e-4, bank, 1)
    assert asked == [5] and index.item() == 5                       # large rows far apart leave no digits to the products
    assert abs(distance.item() - 2e-4 * 2) < 1e-5


def test_the_bank_is_measured_in_pieces(monkeypatch):
    "A float16 bank is never widened as a whole."
    bank, widened, usual = rows(100, offset=3.).half(), [], torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda self: (widened.append(len(self)), usual(self))[1])
    nearest(rows(3, offset=3.), bank, bank_chunk=10)
    assert max(widened) <= 10


def test_the_unit_of_a_bank_is_what_other_samples_left():
    parts = [rows(6, 4, seed=s) + 3 * s for s in range(3)]
    bank, origin = torch.cat([p[:3] for p in parts]), torch.repeat_interleave(torch.arange(3), 3)
    wanted = []
    for i, mine in enumerate(parts):
        others = bank[origin != i]
        wanted.append(np.mean([min((one - other).norm().item() for other in others) for one in mine]))
    assert usual_distance(parts, bank, origin) == pytest.approx(np.mean(wanted), rel=1e-4)
    assert remember(parts, 1.0)[1] == pytest.approx(usual_distance(parts, torch.cat(parts), torch.repeat_interleave(torch.arange(3), 6)), rel=1e-5)
    alone = remember([parts[0]], 3, seed=1)                         # a single sample: its rows that were not kept
    left = [min((one - kept).norm().item() for kept in alone[0]) for one in parts[0]]
    assert alone[1] == pytest.approx(np.mean([d for d in left if d > 1e-6]), rel=1e-4)
    assert remember([torch.ones(4, 3)], 2)[1] == 1.0


def test_reweight_written_out():
    queries, bank = rows(7, 5), rows(30, 5, seed=1)
    table = torch.cdist(queries.double(), bank.double())
    worst = table.min(1).values.argmax()
    nearest_row = table[worst].argmin()
    around = torch.cdist(bank[nearest_row][None].double(), bank.double())[0].argsort()[:3]
    scaled = table[worst] / 5 ** .5
    assert reweight(queries, bank) == pytest.approx(1 - (scaled[nearest_row].exp() / scaled[around].exp().sum()).item(), abs=1e-4)


def test_patches_that_were_seen_and_how_scores_spread():
    one = features(0)
    seen, (h, w) = seen_patches(one), one.image.shape[1:]
    a, b = one.size[0] // h, one.size[1] // w
    measured = torch.zeros(one.size, dtype=torch.bool).flatten()
    measured[one.pixel] = True
    measured = measured.reshape(one.size)
    assert seen.tolist() == [[bool(measured[r * a:(r + 1) * a, c * b:(c + 1) * b].any()) for c in range(w)] for r in range(h)]
    assert torch.equal(patch_rows(one)["rgb"], one.image.flatten(1).T[seen.flatten()])
    constant = spread(torch.full((int(seen.sum()),), 7.), seen.flatten(), one.image_matrix, one.valid)
    reached = (one.image_matrix @ seen.flatten().float()[:, None])[:, 0].reshape(one.size) > 1e-3
    assert torch.allclose(constant[one.valid & reached], torch.tensor(7.), atol=1e-4) and not constant[~one.valid].any()


@pytest.mark.parametrize("mode", ["cpe", "apg"])
def test_each_normal_pixel_has_one_share_of_all_pixels(mode):
    "What the page says: sums over normal pixels, divided by the number of all pixels, defective ones included."
    items, rows = [labelled_item(features(s), spot() if s else None, 30, seed=s) for s in (0, 1)], [0, 1]
    text, (mappers, modules) = encode_prompts(mode, CATEGORIES, Words()), networks(mode)
    with torch.no_grad():
        total, count = prompt_loss(mode, mappers, modules, items, text, rows, contrast=0)
        alone = [prompt_loss(mode, mappers, modules, [item.normal], text, [row], contrast=0) for item, row in zip(items, rows)]
    assert count == 60 > sum(n for _, n in alone)
    assert total.item() == pytest.approx(sum(t.item() for t, _ in alone), rel=1e-5)


def test_pixels_are_chosen_among_the_measured_ones():
    one = features(1)
    valid = set(one.valid.flatten().nonzero()[:, 0].tolist())
    for count in (1, 5, None, 10**6): assert set((chosen := choose_pixels(one, count, 3)).tolist()) <= valid and len(chosen) == min(count or 10**6, len(valid))
    for wrong in (0, -5, 1.5, "all"):
        with pytest.raises(DataError, match="^count"): choose_pixels(one, wrong)
        with pytest.raises(DataError, match="^count"): labelled_item(one, None, wrong)
    assert torch.equal(labelled_item(one, spot().astype(np.uint8) * 255).labels, labelled_item(one, spot()).labels)


def test_what_mapping_refuses():
    a, b, one, text = torch.rand(4, 3), torch.rand(1, 3), features(0), encode_prompts("cpe", CATEGORIES, Words())
    modules = networks("cpe")[1]
    item = labelled_item(one, None, 5)
    for call in (lambda: masked_cosine_loss(a, b), lambda: feature_distance(a, b), lambda: masked_cosine_loss(a, a, torch.ones(4)), lambda: masked_cosine_loss(a, a, torch.ones(3) > 0),
                 lambda: disturb(one, -1, 0, 1.), lambda: disturb(one, 0, 99, 1.), lambda: disturb(one, 0, 0, float("nan")),
                 lambda: nearest(a, a, 0), lambda: nearest(a, a, 1, 0), lambda: nearest(a, a, 1, 1, -1), lambda: nearest(a.int(), a), lambda: nearest([1], a),
                 lambda: remember([], .5), lambda: remember(a, .5), lambda: remember([a, torch.rand(2, 5)], .5), lambda: remember([a, a * float("nan")], .5),
                 *(lambda share=share: remember([a], share) for share in (0, -1, 1.5, float("nan"), float("inf"), "1", None)),
                 lambda: patch_rows(one, 2), lambda: patch_rows(one, 0), lambda: reweight(a, a, 0), lambda: encode_prompts("cpe", "bagel", Words()), lambda: encode_prompts("cpe", [], Words()),
                 lambda: contrastive_loss(modules, [item], text.normal[:0, 0], text.abnormal[:1, 0]), lambda: contrastive_loss(modules, [], text.normal[:0, 0], text.normal[:0, 0]),
                 *(lambda t=t: psi_text("cpe", modules, text.of(0), one, "probability", t) for t in (0, -1, float("nan"), "x"))):
        with pytest.raises(DataError): call()
