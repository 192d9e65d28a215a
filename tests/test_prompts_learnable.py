"Learnable prompts: what stands where in the tower, the losses against slow ones, published files, and bad input."
import math

import open_clip
import pytest
import torch
import torch.nn.functional as F

from mmad_nb.core.runtime import DataError
from mmad_nb.core.training import drawn_from
from mmad_nb.features.text import ClipEncoder
from mmad_nb.features.zoo import create_encoder
from mmad_nb.prompts import LearnablePrompts, dice_loss, enlarged, focal_loss, load_prompts, pixel_loss, similarity, similarity_maps


def small_clip(layers=12, context=77, seed=0, dtype=torch.float32):
    "A CLIP with a deep text tower and small random weights."
    with drawn_from(seed):
        model = open_clip.CLIP(16, dict(image_size=32, patch_size=16, width=32, layers=2, head_width=16),
                               dict(context_length=context, vocab_size=49408, width=16, heads=2, layers=layers))
    return ClipEncoder("small", model, "random", "cpu", dtype)


@pytest.fixture(scope="module")
def clip(): return small_clip()


@pytest.fixture(scope="module")
def tiny(): return create_encoder("tiny_clip", device="cpu")


def seen_by_blocks(prompts):
    "What every text block was given, and what it made of it."
    found, hooks = [], []
    for block in prompts.encoder.text_blocks:
        hooks.append(block.register_forward_hook(lambda _, given, made: found.append((given[0].detach(), made.detach()))))
    prompts.vectors()
    for hook in hooks: hook.remove()
    return found


@pytest.mark.parametrize("layers, count", [(12, 8), (9, 8), (8, 7), (4, 3), (1, 0)])
def test_deep_prompts_replace_positions_1_to_4_at_blocks_1_to_8_only(layers, count):
    prompts = LearnablePrompts(small_clip(layers))
    assert len(prompts.layers) == count
    found = seen_by_blocks(prompts)
    for number, (given, _) in enumerate(found):
        if number == 0: continue
        before = found[number - 1][1]
        if number <= count:
            for row in given: torch.testing.assert_close(row[1:5], prompts.layers[number - 1].detach())
            torch.testing.assert_close(given[:, 5:], before[:, 5:]); torch.testing.assert_close(given[:, :1], before[:, :1])
        else: torch.testing.assert_close(given, before)


def test_the_first_block_reads_sos_twelve_vectors_words_and_eot(clip):
    prompts, table = LearnablePrompts(clip), clip.model.token_embedding.weight
    given, places = seen_by_blocks(prompts)[0][0], clip.model.positional_embedding
    start, end, dot = 49406, 49407, clip.tokenizer.encode(".")[0]
    damaged, thing = clip.tokenizer.encode("damaged")[0], clip.tokenizer.encode("object")[0]
    for row, vectors, words in zip(given, prompts.context, ([thing, dot, end], [damaged, thing, dot, end])):
        expected = torch.cat([table[[start]], vectors.detach(), table[words]]) + places[:13 + len(words)]
        torch.testing.assert_close(row[:len(expected)], expected)


@pytest.mark.parametrize("length", [1, 5, 12, 20])
def test_eot_stays_where_the_tokenizer_put_it(clip, length):
    prompts = LearnablePrompts(clip, length=length, deep=1)
    assert prompts.rows.argmax(1).tolist() == [length + 3, length + 4]
    asked = []
    project, clip.project_text = clip.project_text, lambda tokens, end: asked.append(end) or project(tokens, end)
    try: prompts.vectors()
    finally: del clip.project_text
    assert asked[0].tolist() == [length + 3, length + 4]


def test_what_stands_behind_eot_is_not_heard(clip):
    "Published code fills all rows to 77 places; ours end with the longest sentence."
    prompts = LearnablePrompts(clip)
    with torch.no_grad(): short = prompts.vectors()
    prompts.rows = F.pad(prompts.rows, (0, clip.context - prompts.rows.shape[1]))
    with torch.no_grad(): torch.testing.assert_close(prompts.vectors(), short, atol=1e-5, rtol=0)


def test_real_words_in_the_learned_places_give_the_towers_own_answer(tiny):
    prompts = LearnablePrompts(tiny, length=4, deep=0, blocks=0)
    with torch.no_grad():
        prompts.context[:] = tiny.model.token_embedding(tiny.tokenize(["a photo of a"]))[:, 1:5]
        wanted = tiny.encode_text(["a photo of a object.", "a photo of a damaged object."])
        torch.testing.assert_close(prompts.vectors(), wanted, atol=1e-5, rtol=0)


def test_order_is_flawless_then_damaged(tiny):
    with torch.no_grad():
        found = torch.stack([LearnablePrompts(tiny, seed=seed).vectors() for seed in range(8)]).mean(0)
        words = tiny.encode_text(["flawless object.", "damaged object."])
    assert (found[1] - found[0]) @ (words[1] - words[0]) > 0


def test_only_the_prompts_learn_and_only_they_are_saved(clip):
    prompts = LearnablePrompts(clip)
    assert set(prompts.state_dict()) == {"context", *(f"layers.{i}" for i in range(8))}
    weights = clip.fingerprint
    optimizer = torch.optim.Adam(prompts.parameters(), 1e-2)
    before = prompts.vectors().detach()
    for _ in range(3):
        optimizer.zero_grad()
        (prompts.vectors()[1] * torch.arange(16)).sum().backward()
        optimizer.step()
    assert clip.fingerprint == weights and (prompts.vectors() - before).abs().max() > 1e-3


def test_seeds_and_spread(clip):
    state = torch.random.get_rng_state()
    a, b, c = (LearnablePrompts(clip, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(a.context, b.context) and not torch.equal(a.context, c.context)
    numbers = torch.cat([p.detach().flatten() for p in a.parameters()])
    assert abs(numbers.std().item() - .02) < .003 and not torch.equal(a.context[0], a.context[1])


def test_half_precision_tower():
    prompts = LearnablePrompts(small_clip(4, dtype=torch.bfloat16))
    with torch.no_grad(): whole = LearnablePrompts(small_clip(4)).vectors()
    assert prompts.context.dtype == torch.float32 and prompts.vectors().dtype == torch.float32
    assert (prompts.vectors() - whole).abs().max() < .1
    prompts.vectors().sum().backward()
    assert prompts.context.grad.isfinite().all()


@pytest.mark.parametrize("options, words", [
    (dict(length=0), "length=...*0"), (dict(length=76), "length=...*76"), (dict(deep=13), "from 0 to 12"), (dict(deep=-1), "deep"),
    (dict(blocks=-1), "blocks"), (dict(length=2.5), "2.5"), (dict(length=74), "at most 77")])
def test_impossible_numbers_of_vectors(clip, options, words):
    with pytest.raises(DataError, match=words.replace("...*", r"\.\.\.\).*").replace("+", r"\+")): LearnablePrompts(clip, **options)


# similarities and losses

def test_maps_against_a_loop():
    draw = torch.Generator().manual_seed(0)
    patches, vectors = F.normalize(torch.randn(2, 6, 3, 4, generator=draw), dim=1), F.normalize(torch.randn(2, 6, generator=draw), dim=1)
    maps = similarity_maps(patches, vectors, .2)
    for b in range(2):
        for i in range(3):
            for j in range(4):
                good, bad = (math.exp(float(patches[b, :, i, j] @ t) / .2) for t in vectors)
                assert maps[b, :, i, j].tolist() == pytest.approx([good / (good + bad), bad / (good + bad)], abs=1e-5)
    torch.testing.assert_close(similarity(patches.movedim(1, -1), vectors, .2).softmax(-1).movedim(-1, 1), maps)
    assert similarity(patches[0, :, 0, 0], vectors).tolist() == pytest.approx([float(patches[0, :, 0, 0] @ t) / .07 for t in vectors], rel=1e-4)


def test_the_softmax_comes_before_the_enlargement():
    "Between a patch of p = 0 and one of p = 1 the enlarged map is a straight ramp, through 1/8 and 7/8 where logits would say 0 and 1."
    vectors, row = torch.eye(2), torch.tensor([[1., 0], [0, 1]]).T.reshape(1, 2, 1, 2)
    maps = enlarged(similarity_maps(row, vectors), 8)
    assert maps.shape == (1, 2, 8, 8)
    assert maps[0, 1, 0].tolist() == pytest.approx([0, 0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1], abs=1e-4)


@pytest.mark.parametrize("gamma", [0, 2])
def test_focal_loss_against_a_loop(gamma):
    draw = torch.Generator().manual_seed(1)
    damaged, masks = torch.rand(2, 3, 4, generator=draw), torch.rand(2, 3, 4, generator=draw) > .5
    terms = []
    for p, m in zip(damaged.flatten().tolist(), masks.flatten().tolist()):
        q = p if m else 1 - p
        q = (1 - 1e-5) * q + 1e-5 * (1 - q) + 1e-5
        terms.append(-(1 - q) ** gamma * math.log(q))
    assert focal_loss(torch.stack([1 - damaged, damaged], 1), masks, gamma).item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)


def test_a_sure_wrong_pixel_costs_a_finite_amount():
    maps = torch.tensor([[[1.], [0.]]])
    assert focal_loss(maps, torch.tensor([[True]])).item() == pytest.approx(-(1 - 2e-5) ** 2 * math.log(2e-5), rel=1e-4)


def test_losses_are_finite_with_sure_answers_and_pull_the_right_way():
    sure = torch.tensor([0., 1.]).repeat(1, 8).reshape(1, 4, 4).requires_grad_()
    for masks in (torch.zeros(1, 4, 4).bool(), torch.ones(1, 4, 4).bool()):
        loss = pixel_loss(torch.stack([1 - sure, sure], 1), masks)
        gradient, = torch.autograd.grad(loss, sure)
        assert loss.isfinite() and gradient.isfinite().all()
        wrong = sure.detach() != masks.float()
        sign = -1 if masks.all() else 1                             # more p(damaged) is better, or worse
        assert (sign * gradient[wrong] > 0).all()


def test_dice_is_a_mean_over_pictures_and_pixel_loss_takes_both_maps():
    draw = torch.Generator().manual_seed(2)
    p, g = torch.rand(3, 5, 6, generator=draw), torch.rand(3, 5, 6, generator=draw) > .7
    one = [1 - (2 * float((a * b).sum()) + 1) / (float(a.sum()) + float(b.sum()) + 1) for a, b in zip(p, g)]
    assert dice_loss(p, g).item() == pytest.approx(sum(one) / 3, rel=1e-5)
    maps = torch.stack([1 - p, p], 1)
    assert pixel_loss(maps, g).item() == pytest.approx((focal_loss(maps, g) + dice_loss(p, g) + dice_loss(1 - p, ~g)).item(), rel=1e-5)


@pytest.mark.parametrize("call", [
    lambda: dice_loss(torch.rand(1, 4, 4), torch.zeros(1, 4, 5).bool()), lambda: dice_loss(torch.rand(1, 4, 4), torch.zeros(1, 4, 4)),
    lambda: focal_loss(torch.rand(1, 2, 4, 4), torch.zeros(1, 2, 4, 4).bool()), lambda: similarity_maps(torch.rand(2, 4, 4), torch.rand(2, 4)),
    lambda: similarity_maps(torch.rand(1, 3, 4, 4), torch.rand(2, 4)), lambda: similarity(torch.rand(4), torch.rand(2, 4), 0.),
    lambda: similarity(torch.rand(4), torch.rand(2, 4), float("nan"))])
def test_bad_maps_and_masks(call):
    with pytest.raises(DataError): call()


# published files

def published(prompts, **more):
    "What AnomalyCLIP's training writes of such prompts."
    table, rows = prompts.encoder.model.token_embedding.weight, F.pad(prompts.rows, (0, prompts.encoder.context - prompts.rows.shape[1]))
    state = {"ctx_pos": prompts.context[None, :1], "ctx_neg": prompts.context[None, 1:]}
    for i, layer in enumerate(prompts.layers):
        state |= {f"compound_prompts_text.{i}": layer, f"compound_prompt_projections.{i}.weight": torch.zeros(896, 16),
                  f"compound_prompt_projections.{i}.bias": torch.zeros(896)}
    for row, which in zip(rows, ("pos", "neg")):
        state |= {f"token_prefix_{which}": table[row[:1]][None, None], f"token_suffix_{which}": table[row[1 + prompts.length:]][None, None],
                  f"tokenized_prompts_{which}": row[None, None]}
    return {name: value.detach().clone() for name, value in (state | more).items()}


@pytest.mark.parametrize("wrapped, half", [(True, False), (True, True), (False, False)])
def test_a_published_file_gives_the_same_vectors(clip, tmp_path, wrapped, half):
    one, file = LearnablePrompts(clip, seed=3), tmp_path / "epoch_15.pth"
    state = published(one)
    if half: state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    torch.save({"prompt_learner": state} if wrapped else state, file)
    other = LearnablePrompts(clip, seed=4)
    assert load_prompts(other, file) is other
    with torch.no_grad(): torch.testing.assert_close(other.vectors(), one.vectors(), atol=2e-3 if half else 1e-6, rtol=0)
    other.vectors().sum().backward()                                # and goes on learning
    assert other.context.grad is not None and other.context.is_leaf


def test_layers_come_in_their_numbers_order(clip, tmp_path):
    one = LearnablePrompts(clip, seed=3)
    torch.save(dict(reversed(published(one).items())), tmp_path / "a.pth")
    other = load_prompts(LearnablePrompts(clip, seed=4), tmp_path / "a.pth")
    for a, b in zip(one.layers, other.layers): torch.testing.assert_close(a, b)
    torch.testing.assert_close(one.context, other.context)


def without(name): return lambda state: state.pop(name)
def with_(**more): return lambda state: state.update(more)


@pytest.mark.parametrize("spoil, words", [
    (without("ctx_neg"), "no ctx_neg"), (without("compound_prompts_text.7"), "deep prompts for 7 blocks"),
    (with_(**{"compound_prompts_text.8": torch.zeros(4, 16)}), "deep prompts for 9 blocks"),
    (with_(**{"compound_prompts_text.3": torch.zeros(5, 16)}), r"compound_prompts_text.3 \(5, 16\)"),
    (with_(ctx_pos=torch.zeros(1, 1, 10, 16)), r"ctx_pos \(1, 1, 10, 16\)"), (with_(ctx_pos=torch.full((1, 1, 12, 16), math.nan)), "NaN"),
    (with_(token_prefix_neg=torch.ones(1, 1, 1, 16)), "another text tower"), (with_(token_suffix_pos=torch.ones(1, 1, 64, 16)), "another text tower"),
    (with_(token_suffix_neg=torch.ones(1, 1, 1, 16)), "another text tower"), (with_(token_prefix_pos=torch.ones(1, 1, 1, 8)), "another text tower")])
def test_files_that_do_not_fit_are_refused_and_change_nothing(clip, tmp_path, spoil, words):
    state, prompts, file = published(LearnablePrompts(clip, seed=3)), LearnablePrompts(clip), tmp_path / "a.pth"
    spoil(state)
    torch.save({"prompt_learner": state}, file)
    before = prompts.vectors().detach()
    with pytest.raises(DataError, match=words) as caught: load_prompts(prompts, file)
    assert str(file) in str(caught.value)
    assert torch.equal(prompts.vectors().detach(), before)


def test_prompts_of_another_tower_of_the_same_size_are_refused(clip, tmp_path):
    torch.save({"prompt_learner": published(LearnablePrompts(small_clip(seed=1)))}, tmp_path / "a.pth")
    with pytest.raises(DataError, match="another text tower"): load_prompts(LearnablePrompts(clip), tmp_path / "a.pth")


def test_prompts_in_front_of_other_words_are_refused(clip, tmp_path):
    torch.save({"prompt_learner": published(LearnablePrompts(clip, words=("thing.", "broken thing.")))}, tmp_path / "a.pth")
    with pytest.raises(DataError, match="other words"): load_prompts(LearnablePrompts(clip), tmp_path / "a.pth")


def test_files_that_are_no_checkpoint(clip, tmp_path):
    (tmp_path / "a.pth").write_text("<html>")
    with pytest.raises(DataError, match="web page"): load_prompts(LearnablePrompts(clip), tmp_path / "a.pth")
    with pytest.raises(DataError): load_prompts(LearnablePrompts(clip), tmp_path / "none.pth")
    torch.save({"prompt_learner": {"other": torch.zeros(2)}}, tmp_path / "b.pth")
    with pytest.raises(DataError, match="no ctx_pos and no ctx_neg"): load_prompts(LearnablePrompts(clip), tmp_path / "b.pth")
