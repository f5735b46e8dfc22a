"""The denoising loss of a diffusion model, with noise that belongs to the examples."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.arguments import public
from lossatlas.checks import check_at_least, check_one_of
from lossatlas.errors import ArgumentError, DataError
from lossatlas.rng import generator

_TARGETS = ("epsilon", "v_prediction", "sample")
_IMAGES = ("images", "pixel_values", "latents", "sample")


class DiffusionLoss:
    """What `diffusion` makes; see there.

    Args:
        scheduler: adds noise.
        target: what the network predicts.
        draws: of noise and timestep an example.
        seed: of the draws.
    """

    def __init__(self, scheduler: Any, target: str, draws: int, seed: int) -> None:
        self.scheduler, self.target = scheduler, target
        self.draws, self.seed = draws, seed
        self.steps = int(scheduler.config.num_train_timesteps)

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The denoising error of every example.

        Args:
            model: called as model(noisy, timestep, **conditions).
            batch: images, (images,) or a mapping with images and conditions.

        Returns:
            Shape (batch,): squared errors averaged over pixels and draws.

        Raises:
            DataError: a batch of another form.
        """
        images, conditions = _parts(batch)
        total = torch.zeros(len(images), dtype=images.dtype, device=images.device)
        drawn = [self._drawn(image) for image in images]
        for index in range(self.draws):
            noise = torch.stack([each[0][index] for each in drawn]).to(images)
            steps = torch.tensor([each[1][index] for each in drawn], device=images.device)
            total = total + self._error(model, images, noise, steps, conditions)
        return total / self.draws

    def _error(
        self,
        model: nn.Module,
        images: Tensor,
        noise: Tensor,
        steps: Tensor,
        conditions: Mapping[str, Any],
    ) -> Tensor:
        noisy = self.scheduler.add_noise(images, noise, steps)
        if self.target == "v_prediction":
            wanted = self.scheduler.get_velocity(images, noise, steps)
        else:
            wanted = noise if self.target == "epsilon" else images
        output = model(noisy, steps, **conditions)
        guessed = output if isinstance(output, Tensor) else output[0]
        losses: Tensor = (guessed - wanted).square().flatten(1).mean(1)
        return losses

    def _drawn(self, image: Tensor) -> tuple[Tensor, list[int]]:
        # By content, so that an example keeps its draws however the data are dealt to batches.
        values = image.detach().to("cpu", torch.float64).contiguous().numpy()
        name = hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest()
        draw = generator(self.seed, "diffusion", name)
        noise = torch.randn((self.draws, *image.shape), generator=draw, dtype=torch.float64)
        # One timestep in each of `draws` equal parts: a uniform draw with less scatter.
        place = (torch.arange(self.draws) + torch.rand(self.draws, generator=draw)) / self.draws
        return noise, (place * self.steps).long().clamp(max=self.steps - 1).tolist()


@public
def diffusion(
    unet: nn.Module,
    scheduler: Any,
    *,
    draws: int = 1,
    seed: int = 0,
    prediction: str | None = None,
) -> DiffusionLoss:
    """The denoising loss of a diffusion model as a fixed function of its weights.

    For an image x the loss is the mean over pixels and draws of `(f(x_t, t) - target)^2`, with
    x_t = sqrt(a_t) x + sqrt(1 - a_t) noise. Noise and timestep are drawn from the seed and the
    content of the example, so that an example keeps them however the data are dealt to
    batches; the draws of one example take their timesteps from equal parts of the range.

    Args:
        unet: called as unet(noisy, timesteps, **conditions); gives a tensor, or what has it
            first, as models of diffusers do.
        scheduler: of diffusers (DDPM, DDIM, ...): `add_noise`, `get_velocity`, `config`.
        draws: of noise and timestep an example. Default 1.
        seed: of the draws. Default 0.
        prediction: "epsilon" (target: the noise), "v_prediction" or "sample" (the image).
            Default: what `scheduler.config` says.

    Returns:
        A loss(model, batch) with one number an example. Batches are tensors of images (or
        latents), a tuple with one, or mappings with "images", "pixel_values", "latents" or
        "sample"; further entries go to the model by name, as `class_labels` and
        `encoder_hidden_states`.

    Raises:
        ArgumentError: a scheduler without `add_noise`, no module, or fewer than one draw.
        UnknownNameError: another prediction.

    Examples:
        loss = la.diffusion(unet, DDPMScheduler(), draws=4)
        objective = la.Objective(unet, loss, [{"images": images, "class_labels": labels}])

    Source: Ho et al., NeurIPS 2020, arXiv:2006.11239; Salimans and Ho, ICLR 2022,
        arXiv:2202.00512 (v).
    """
    if not isinstance(unet, nn.Module):
        kind = type(unet).__name__
        raise ArgumentError(f"`unet` must be a torch.nn.Module; got {kind}.")
    config = getattr(scheduler, "config", None)
    if not hasattr(scheduler, "add_noise") or not hasattr(config, "num_train_timesteps"):
        raise ArgumentError(
            "`scheduler` must have add_noise and config.num_train_timesteps, as DDPMScheduler "
            f"has; got {type(scheduler).__name__}: for another process write loss(model, "
            "batch)."
        )
    check_at_least("draws", draws, 1)
    target = prediction or str(getattr(config, "prediction_type", "epsilon"))
    check_one_of("prediction", target, _TARGETS)
    return DiffusionLoss(scheduler, target, draws, seed)


def _parts(batch: Any) -> tuple[Tensor, Mapping[str, Any]]:
    if isinstance(batch, list | tuple) and len(batch) == 1:
        batch = batch[0]
    if isinstance(batch, Tensor):
        return batch, {}
    if isinstance(batch, Mapping):
        for name in _IMAGES:
            if isinstance(batch.get(name), Tensor):
                return batch[name], {k: v for k, v in batch.items() if k != name}
    raise DataError(
        "`diffusion` takes batches that are images, (images,) or a mapping with 'images' and "
        f"the model's conditions by name; got {type(batch).__name__}: name what it holds, as "
        "in "
        "{'images': x, 'class_labels': y}."
    )
