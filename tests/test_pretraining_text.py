"Training of tiny_clip: what it may see, what captions claim, and that a few steps go the same way twice."
import numpy as np
import pytest
import torch

from mmad_nb.core.runtime import DataError
from mmad_nb.forge import list_categories, list_defects
from mmad_nb.pretraining import text as tp
from mmad_nb.pretraining.encoders import save_half

TINY_PLAN = tp.Plan(8, (tp.Round(range(4), 1e-3, 4, 9, 16, (1, .5)),), 48, (tp.Round(range(4, 6), 3e-4, 4, 14, 16),))


@pytest.fixture(scope="module")
def twins(tmp_path_factory): return tp.forge_pool(tmp_path_factory.mktemp("twins"), pairs=8)


@pytest.fixture
def one_thread():
    "Sums of gradients are taken in a fixed order on one thread alone; on several the last digit may differ."
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


def test_unseen_families_are_refused(tmp_path):
    for categories in (["bagel"], ["peach", "gear"]):
        with pytest.raises(DataError, match="kept unseen"): tp.forge_pool(tmp_path, 2, categories)
    assert not list(tmp_path.iterdir())


def test_no_caption_names_an_unseen_object():
    unseen = set(list_categories("sample"))
    assert not unseen & set(tp.vocabulary())
    rng = np.random.default_rng(0)
    for _ in range(2000):
        facts = tp.Facts(tp.pick(rng, list(tp.LOOKS)), tp.pick(rng, tp.POOL), tp.pick(rng, ["good", "several", *list_defects()]),
                         tuple(tp.pick(rng, words) for words in tp.TRAITS.values()))
        text, claim = tp.caption(rng, facts)
        assert claim.holds(facts) and not unseen & set(text.split()) and "anything" not in text and claim.word is None
        assert (claim.state == "bad") <= (facts.defect != "good") and (claim.kind is None or claim.kind == facts.defect)
        if facts.look != "photo": assert claim.colour is None and claim.material is None
        assert not unseen & {word for prompt in tp.state_prompts(rng, list_categories("auxiliary"), 1) for word in prompt.split()}


def test_words_without_pictures_stand_in_sentences_without_pictures():
    rng, unseen = np.random.default_rng(0), set(list_categories("sample"))
    said = {claim.word for _, claim in (tp.word_caption(rng, list_categories("auxiliary")) for _ in range(3000))}
    assert unseen <= said and not said & set(list_categories("auxiliary"))


def test_a_word_is_half_its_definition():
    table = tp.Attributes(["key"])
    traits = torch.nn.functional.normalize(sum(table.row(w, v) for w, v in zip(tp.TRAITS, tp.WORDS["bolt"])), dim=0)
    own = table.own[list(tp.WORDS).index("bolt")]
    assert torch.isclose(table.word("bolt") @ traits, table.word("bolt") @ own) and table.word("bolt").norm().isclose(torch.ones(()))
    with torch.no_grad(): cosines = [float(table.word(a) @ table.word(b)) for i, a in enumerate(tp.WORDS) for b in list(tp.WORDS)[:i]]
    assert max(cosines) < .9


def test_traits_are_those_that_the_forge_uses():
    assert set(tp.WORDS) >= set(list_categories())
    for word, traits in tp.WORDS.items():
        assert all(value in words for value, words in zip(traits, tp.TRAITS.values())), word
    grid = np.meshgrid(*[np.linspace(-64, 64, 64, dtype=np.float32)] * 2)
    colour = {}
    for seed in range(60):
        surface, (shape, named, material, part) = tp.nameless(*grid, seed), tp.traits_of(seed)
        assert (surface.height > 0).mean() > .02 and (surface.metal > 0) == (material == "metal")
        if material == "plastic" and part == "plain": colour[named] = surface.color[:, surface.height > 0].mean(1)
    for named, mean in colour.items():  # nearest to the colour that it is called, or as near as to a neighbour
        away = {name: np.abs(mean - value).sum() for name, value in tp.COLOURS.items()}
        assert away[named] < 2 * min(away.values()) + .15, named


def test_the_table_begins_with_what_the_text_tower_says():
    model, table = tp.tiny_clip(1), tp.Attributes(list_categories("auxiliary"))
    tp.rows_from_text(table, model)
    good, bad = table.unit("state").detach()
    assert torch.allclose(good, -bad, atol=1e-5)                         # two rows without their mean
    with torch.no_grad(): texts = tp.text_features(model, ["a photo of a flawless object", "a photo of a damaged object"])
    assert torch.allclose(torch.nn.functional.normalize(texts[1] - texts[0], dim=0), bad, atol=1e-5)
    for which in ("category", "look", "kind"): assert table.unit(which).sum(0).norm() < .9 * len(table.names[which])


def test_every_look_is_shown_as_often_where_the_damage_has_a_depth(twins):
    pool = tp.Pool(twins)
    looks = [tp.make_batch(pool, [(k, draw)], 0).facts[0].look for k in range(8) for draw in range(30) if pool.vmask[k].any()]
    assert len(looks) > 90 and all(.23 < looks.count(look) / len(looks) < .44 for look in tp.LOOKS)
    flat = [k for k in range(8) if not pool.vmask[k].any()]
    assert all(tp.make_batch(pool, [(k, draw)], 0).facts[0].look == "photo" for k in flat for draw in range(9))


def test_training_goes_on_from_weights(tmp_path, twins, one_thread):
    save_half(tp.tiny_clip(5), file := tmp_path / "start.safetensors")
    (tmp_path / "twins-8-0").mkdir()
    (tmp_path / "twins-8-0" / "000.npz").hardlink_to(twins / "000.npz")
    plan = tp.Plan(8, (tp.Round(range(1), 1e-9, 8, 9, 16, (1, .5), pairs=2),), 1, ())
    model, curves = tp.train_tiny_clip(tmp_path, plan, start=file)
    name = "visual.conv1.0.weight"
    assert torch.allclose(model.state_dict()[name], tp.tiny_clip(5).state_dict()[name], atol=1e-3)
    assert len(curves["pictures 1"]) == 1                                # two pairs, one step


def test_words_for_every_category_and_defect():
    assert set(tp.NAMES) == set(list_categories("auxiliary")) and set(tp.KINDS) == set(list_defects())


def test_a_pool_is_a_function_of_its_seed_and_is_not_forged_twice(twins):
    pool, file = tp.Pool(twins), twins / "000.npz"
    stamp = file.stat().st_mtime_ns
    tp.forge_pool(twins, pairs=8)
    assert file.stat().st_mtime_ns == stamp and len(pool) == 8
    again = tp.forge_pair(5, tp.POOL)
    assert all(np.array_equal(again[key], getattr(pool, key)[5]) for key in again)
    assert not np.array_equal(tp.forge_pair(5, tp.POOL, seed=1)["photo"], again["photo"])


def test_batches_are_functions_of_items_and_seed(twins):
    pool = tp.Pool(twins)
    both, one = tp.make_batch(pool, [(2, 0), (5, 3)], 0), tp.make_batch(pool, [(5, 3)], 0)
    assert torch.equal(both.pictures[2:], one.pictures) and torch.equal(both.keep[2:], one.keep)
    assert not torch.equal(tp.make_batch(pool, [(5, 4)], 0).pictures, one.pictures)
    assert (one.mask[0] == 0).all() and one.facts[0].defect == "good"


def test_the_whole_window_is_the_whole_picture(twins):
    pool, model = tp.Pool(twins), tp.tiny_clip(1)
    batch = tp.make_batch(pool, [(1, 0)], 0, window=14, count=196)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (tp.CLIP_MEAN, tp.CLIP_STD))
    with torch.no_grad(): assert torch.allclose(tp.window_tokens(model.visual, batch)[0][:, 0], model.encode_image((batch.pictures - mean) / std, normalize=True), atol=1e-4)


def test_a_few_steps_lower_the_loss_and_go_the_same_way_twice(tmp_path, twins, one_thread):
    runs = []
    for name in ("a", "b"):
        (tmp_path / name / "twins-8-0").mkdir(parents=True)
        (tmp_path / name / "twins-8-0" / "000.npz").hardlink_to(twins / "000.npz")
        runs.append(tp.train_tiny_clip(tmp_path / name, TINY_PLAN))
    (model, curves), (other, again) = runs
    assert curves == again and all(torch.equal(v, other.state_dict()[n]) for n, v in model.state_dict().items())
    assert {name: len(curve) for name, curve in curves.items()} == {"pictures 1": 8, "words": 4, "together 1": 4}
    for name in ("pictures 1", "words"): assert np.mean(curves[name][-2:]) < np.mean(curves[name][:2])  # four steps together are too few
    resumed, nothing = tp.train_tiny_clip(tmp_path / "a", TINY_PLAN)  # all rounds are done: nothing is computed again
    assert all(torch.equal(v, resumed.state_dict()[n]) for n, v in model.state_dict().items()) and not any(nothing.values())


def test_what_a_pair_shows(monkeypatch):
    "Without a name: our own objects, whose traits are told; lamps and sensors of the lessons in about half of all pairs."
    built, styles, nameless, draw_style = [], [], tp.nameless, tp.draw_style
    monkeypatch.setattr(tp, "nameless", lambda x, y, seed: built.append(seed) or nameless(x, y, seed))
    monkeypatch.setattr(tp, "draw_style", lambda rng: styles.append(1) or draw_style(rng))
    monkeypatch.setattr(tp, "looks_of", lambda sample, turned, moved: {"moved": moved})  # the slow part
    pairs = [tp.forge_pair(k, ["key", tp.ANYTHING]) for k in range(16)]
    assert len(built) == 16 and 3 < len(styles) < 13                     # two captures of each nameless pair
    for seed, pair in zip(built[::2], pairs[1::2]): assert tuple(pair["traits"]) == tp.traits_of(seed)
    assert all(tuple(pair["traits"]) == tp.WORDS["key"] for pair in pairs[::2])
    assert not any(pair["moved"][0].any() for pair in pairs) and any(pair["moved"][1].any() for pair in pairs)


def test_a_fixed_table_stays_and_words_go_on_in_the_last_round(tmp_path, twins, one_thread, monkeypatch):
    pool, model, table, asked, word_loss = tp.Pool(twins), tp.tiny_clip(0), tp.Attributes(list_categories("auxiliary")), [], tp.word_loss
    monkeypatch.setattr(tp, "word_loss", lambda *args: asked.append(word_loss(*args)) or 0 * asked[-1] + 500)
    before = {name: value.clone() for name, value in table.state_dict().items()}
    tp.picture_round("a", tp.Round(range(1), 1e-2, 2, 9, 16, (1, .5), pairs=2, fixed=True), model, table, pool, tmp_path, 0)
    assert all(torch.equal(value, before[name]) for name, value in table.state_dict().items())
    tp.picture_round("b", tp.Round(range(1), 1e-2, 2, 9, 16, (1, .5), pairs=2), model, table, pool, tmp_path, 0)
    assert not torch.equal(table.log_scale, before["log_scale"]) and not asked
    joint = tp.Round(range(1), 1e-3, 2, 14, 16, pairs=2)
    (total,) = tp.joint_round("c", joint, model, table, pool, tmp_path / "c", 0)
    assert len(asked) == 1 and 1000 < total < 1100                       # words count twice


def test_clouds_are_shown_with_noise_of_their_own(twins):
    pool = tp.Pool(twins)
    flat = [tp.make_batch(pool, [(k, draw)], 0, 14, 16) for k in range(8) for draw in range(6)]
    clouds = [b for b in flat if b.facts[0].look != "photo"]
    assert clouds
    for batch in clouds:
        assert torch.equal(batch.pictures[:, 0], batch.pictures[:, 1])   # three equal channels
        assert (batch.pictures[0] != batch.pictures[1]).float().mean() > .2  # not at the damage alone
