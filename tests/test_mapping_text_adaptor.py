"""OCTA: routing, anchors, losses and maps; names, shapes and numbers that cannot be used."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmad_nb.core.runtime import DataError
from mmad_nb.core.training import train
from mmad_nb.features.extract import Features
from mmad_nb.mapping import (TextAdaptor, TopKExperts, TrainingItem, category_words, create_geometry_mappers, create_text_mappers, crossmodal_loss,
                             drop_nonfinite, object_sentences, text_loss, text_maps, total_loss)
from mmad_nb.mapping.text_adaptor import read_category, sentence_vectors


def toy_features(category=0, defective=False, seed=0):
    "8 x 8 pixels with a patch and a point group each; a defect of 3 x 3 pixels points elsewhere."
    draw = torch.Generator().manual_seed(seed)
    image, points = (F.one_hot(torch.tensor(category), 6) + .1 * torch.randn(8, 8, 6, generator=draw) for _ in range(2))
    if defective: image[4:7, 4:7] = points[4:7, 4:7] = torch.tensor([0., 0, 0, 0, 0, -2])
    own = torch.arange(64)[:, None].expand(64, 3)
    return Features(image.permute(2, 0, 1).contiguous(), torch.zeros(64, 3), points.reshape(64, 6), own,
                    torch.tensor([[1., 0, 0]]).expand(64, 3), torch.arange(64), (8, 8))


def toy_item(category=0, seed=0, pixels=None):
    return TrainingItem(toy_features(category, False, seed), torch.arange(64) if pixels is None else pixels)


@pytest.mark.parametrize("name, words", [("bagel", "bagel"), ("cable_gland", "cable gland"), ("CandyCane", "candy cane"), ("hot-dog ", "hot dog"),
                                         ("a__b", "a b"), ("potato2", "potato2"), ("KEY", "key")])
def test_names_become_words(name, words):
    assert category_words(name) == words
    assert object_sentences(name)[0] == f"a photo of a {words}." and len(set(object_sentences(name))) == 14


@pytest.mark.parametrize("name", ["", " ", "__", "-", None, 3])
def test_a_category_without_a_word_is_refused(name):
    with pytest.raises(DataError, match="category"): category_words(name)


@pytest.mark.parametrize("categories", [[], "bagel"])
def test_sentence_vectors_want_a_list(categories):
    with pytest.raises(DataError, match="a list of at least one name"): sentence_vectors(None, categories)


@pytest.mark.parametrize("top", [0, -1, 5])
def test_top_beyond_the_experts_is_refused(top):
    with pytest.raises(DataError, match="1 <= top <= experts"): TopKExperts(4, experts=4, top=top)
    with pytest.raises(DataError): TextAdaptor(4, experts=4, top=top)


@pytest.mark.parametrize("top", [1, 2, 3])
@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 5, 4)])
def test_routing_and_mixture_of_any_shape(top, shape):
    moe, text = TopKExperts(4, experts=3, top=top), torch.randn(shape)
    with torch.no_grad():
        shares, logits, answer = moe.route(text), moe.gate(text), moe(text)
    assert ((shares > 0).sum(-1) == top).all() and torch.allclose(shares.sum(-1), torch.ones(shape[:-1]))
    for index in range(logits.flatten(0, -2).shape[0] if text.ndim > 1 else 1):
        row, one = logits.reshape(-1, 3)[index], text.reshape(-1, 4)[index]
        chosen = sorted(range(3), key=lambda i: -row[i])[:top]
        weight = torch.stack([row[i].exp() for i in chosen])
        with torch.no_grad(): wanted = sum(w * moe.experts[i](one) for w, i in zip(weight / weight.sum(), chosen))
        assert torch.allclose(answer.reshape(-1, 4)[index], wanted, atol=1e-5)


def test_unasked_experts_get_no_gradient():
    moe = TopKExperts(2, experts=3, top=2)
    with torch.no_grad(): moe.gate.weight.zero_(); moe.gate.bias.copy_(torch.tensor([1., 0, -9]))
    moe(torch.randn(7, 2)).square().sum().backward()
    assert not any(p.grad.any() for p in moe.experts[2].parameters()) and not moe.gate.weight.grad[2].any()
    assert moe.experts[0][0].weight.grad.any() and moe.gate.weight.grad[:2].any()


@pytest.mark.parametrize("shape", [(4,), (14, 4), (1, 2, 14, 4), (2, 0, 4)])
def test_text_of_another_shape_is_refused(shape):
    with pytest.raises(DataError, match="categories, sentences, dim"): TextAdaptor(4)(torch.zeros(shape))


def test_text_of_another_length_is_refused():
    with pytest.raises(DataError, match="TopKExperts: found features of 5 channels; expected 4"): TextAdaptor(4)(torch.zeros(2, 14, 5))


def test_categories_do_not_disturb_each_other_and_order_of_sentences_does_not_matter():
    adaptor, text = TextAdaptor(8).eval(), torch.randn(3, 14, 8)
    with torch.no_grad():
        together = adaptor(text)
        assert torch.allclose(torch.cat([adaptor(one[None]) for one in text]), together, atol=1e-5)
        assert torch.allclose(adaptor(text.flip(1)), together, atol=1e-5)
        _, share = adaptor.attend(text)
    assert share.shape == (3, 14) and torch.allclose(share.sum(1), torch.ones(3))


def test_attention_agrees_with_torch():
    adaptor, text = TextAdaptor(8), torch.randn(3, 14, 8)
    with torch.no_grad():
        query = adaptor.query(adaptor.prototype).expand(3, 1, 8)
        wanted = F.scaled_dot_product_attention(query, adaptor.key(text), adaptor.value(text))[:, 0]
        assert torch.allclose(adaptor.attend(text)[0], wanted, atol=1e-5)


def test_every_weight_of_the_adaptor_that_is_asked_learns():
    modules, text = create_text_mappers(6, 6, 6), torch.randn(2, 14, 6)
    text_loss(modules, [toy_item(0), toy_item(1)], modules["adaptor"](text))[0].backward()
    idle = {name for name, p in modules.named_parameters() if p.grad is None or not p.grad.any()}
    asked = modules["adaptor"].experts.route(text).flatten(0, 1).gt(0).any(0)
    unasked = {name for i in range(4) if not asked[i] for name, _ in modules.named_parameters() if f"experts.experts.{i}." in name}
    assert idle == unasked


def test_losses_add_up_over_samples_and_halves():
    modules, mappers, text = create_text_mappers(6, 6, 6).eval(), create_geometry_mappers(6, 6), torch.randn(2, 14, 6)
    items, rows = [toy_item(0, 1), toy_item(1, 2), toy_item(0, 3, torch.arange(10))], [0, 1, 0]
    with torch.no_grad():
        whole, count = total_loss(mappers, modules, items, text, rows)
        parts = [total_loss(mappers, modules, [i], text, [r]) for i, r in zip(items, rows)]
        anchors = modules["adaptor"](text)[rows]
        assert torch.allclose(whole, crossmodal_loss(mappers, items)[0] + text_loss(modules, items, anchors)[0])
    assert torch.allclose(whole, sum(p[0] for p in parts), atol=1e-3) and count == sum(p[1] for p in parts) == 138


def test_an_anchor_for_each_sample():
    modules = create_text_mappers(6, 6, 6)
    for anchors in (torch.ones(1, 6), torch.ones(3, 6)):
        with pytest.raises(DataError, match="anchors for 2 samples"): text_loss(modules, [toy_item(), toy_item()], anchors)
    with pytest.raises(DataError, match="anchors for 2 samples"):
        total_loss(create_geometry_mappers(6, 6), modules, [toy_item(), toy_item()], torch.randn(2, 14, 6), [0])


@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
def test_nonfinite_gradients_are_left_out(bad):
    a, b, c = (nn.Parameter(torch.ones(3)) for _ in range(3))
    a.grad, b.grad = torch.tensor([1., bad, 1.]), torch.ones(3)
    assert drop_nonfinite([a, b, c]) == 1
    torch.optim.SGD([a, b, c], lr=.5).step()
    assert torch.equal(a.detach(), torch.ones(3)) and torch.equal(b.detach(), torch.full((3,), .5)) and torch.equal(c.detach(), torch.ones(3))
    assert drop_nonfinite([a, b, c]) == 0


def test_maps_are_those_of_each_pixel_and_zero_elsewhere():
    modules, anchor, one = create_text_mappers(6, 6, 5).eval(), torch.randn(5), toy_features(1)
    part = Features(one.image, one.centers, one.points, one.index[:9], one.weight[:9], one.pixel[:9], one.size)  # the first nine are measured
    maps, on = text_maps(modules, part, anchor, chunk=4), part.valid
    assert on.any() and not on.all()
    with torch.no_grad(): guess = modules["rgb_to_text"](part.image_at(on.flatten().nonzero()[:, 0]))
    wanted = (F.normalize(guess, dim=1) - F.normalize(anchor, dim=0)).norm(dim=1)
    assert torch.allclose(maps["rgb_text"][on], wanted, atol=1e-5)
    for values in maps.values(): assert not values[~on].any() and values.max() <= 2 and values.dtype == torch.float32
    bfloat = text_maps(create_text_mappers(6, 6, 5).to(torch.bfloat16), part, anchor)["rgb_text"]
    assert bfloat.dtype == torch.float32 and (bfloat - maps["rgb_text"]).abs().max() < .1


@pytest.mark.parametrize("anchor", [torch.zeros(1, 5), torch.zeros(6), torch.zeros(())])
def test_an_anchor_that_does_not_fit_is_refused(anchor):
    with pytest.raises(DataError, match="text_maps"): text_maps(create_text_mappers(6, 6, 5), toy_features(), anchor)


def test_features_of_another_encoder_are_refused():
    with pytest.raises(DataError, match="TwoLayerMapper: found features of 6 channels; expected 7"):
        text_maps(create_text_mappers(7, 6, 5), toy_features(), torch.ones(5))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_text_maps_tell_defective_pixels_from_normal_ones(seed):
    text = F.normalize(torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(seed)), dim=-1)
    modules = create_text_mappers(6, 6, 6, seed).train()
    pairs = [(toy_item(c, 10 * c + k), c) for c in (0, 1) for k in range(3)]
    train(dict(modules), pairs, lambda batch: text_loss(modules, [i for i, _ in batch], modules["adaptor"](text)[[c for _, c in batch]]), epochs=80)
    modules.eval()
    for c in (0, 1):
        with torch.no_grad(): maps = text_maps(modules, toy_features(c, True, 99 + c), modules["adaptor"](text)[c])
        psi, odd = maps["rgb_text"] * maps["xyz_text"], torch.zeros(8, 8, dtype=torch.bool)
        odd[4:7, 4:7] = True
        assert psi[odd].mean() > 1.5 * psi[~odd].mean()


def test_reading_a_category_leaves_the_adaptor_alone():
    adaptor, text = TextAdaptor(6).train(), torch.randn(14, 6)
    seen = read_category(adaptor, text, 3)
    assert adaptor.training and adaptor.experts.top == 2 and ((seen["route"] > 0).sum(1) == 3).all()
    assert torch.equal(seen["anchor"], read_category(adaptor, text, 3)["anchor"])  # no dropout
    for top in (0, 5):
        with pytest.raises(DataError, match="1 to 4"): read_category(adaptor, text, top)
