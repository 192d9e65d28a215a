"Contrastive prompts: sentences, anchors of every mode, labelled pixels, the loss against a slow one, gradients, and bad input."
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmad_nb.core.runtime import DataError
from mmad_nb.core.training import train
from mmad_nb.features.extract import Features
from mmad_nb.mapping import create_geometry_mappers, create_text_mappers, map_pixels, text_loss, text_maps, total_loss
from mmad_nb.prompts import AbnormalPrompts, PromptText, anchors, contrastive_loss, create_prompt_modules, encode_prompts, ensemble_sentences, labelled_item, prompt_loss, prompt_sentences, psi_maps
from mmad_nb.prompts.states import MODES, SCORES, pixel_contrast, psi_text

DIM, CATEGORIES = 10, ("disc", "cable_gland")


class Words:
    "In place of a text encoder: each sentence has a vector of its own, the same in every run."
    def encode_text(self, sentences):
        draw = lambda s: torch.randn(DIM, generator=torch.Generator().manual_seed(sum(map(ord, s)) * 31 + len(s)))
        return F.normalize(torch.stack([draw(s) for s in sentences]), dim=1)


def features(seed=0, size=(12, 16)):
    "Random features of a capture whose left half is measured."
    draw = torch.Generator().manual_seed(seed)
    pixel = torch.arange(size[0] * size[1]).reshape(size)[:, :8].flatten()
    weight = torch.rand(len(pixel), 3, generator=draw)
    return Features(torch.randn(6, 3, 4, generator=draw), torch.randn(5, 3, generator=draw), torch.randn(5, 7, generator=draw),
                    torch.randint(0, 5, (len(pixel), 3), generator=draw), weight / weight.sum(1, keepdim=True), pixel, size)


def spot(size=(12, 16)):
    mask = np.zeros(size, bool); mask[3:7, 2:5] = True
    return mask


def networks(mode, seed=0):
    modules = create_text_mappers(6, 7, DIM, seed)
    modules.update(create_prompt_modules(mode, DIM, seed))
    return create_geometry_mappers(6, 7, seed), modules.eval()


def batch():
    return [labelled_item(features(0), None, 40), labelled_item(features(1), spot(), 40), labelled_item(features(2), spot())], [0, 1, 1]


@pytest.fixture(params=MODES)
def mode(request): return request.param


def test_sentences_name_the_object(mode):
    for category, words in (("disc", "disc"), ("cable_gland", "cable gland"), ("CandyCane", "candy cane")):
        normal, abnormal = prompt_sentences(mode, category)
        assert normal and all(words in sentence and "{" not in sentence for sentence in normal + abnormal)
        assert len(set(normal + abnormal)) == len(normal + abnormal)
        assert bool(abnormal) == (mode in ("cpe", "apg_written"))


def test_sentences_fit_the_context_of_the_tiny_encoder():
    from mmad_nb.features.text import TINY_CLIP
    longest = max(len(s.replace(".", " .").split()) for mode in MODES for part in prompt_sentences(mode, "cable_gland") for s in part)
    assert longest + 2 < TINY_CLIP["text_cfg"]["context_length"]     # some words are two pieces


def test_ensemble_is_every_state_in_every_view():
    normal, abnormal = ensemble_sentences("disc")
    assert len(normal) == len(abnormal) == 36 and "a photo of a damaged disc." in abnormal and "a photo of the intact disc." in normal


def test_anchors_have_one_row_a_category_and_do_not_depend_on_the_others(mode):
    text, (_, modules) = encode_prompts(mode, CATEGORIES, Words()), networks(mode)
    both, one = anchors(mode, modules, text), anchors(mode, modules, text.of(1))
    for all_rows, row in zip(both, one):
        if all_rows is None: assert row is None and mode == "oct"
        else: assert all_rows.shape == (2, DIM) and torch.allclose(all_rows[1], row[0], atol=1e-6)


def test_only_apg_has_a_network_and_seeds_decide(mode):
    state = torch.get_rng_state()
    first, again, other = (create_prompt_modules(mode, DIM, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert list(first) == (["generator"] if mode == "apg" else [])
    if mode == "apg":
        assert torch.equal(first["generator"].input.weight, again["generator"].input.weight)
        assert not torch.equal(first["generator"].input.weight, other["generator"].input.weight)


def test_generator_stays_on_the_sphere_and_learns():
    generator, text = AbnormalPrompts(DIM), F.normalize(torch.randn(2, 3, DIM), dim=-1)
    assert torch.allclose(generator(text).norm(dim=-1), torch.ones(2, 3), atol=1e-5)
    generator(text)[0, 0, 0].backward()
    assert all(p.grad.abs().sum() > 0 for p in generator.parameters())


@pytest.mark.parametrize("count", [None, 7, 40, 10_000])
def test_labels_are_those_of_the_mask(count):
    one, mask = features(1), spot()
    item = labelled_item(one, mask, count, seed=3)
    pixels = one.valid.flatten().nonzero()[:, 0]
    bad = int(mask.flatten()[pixels].sum())
    if count is None or count > len(pixels): assert len(item.labels) == len(pixels) and int(item.labels.sum()) == bad
    else: assert len(item.labels) == count and int(item.labels.sum()) == min(bad, count // 2)
    full = one.image_matrix @ item.image
    where = [int((full - row).abs().sum(1).argmin()) for row in item.image_mixing @ item.image]   # which pixel each row is
    if count == 7: assert [bool(mask.flatten()[p]) for p in where] == item.labels.tolist()


def test_normal_part_keeps_the_patches_and_drops_the_defect():
    item = labelled_item(features(1), spot(), 40)
    part = item.normal
    assert part is item.normal and part.image is item.image and not part.labels.any() and len(part.labels) == int((~item.labels).sum())
    for name, patches in (("image_mixing", item.image), ("point_mixing", item.points)):
        assert torch.allclose(getattr(part, name) @ patches, (getattr(item, name) @ patches)[~item.labels], atol=1e-6)


def test_good_samples_are_their_own_normal_part():
    item = labelled_item(features(0), None, 40)
    assert item.normal is item and not item.labels.any()
    assert len(labelled_item(features(0), np.zeros((12, 16), bool), 40).normal.labels) == 40


def test_contrast_is_the_cross_entropy_written_out():
    items, rows = batch()
    text, (_, modules) = encode_prompts("cpe", CATEGORIES, Words()), networks("cpe")
    with torch.no_grad():
        normal, abnormal = (a[rows] for a in anchors("cpe", modules, text))
        found, count = contrastive_loss(modules, items, normal, abnormal, temperature=.3, contrast=.7, pull=2)
        slow, n = 0, 0
        for item, t0, t1 in zip(items, normal, abnormal):
            for name, patches, mixing in (("rgb_to_text", item.image, item.image_mixing), ("xyz_to_text", item.points, item.point_mixing)):
                for vector, label in zip(mixing @ patches, item.labels.tolist()):
                    mapped = modules[name](vector)
                    c = [F.cosine_similarity(mapped, t, dim=0).item() for t in (t0, t1)]
                    slow += -.7 * math.log(math.exp(c[label] / .3) / (math.exp(c[0] / .3) + math.exp(c[1] / .3))) + 2 * (1 - c[0]) * (not label)
            n += len(item.labels)
    assert count == n and abs(found.item() - slow) < 1e-3 * slow


def test_wrong_labels_cost_more():
    cosines = torch.tensor([[.9, .1], [.2, .8]])
    right, wrong = (pixel_contrast(cosines, torch.tensor(labels)) for labels in ([False, True], [True, False]))
    assert wrong > right + 10                                        # (0.8 + 0.6) / 0.07 = 20
    assert pixel_contrast(cosines[:0], torch.zeros(0, dtype=torch.bool)) == 0


def test_oct_is_the_existing_path_to_the_last_bit():
    items, rows = batch()
    text, (mappers, modules) = encode_prompts("oct", CATEGORIES, Words()), networks("oct")
    grads = []
    for loss in (lambda: prompt_loss("oct", mappers, modules, items, text, rows),
                 lambda: total_loss(mappers, modules, [item.normal for item in items], text.normal, rows)):
        for module in (mappers, modules): module.zero_grad()
        total, count = loss()
        total.backward()
        grads.append((total, count, [p.grad.clone() for m in (mappers, modules) for p in m.parameters()]))
    torch.testing.assert_close(grads[0][0], grads[1][0])
    assert grads[0][1] == grads[1][1]
    for a, b in zip(grads[0][2], grads[1][2], strict=True): torch.testing.assert_close(a, b)


def test_fresh_weights_are_the_same_in_every_mode(mode):
    one, other = networks(mode)[1].state_dict(), networks("oct")[1].state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_defective_pixels_never_teach_normality(mode):
    "Whatever a defective pixel looks like, the losses of normality stay the same."
    items, rows = batch()
    text, (mappers, modules) = encode_prompts(mode, CATEGORIES, Words()), networks(mode)
    normal = [item.normal for item in items]
    with torch.no_grad():
        one = prompt_loss(mode, mappers, modules, items, text, rows, contrast=0)[0]
        two = prompt_loss(mode, mappers, modules, normal, text, rows, contrast=0)[0]
    assert torch.allclose(one, two, rtol=1e-5)


def test_pull_is_text_loss():
    items, rows = batch()
    text, (_, modules) = encode_prompts("apg", CATEGORIES, Words()), networks("apg")
    with torch.no_grad():
        normal, abnormal = (a[rows] for a in anchors("apg", modules, text))
        pulled = contrastive_loss(modules, items, normal, abnormal, contrast=0, pull=1)[0]
        assert torch.allclose(pulled, text_loss(modules, [item.normal for item in items], normal)[0], rtol=1e-4)


def test_every_weight_gets_a_gradient(mode):
    items, rows = batch()
    text, (mappers, modules) = encode_prompts(mode, CATEGORIES, Words()), networks(mode)
    prompt_loss(mode, mappers, modules, items, text, rows)[0].backward()
    lazy = [name for name, p in modules.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert lazy == [] and all(p.grad is not None for p in mappers.parameters())


@pytest.mark.parametrize("mode", MODES[1:])                         # "oct" has one anchor
def test_training_separates_the_labels(mode):
    items, rows = batch()
    for item, row in zip(items, rows): item.category = row
    text, (mappers, modules) = encode_prompts(mode, CATEGORIES, Words()), networks(mode)
    loss = lambda part: prompt_loss(mode, mappers, modules, part, text, [item.category for item in part], contrast=.2)
    curve = train({"between": mappers, "words": modules}, items, loss, epochs=60, lr=1e-2)
    assert curve[-1] < curve[0]
    found = psi_text(mode, modules, text.of(1), features(1), "probability")
    on = features(1).valid
    assert found[torch.from_numpy(spot()) & on].mean() > found[torch.from_numpy(~spot()) & on].mean() + .05


def test_probability_is_the_softmax_of_the_loss():
    one, (_, modules) = features(1), networks("cpe")
    t0, t1 = torch.randn(2, DIM, generator=torch.Generator().manual_seed(0))
    maps, pixels = psi_maps(modules, one, t0, t1, "probability", temperature=.2, chunk=7), one.valid.flatten().nonzero()[:, 0]
    for name, mapper, patches, matrix in (("rgb_text", "rgb_to_text", one.image.flatten(1).T, one.image_matrix),
                                          ("xyz_text", "xyz_to_text", one.points, one.point_matrix)):
        with torch.no_grad(): mapped = map_pixels(modules[mapper], patches.contiguous(), matrix.rows(pixels))
        cosines = torch.stack([F.cosine_similarity(mapped, t[None]) for t in (t0, t1)], 1)
        assert torch.allclose(maps[name].flatten()[pixels], (cosines / .2).softmax(1)[:, 1], atol=1e-4)
        assert not maps[name][~one.valid].any()


def test_distance_is_equation_14(mode):
    text, (_, modules) = encode_prompts(mode, CATEGORIES, Words()), networks(mode)
    with torch.no_grad(): normal, _ = anchors(mode, modules, text)
    maps = text_maps(modules, features(1), normal[0])
    assert torch.allclose(psi_text(mode, modules, text.of(0), features(1)), maps["rgb_text"] * maps["xyz_text"], atol=1e-5)


def test_bad_input():
    with pytest.raises(DataError, match="prompts 'CPE'.*Did you mean 'cpe'"): prompt_sentences("CPE", "disc")
    with pytest.raises(DataError, match="prompts 'ocd'"): create_prompt_modules("ocd", DIM)
    with pytest.raises(DataError, match=r"a mask of \(5, 5\).*\(12, 16\)"): labelled_item(features(), np.zeros((5, 5), bool))
    text, (_, modules) = encode_prompts("oct", CATEGORIES, Words()), networks("oct")
    with pytest.raises(DataError, match="no abnormal anchor"): psi_text("oct", modules, text.of(0), features(), "probability")
    with pytest.raises(DataError, match="score 'chance'.*distance, probability"): psi_text("oct", modules, text.of(0), features(), "chance")
    assert SCORES[0] == "distance"
