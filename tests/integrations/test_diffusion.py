"""`la.diffusion`: noise and timesteps belong to the examples, so the loss is a function."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import lossatlas as la
from lossatlas.errors import ArgumentError, DataError, UnknownNameError


class Scheduler:
    """The part of DDPMScheduler that is asked for."""

    def __init__(self, prediction="epsilon"):
        self.config = SimpleNamespace(num_train_timesteps=40, prediction_type=prediction)
        self.alphas_cumprod = torch.linspace(0.99, 0.01, 40)

    def _shares(self, x, steps):
        alpha = self.alphas_cumprod[steps].to(x).view(-1, *[1] * (x.ndim - 1))
        return alpha.sqrt(), (1 - alpha).sqrt()

    def add_noise(self, x, noise, steps):
        keep, lose = self._shares(x, steps)
        return keep * x + lose * noise

    def get_velocity(self, x, noise, steps):
        keep, lose = self._shares(x, steps)
        return keep * noise - lose * x


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.time = nn.Conv2d(1, 1, 3, padding=1), nn.Embedding(40, 1)
        self.kind = nn.Embedding(3, 1)

    def forward(self, x, steps, class_labels=None):
        shift = self.time(steps)
        if class_labels is not None:
            shift = shift + self.kind(class_labels)
        return (self.net(x) + shift[:, :, None, None],)


IMAGES = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def objective(batches, *, scheduler=None, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Denoiser()
    loss = la.diffusion(model, scheduler or Scheduler(), **options)
    return la.Objective(model, loss, batches)


def test_the_loss_is_a_fixed_function_however_the_data_are_dealt():
    whole = objective([IMAGES]).example_losses()
    assert torch.equal(whole, objective([(IMAGES,)]).example_losses())
    split = objective([IMAGES[4:], IMAGES[:1], IMAGES[1:4]]).example_losses()
    torch.testing.assert_close(split, whole[[4, 5, 0, 1, 2, 3]], rtol=1e-6, atol=1e-7)
    other = objective([IMAGES], seed=1).example_losses()
    assert (whole != other).all()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_target_is_what_the_scheduler_says(prediction):
    scheduler = Scheduler(prediction)
    made = objective([IMAGES], scheduler=scheduler, draws=3)
    by_hand = []
    for image in IMAGES:
        noises, steps = made.loss._drawn(image)
        errors = []
        for noise, step in zip(noises.float(), steps, strict=True):
            alpha = scheduler.alphas_cumprod[step]
            noisy = alpha.sqrt() * image + (1 - alpha).sqrt() * noise
            goal = {
                "epsilon": noise,
                "sample": image,
                "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * image,
            }[prediction]
            guessed = made.model(noisy[None], torch.tensor([step]))[0][0]
            errors.append((guessed - goal).square().mean())
        by_hand.append(torch.stack(errors).mean())
    expected = torch.stack(by_hand).detach().double()
    torch.testing.assert_close(made.example_losses(), expected, rtol=1e-5, atol=1e-6)
    same = objective([IMAGES], draws=3, prediction=prediction)
    torch.testing.assert_close(same.example_losses(), made.example_losses())


def test_draws_take_their_timesteps_from_equal_parts():
    loss = la.diffusion(Denoiser(), Scheduler(), draws=4)
    for image in IMAGES:
        noise, steps = loss._drawn(image)
        assert [step // 10 for step in steps] == [0, 1, 2, 3]
        assert noise.shape == (4, 1, 4, 4)


def test_conditions_go_to_the_model_by_name():
    labels = torch.arange(6) % 3
    plain = objective([{"images": IMAGES}]).example_losses()
    made = objective([{"images": IMAGES, "class_labels": labels}])
    assert (made.example_losses() != plain).all()
    assert made.gradient()["kind.weight"].abs().sum() > 0


def test_what_cannot_be_served_is_named():
    with pytest.raises(ArgumentError, match=r"`unet` must be a torch\.nn\.Module"):
        la.diffusion(lambda x: x, Scheduler())
    with pytest.raises(ArgumentError, match=r"add_noise .*write loss"):
        la.diffusion(Denoiser(), SimpleNamespace())
    with pytest.raises(ArgumentError, match="draws"):
        la.diffusion(Denoiser(), Scheduler(), draws=0)
    with pytest.raises(UnknownNameError, match="prediction"):
        la.diffusion(Denoiser(), Scheduler(), prediction="noise")
    with pytest.raises(DataError, match="'class_labels': y"):
        objective([(IMAGES, torch.zeros(6))])


def test_the_real_scheduler_agrees():
    diffusers = pytest.importorskip("diffusers")
    for prediction in ("epsilon", "v_prediction", "sample"):
        real = diffusers.DDPMScheduler(num_train_timesteps=40, prediction_type=prediction)
        twin = Scheduler(prediction)
        twin.alphas_cumprod = real.alphas_cumprod
        torch.testing.assert_close(
            objective([IMAGES], scheduler=real).example_losses(),
            objective([IMAGES], scheduler=twin).example_losses(),
            rtol=1e-5,
            atol=1e-6,
        )
