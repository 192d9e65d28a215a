"""Alignment: the weights against the whole table, the loss by hand, the mappers, and what is refused."""
import pytest
import torch
import torch.nn.functional as F

from mmad_nb.core.runtime import DataError
from mmad_nb.mapping.alignment import Aligner, alignment_loss, patch_weights


def unit(*shape, seed=0): return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("direction, sign", [("agree", 1), ("differ", -1)])
def test_weights_are_those_of_the_whole_table(direction, sign):
    render, colored = unit(3, 5, 4, 2), unit(3, 5, 4, 2, seed=1)
    for v in range(3):
        r, p = render[v].flatten(1).T, colored[v].flatten(1).T
        wanted = 1 + .7 * torch.sigmoid(sign * (r @ p.T).mean(1))
        assert torch.allclose(patch_weights(render, colored, .7, direction)[v].flatten(), wanted, atol=1e-6)
    assert patch_weights(render, colored, 0.).eq(1).all()


def test_loss_by_hand():
    image, patches = unit(2, 5), unit(2, 5, 3, 3)
    moved = unit(2, 5, seed=2), unit(2, 5, 3, 3, seed=3)
    weights = torch.rand(2, 3, 3)
    whole = sum(1 - float(moved[0][v] @ image[v]) for v in range(2)) / 2
    parts = [float(weights[v, i, j]) * (1 - float(moved[1][v, :, i, j] @ patches[v, :, i, j])) for v in range(2) for i in range(3) for j in range(3)]
    assert alignment_loss(moved, image, patches, weights).item() == pytest.approx(whole + sum(parts) / 18, rel=1e-5)
    assert alignment_loss((image, patches), image, patches, weights).item() == pytest.approx(0, abs=1e-6)


def test_the_aligner_moves_each_vector_alone_and_can_learn():
    aligner = Aligner(5, seed=3)
    image, patches = unit(4, 5), unit(4, 5, 2, 2)
    a, b = aligner(image, patches)
    assert torch.allclose(a.norm(dim=1), torch.ones(4)) and torch.allclose(b.norm(dim=1), torch.ones(4, 2, 2))
    assert torch.allclose(aligner(image[2:3], patches[2:3])[1], b[2:3], atol=1e-6)
    assert torch.allclose(F.normalize(aligner.patch(patches[1, :, 0, 1]), dim=0), b[1, :, 0, 1], atol=1e-6)
    assert all(torch.equal(p, q) for p, q in zip(aligner.parameters(), Aligner(5, seed=3).parameters()))
    target, optimizer = (unit(4, 5, seed=9), unit(4, 5, 2, 2, seed=8)), torch.optim.Adam(aligner.parameters(), 1e-2)
    first = None
    for _ in range(200):
        loss = alignment_loss(aligner(image, patches), *target)
        first = first or loss.item()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    assert loss.item() < .7 * first


def test_refusals():
    for wrong in (dict(strength=-1.), dict(strength=float("nan")), dict(direction="agreed")):
        with pytest.raises(DataError): patch_weights(unit(1, 5, 2, 2), unit(1, 5, 2, 2), **wrong)
