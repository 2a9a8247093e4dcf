import pytest
import torch

from common.models.pooling import AttentionHead, RecurrentHead

HEADS = [AttentionHead, RecurrentHead]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("head", HEADS)
def test_a_patient_is_decided_by_its_own_views_alone(head):
    model, views = head(6, 3).double(), torch.randn(4, 5, 6, dtype=torch.float64)
    together = model(views)
    assert together.shape == (5, 3)
    for patient in range(5):
        assert torch.allclose(together[patient], model(views[:, patient : patient + 1])[0])


@pytest.mark.parametrize("head", HEADS)
def test_rows_without_views_are_patients_of_one_view(head):
    model, rows = head(6, 3), torch.randn(5, 6)
    assert torch.equal(model(rows), model(rows[None]))


def test_attention_is_the_mean_weighed_by_the_exponentials_of_the_scores():
    model, views = AttentionHead(6, 3), torch.randn(4, 1, 6)
    scores = [model.score(torch.tanh(model.hidden(view[0]))).item() for view in views]
    weights = torch.tensor(scores).exp()
    mixed = sum(w * view[0] for w, view in zip(weights / weights.sum(), views, strict=True))
    assert torch.allclose(model(views)[0], model.classify(mixed), atol=1e-6)


def test_attention_does_not_care_for_the_order_of_views_and_a_gru_does():
    views = torch.randn(4, 2, 6)
    attention, recurrent = AttentionHead(6, 3), RecurrentHead(6, 3)
    assert torch.allclose(attention(views), attention(views.flip(0)), atol=1e-6)
    assert not torch.allclose(recurrent(views), recurrent(views.flip(0)), atol=1e-3)


def test_a_gru_is_its_equations():
    """Cho et al. 2014, as torch numbers the gates: reset, update, new."""
    model, views = RecurrentHead(6, 3).double(), torch.randn(4, 1, 6, dtype=torch.float64)
    gru, state = model.read, torch.zeros(model.read.hidden_size, dtype=torch.float64)
    for view in views:
        r, z, n = (gru.weight_ih_l0 @ view[0] + gru.bias_ih_l0).chunk(3)
        hr, hz, hn = (gru.weight_hh_l0 @ state + gru.bias_hh_l0).chunk(3)
        update = torch.sigmoid(z + hz)
        state = (1 - update) * torch.tanh(n + torch.sigmoid(r + hr) * hn) + update * state
    assert torch.allclose(model(views)[0], model.classify(state))
