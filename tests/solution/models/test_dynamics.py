"""The set transformer: symmetries, the first loss, and that it can learn."""

import torch

from solution.forecast import Forecast
from solution.losses import forecast_loss
from solution.models.dynamics import Dynamics


def inputs(batch=3, objects=5, modes=4, horizon=6):
    torch.manual_seed(0)
    return {
        "features": torch.randn(batch, objects, 20),
        "pairs": torch.randn(batch, objects, objects, 7),
        "present": torch.arange(objects) < torch.tensor([[5], [3], [1]]),
        "modes": torch.randn(batch, objects, modes, 9),
        "anchor": torch.randn(batch, objects, modes, horizon, 2),
        "facing": torch.randn(batch, objects, modes, 2),
    }


def network():
    torch.manual_seed(1)
    return Dynamics(20, 7, 9, 6, width=64, layers=2)


def test_permuting_objects_permutes_forecasts():
    model, tensors = network().eval(), inputs()
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = {name: tensor[:, order] for name, tensor in tensors.items()}
    permuted["pairs"] = permuted["pairs"][:, :, order]
    for name in ("logits", "mean", "scale", "turn", "visible"):
        straight, crossed = getattr(model(**tensors), name)[:, order], getattr(model(**permuted), name)
        assert torch.allclose(straight, crossed, atol=1e-5), name


def test_absent_objects_change_nothing_for_the_others():
    model, tensors = network().eval(), inputs()
    before = model(**tensors).mean
    tensors["features"] = torch.where(tensors["present"][..., None], tensors["features"], 100.0)
    assert torch.allclose(model(**tensors).mean[tensors["present"]], before[tensors["present"]], atol=1e-5)


def test_modes_are_a_set_and_the_first_forecast_is_near_the_anchor():
    model, tensors = network().eval(), inputs()
    forecast = model(**tensors)
    assert (forecast.mean - tensors["anchor"]).abs().max() < 0.3
    order = torch.tensor([2, 0, 3, 1])
    crossed = model(**(tensors | {name: tensors[name][:, :, order] for name in ("modes", "anchor", "facing")}))
    assert torch.allclose(forecast.mean[:, :, order], crossed.mean, atol=1e-5)


def one_mode(mean, scale, modes=1):
    frames = mean.shape[-2]
    return Forecast(
        torch.zeros(1, 1, modes),
        mean.expand(1, 1, modes, frames, 2),
        torch.full((1, 1, modes, frames), scale),
        torch.zeros(1, 1, modes, 2),
        torch.zeros(1, 1),
    )


def test_loss_is_the_laplace_likelihood_and_equal_modes_equal_one():
    truth, seen = torch.zeros(1, 1, 3, 2), torch.ones(1, 1, 3, dtype=torch.bool)
    rest = torch.full((1, 1), torch.nan), torch.ones(1, 1, dtype=torch.bool)
    mean = torch.full((1, 1, 1, 3, 2), 0.1)
    single = forecast_loss(one_mode(mean, 0.2), truth, seen, *rest)
    expected = 2 * (0.1 / 0.2) + 2 * torch.tensor(2 * 0.2).log()
    assert torch.allclose(single["path"], expected, atol=1e-5)
    assert torch.allclose(single["leaves"], torch.tensor(2.0).log(), atol=1e-5)
    assert torch.allclose(forecast_loss(one_mode(mean, 0.2, 4), truth, seen, *rest)["path"], expected, atol=1e-5)
    hidden = forecast_loss(
        one_mode(mean, 0.2), truth + torch.tensor([0.0, 9.0, 0.0])[:, None], seen & (truth[..., 0] > 1), *rest
    )
    assert hidden["path"] == 0


def test_one_batch_can_be_learned_by_heart():
    model, tensors = network(), inputs()
    truth = tensors["anchor"][:, :, 0] + 0.3
    seen = tensors["present"][..., None].expand(-1, -1, 6)
    yaw = torch.rand(3, 5)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(150):
        values = forecast_loss(model(**tensors), truth, seen, yaw, tensors["present"])
        values["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(values["loss"].detach()))
    assert losses[-1] < losses[0] - 3 and float(values["miss"]) < 0.1
