"""The text-guided detector on miniature encoders: every option trains, saves and loads; words change what they should and nothing else."""
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_detectors_cfm import capture, miniature, same_weights, trained_by_two

from mmad_nb.core.runtime import DataError
from mmad_nb.detectors import create_detector, load_detector
from mmad_nb.detectors import text_guided as module
from mmad_nb.detectors.frozen import take_note


class Words:
    "A text tower of sorts: each sentence has a random unit vector of its own."
    def encode_text(self, texts):
        draw = lambda text: torch.randn(16, generator=torch.Generator().manual_seed(sum(text.encode())))
        return F.normalize(torch.stack([draw(text) for text in texts]), dim=-1)


def encoders(): return (*miniature(), Words())


def detector(**options):
    return create_detector("text_guided", encoders(), "cpu",
                           **{"epochs": 3, "pixels": 100, "batch_size": 2, "group_size": 8, **options})


GOOD = [replace(capture(seed), category=("disc", "cable_gland")[seed % 2]) for seed in range(6)]
TESTS = [replace(capture(10), category="disc"), replace(capture(11, "stain"), category="cable_gland")]


@pytest.fixture(scope="module")
def fitted(): return detector().fit(GOOD)


def test_words_cannot_change_the_crossmodal_maps(fitted):
    "The two losses share no learned number, so OCTA on or off trains the same mappers."
    without = detector(octa=False).fit(GOOD)
    for name in ("rgb", "xyz"): assert torch.allclose(fitted.components(TESTS)[name], without.components(TESTS)[name], atol=1e-5)
    assert "text" not in without.components(TESTS)


def test_all_off_is_cfm(fitted):
    plain = detector(octa=False, gacm=False, blocks=12).fit(GOOD)
    cfm = create_detector("cfm", miniature(), "cpu", epochs=3, pixels=100, batch_size=2, group_size=8).fit(GOOD)
    assert torch.allclose(plain.fuse(plain.components(TESTS)), cfm.fuse(cfm.components(TESTS)), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"prompts": "cpe"}, {"prompts": "apg", "psi_text": "probability"}, {"octa": False},
                                     {"gacm": False}, {"balance": True}], ids=str)
def test_save_and_load(tmp_path, options):
    first = detector(epochs=1, **options).fit(GOOD)
    first.save(tmp_path / "saved")
    again = load_detector(tmp_path / "saved", device="cpu", encoders=(*miniature(), None if "octa" in options else Words()))
    parts, same = first.components(TESTS), again.components(TESTS)
    assert all(torch.allclose(parts[name], same[name], atol=1e-6) for name in parts)
    assert torch.allclose(first.fuse(parts), again.fuse(same), atol=1e-6)
    assert torch.isfinite(first.fuse(parts)).all()


def test_a_loaded_detector_needs_no_text_tower_for_known_categories(tmp_path, fitted):
    fitted.save(tmp_path / "saved")

    class Silent:
        def encode_text(self, texts): raise AssertionError(texts)

    again = load_detector(tmp_path / "saved", device="cpu", encoders=(*miniature(), Silent()))
    again.components(TESTS)
    with pytest.raises(AssertionError, match="a photo of a vial."):
        again.components([replace(TESTS[0], category="vial")])


def test_another_text_encoder_by_name(tmp_path, monkeypatch):
    "It replaces the pair's own, its vectors are kept with the detector, and it is not asked again for known categories."
    from mmad_nb.prompts import states
    made = []

    class Others(Words):
        def __init__(self, name): made.append(name)
        def encode_text(self, texts): return F.normalize(super().encode_text(texts)[:, :12].flip(1), dim=-1)

    states.text_tower.cache_clear()
    monkeypatch.setattr(states, "create_encoder", lambda name, device: Others(name))
    own = detector(epochs=1).fit(GOOD)
    other = create_detector("text_guided", miniature(), "cpu", epochs=1, pixels=100, batch_size=2, group_size=8, words="all-MiniLM-L6-v2").fit(GOOD)
    assert made == ["all-MiniLM-L6-v2"] and other.text["disc"].normal.shape[-1] == 12 and own.text["disc"].normal.shape[-1] == 16
    other.save(tmp_path / "saved")
    states.text_tower.cache_clear()
    again = load_detector(tmp_path / "saved", device="cpu", encoders=miniature())
    assert torch.allclose(again.components(TESTS)["text"], other.components(TESTS)["text"], atol=1e-6) and len(made) == 1
    with pytest.raises(DataError, match="words"): detector(words="all-MiniLM")
    states.text_tower.cache_clear()


def test_fusion_is_equation_16_and_differentiable(fitted):
    plain = detector(blur=False)
    parts = fitted.components(TESTS)
    fused = plain.fuse(parts, alpha=.3, beta=.9)
    assert torch.allclose(fused, .3 * parts["rgb"] * parts["xyz"] + .9 * parts["text"])
    with pytest.raises(DataError, match="a number from 0 to 1"): plain.fuse(parts, beta=1.2)


def test_balance_makes_both_terms_one_on_good_samples(fitted):
    even = detector(balance=True, blur=False).fit(GOOD)
    parts = even.components(GOOD)
    for weights in ({"alpha": 1, "beta": 0}, {"alpha": 0, "beta": 1}):
        assert torch.isclose(even.fuse(parts, **weights)[parts.valid].mean(), torch.tensor(1.), atol=1e-4)
    assert torch.equal(fitted.scale, torch.ones(2))


@pytest.mark.parametrize("stop", [2, 5])
def test_interrupted_training_resumes_to_the_same_weights(tmp_path, monkeypatch, stop):
    "Dropout included: its random numbers depend on the step."
    whole, usual, calls = detector().fit(GOOD), module.prompt_loss, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == stop: raise KeyboardInterrupt
        return usual(*arguments)

    monkeypatch.setattr(module, "prompt_loss", stopping)
    with pytest.raises(KeyboardInterrupt): detector().fit(GOOD, checkpoint=tmp_path / "run.safetensors")
    monkeypatch.setattr(module, "prompt_loss", usual)
    again = detector().fit(GOOD, checkpoint=tmp_path / "run.safetensors")
    assert same_weights(whole, again) and again.curve == whole.curve


def test_a_step_with_an_infinite_gradient_changes_only_the_others(monkeypatch):
    learned, usual = detector(epochs=1, batch_size=6), module.prompt_loss

    def broken(mode, mappers, *rest):
        total, count = usual(mode, mappers, *rest)
        weight = mappers["rgb_to_xyz"].gate.weight
        return total + (weight * 0).abs().sqrt().sum(), count  # adds 0, with the slope 0 * inf

    monkeypatch.setattr(module, "prompt_loss", broken)
    fresh = detector(epochs=1)
    fresh.begin([take_note(sample, features) for sample, features in fresh.stream(GOOD)])
    learned.fit(GOOD)
    before, after = fresh.mappers.state_dict(), learned.mappers.state_dict()
    assert torch.equal(before["rgb_to_xyz.gate.weight"], after["rgb_to_xyz.gate.weight"])
    assert not torch.equal(before["rgb_to_xyz.semantic.weight"], after["rgb_to_xyz.semantic.weight"])


def test_one_model_for_each_category(tmp_path):
    each = detector(per_category=True).fit(GOOD)
    alone = detector().fit([sample for sample in GOOD if sample.category == "disc"])
    assert torch.allclose(each.components(TESTS)["text"][0], alone.components(TESTS[:1])["text"][0], atol=1e-6)
    each.save(tmp_path / "saved")
    again = load_detector(tmp_path / "saved", device="cpu", encoders=encoders())
    assert torch.allclose(again.components(TESTS)["text"], each.components(TESTS)["text"], atol=1e-6)


@pytest.mark.parametrize("change, message", [
    (dict(category=""), "a sample without category"), (dict(defect="stain"), "good samples only")])
def test_refused_samples(change, message):
    with pytest.raises(DataError, match=message): detector(epochs=1).fit([replace(GOOD[0], **change), *GOOD[1:]])


def test_two_processes_give_the_weights_of_one(tmp_path):
    two = load_detector(trained_by_two(tmp_path, "test_detectors_text_guided"), device="cpu", encoders=encoders())
    assert same_weights(detector(batch_size=3).fit(GOOD), two, tolerance=1e-4)


def test_the_lab_builds_itself(fitted):
    from mmad_nb.lab import AblationLab
    lab = AblationLab(fitted, TESTS)
    before = lab.result.metrics["pixel_auroc"]
    lab.set(alpha=0., beta=1.)
    alone = fitted.fuse(fitted.components(TESTS), alpha=0., beta=1.)
    assert lab.result.metrics["pixel_auroc"] != before
    assert torch.allclose(torch.as_tensor(lab.result.maps), alone)


def test_options_of_the_losses_reach_the_training(tmp_path, fitted):
    "Each changes what is learned, where it can; all are saved and loaded."
    parts = fitted.components(TESTS)
    words = detector(lambda_v2t=0.).fit(GOOD).components(TESTS)
    assert torch.allclose(words["rgb"], parts["rgb"], atol=1e-5) and not torch.allclose(words["text"], parts["text"], atol=1e-5)
    one_way = detector(lambda_v2g=0.).fit(GOOD).components(TESTS)                     # the mapper from colour to shape stays as it was drawn
    assert not torch.allclose(one_way["xyz"], parts["xyz"], atol=1e-3) and torch.allclose(one_way["text"], parts["text"], atol=1e-5)
    other_way = detector(lambda_g2v=0.).fit(GOOD).components(TESTS)
    assert not torch.allclose(other_way["rgb"], parts["rgb"], atol=1e-3) and torch.allclose(other_way["xyz"], parts["xyz"], atol=1e-5)
    plain = detector(prompts="cpe").fit(GOOD).components(TESTS)["text"]
    changed = [{"contrast": 5.}, {"temperature": 1.}, {"lambda_g2t": 0.}]
    for options in changed:
        assert not torch.allclose(detector(prompts="cpe", **options).fit(GOOD).components(TESTS)["text"], plain, atol=1e-5), options
    first = detector(prompts="cpe", psi_text="probability", temperature=.5, contrast=2, lambda_g2v=.3).fit(GOOD)
    first.save(tmp_path / "saved")
    again = load_detector(tmp_path / "saved", device="cpu", encoders=encoders())
    assert again.config() == first.config() and again.config()["temperature"] == .5
    assert torch.allclose(first.components(TESTS)["text"], again.components(TESTS)["text"], atol=1e-6)


def test_the_temperature_of_training_is_that_of_the_score():
    one = detector(prompts="cpe", psi_text="probability").fit(GOOD)
    before = one.components(TESTS)["text"]
    one.options["temperature"] = 5.
    valid = torch.from_numpy(TESTS[0].valid)
    after = one.components(TESTS)["text"][0][valid]
    assert (after - .25).abs().max() < (before[0][valid] - .25).abs().max()            # hotter: both factors nearer to one half


@pytest.mark.parametrize("options, words", [({"contrast": .5}, "no effect here"), ({"temperature": 1.}, "other prompts"), ({"octa": False, "lambda_v2t": 2.}, "octa=True"),
                                            ({"prompts": "cpe", "temperature": 0.}, "0.001"), ({"lambda_v2g": -1.}, "0 to 1000"), ({"prompts": "cpe", "contrast": "much"}, "number")], ids=str)
def test_options_of_the_losses_are_checked(options, words):
    with pytest.raises(DataError, match=words): detector(**options)
