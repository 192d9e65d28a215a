"Training of tiny_clip: what it may see, what captions claim, and that a few steps go the same way twice."
import numpy as np
import pytest
import torch

from mmad_nb.core.runtime import DataError
from mmad_nb.forge import list_categories, list_defects
from mmad_nb.pretraining import text as tp

TINY_PLAN = tp.Plan(8, (tp.Round(range(4), 1e-3, 4, 9, 16, (1, .5)),), 48, (tp.Round(range(4, 6), 3e-4, 4, 14, 16),))


@pytest.fixture(scope="module")
def twins(tmp_path_factory): return tp.forge_pool(tmp_path_factory.mktemp("twins"), pairs=8)


def test_unseen_families_are_refused(tmp_path):
    for categories in (["bagel"], ["peach", "gear"]):
        with pytest.raises(DataError, match="kept unseen"): tp.forge_pool(tmp_path, 2, categories)
    assert not list(tmp_path.iterdir())


def test_no_caption_names_an_unseen_object():
    unseen = set(list_categories("sample"))
    assert not unseen & set(tp.vocabulary())
    rng = np.random.default_rng(0)
    for _ in range(2000):
        category, defect = tp.pick(rng, list_categories("auxiliary")), tp.pick(rng, ["good", *list_defects()])
        look = tp.pick(rng, list(tp.LOOKS))
        text, claim = tp.caption(rng, look, category, defect)
        assert claim.holds(look, category, defect) and not unseen & set(text.split())
        assert (claim.state == "bad") <= (defect != "good") and (claim.kind is None or claim.kind == defect)


def test_words_for_every_category_and_defect():
    assert set(tp.NAMES) == set(list_categories("auxiliary")) and set(tp.KINDS) == set(list_defects())


def test_a_pool_is_a_function_of_its_seed_and_is_not_forged_twice(twins):
    pool, file = tp.Pool(twins), twins / "000.npz"
    stamp = file.stat().st_mtime_ns
    tp.forge_pool(twins, pairs=8)
    assert file.stat().st_mtime_ns == stamp and len(pool) == 8
    again = tp.forge_pair(5, list_categories("auxiliary"))
    assert all(np.array_equal(again[key], getattr(pool, key)[5]) for key in again)
    assert not np.array_equal(tp.forge_pair(5, list_categories("auxiliary"), seed=1)["photo"], again["photo"])


def test_batches_are_functions_of_items_and_seed(twins):
    pool = tp.Pool(twins)
    both, one = tp.make_batch(pool, [(2, 0), (5, 3)], 0), tp.make_batch(pool, [(5, 3)], 0)
    assert torch.equal(both.pictures[2:], one.pictures) and torch.equal(both.keep[2:], one.keep)
    assert not torch.equal(tp.make_batch(pool, [(5, 4)], 0).pictures, one.pictures)
    assert (one.mask[0] == 0).all() and one.facts[0][2] == "good"


def test_the_whole_window_is_the_whole_picture(twins):
    pool, model = tp.Pool(twins), tp.tiny_clip(1)
    batch = tp.make_batch(pool, [(1, 0)], 0, window=14, count=196)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (tp.CLIP_MEAN, tp.CLIP_STD))
    with torch.no_grad(): assert torch.allclose(tp.window_tokens(model.visual, batch)[0][:, 0], model.encode_image((batch.pictures - mean) / std, normalize=True), atol=1e-4)


@pytest.fixture
def one_thread():
    "Sums of gradients are taken in a fixed order on one thread alone; on several the last digit may differ."
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


def test_a_few_steps_lower_every_loss_and_go_the_same_way_twice(tmp_path, twins, one_thread):
    runs = []
    for name in ("a", "b"):
        (tmp_path / name / "twins-8-0").mkdir(parents=True)
        (tmp_path / name / "twins-8-0" / "000.npz").hardlink_to(twins / "000.npz")
        runs.append(tp.train_tiny_clip(tmp_path / name, TINY_PLAN))
    (model, curves), (other, again) = runs
    assert curves == again and all(torch.equal(v, other.state_dict()[n]) for n, v in model.state_dict().items())
    assert {name: len(curve) for name, curve in curves.items()} == {"pictures 1": 8, "words": 4, "together 1": 4}
    for curve in curves.values(): assert np.mean(curve[-2:]) < np.mean(curve[:2])
    resumed, nothing = tp.train_tiny_clip(tmp_path / "a", TINY_PLAN)  # all rounds are done: nothing is computed again
    assert all(torch.equal(v, resumed.state_dict()[n]) for n, v in model.state_dict().items()) and not any(nothing.values())
