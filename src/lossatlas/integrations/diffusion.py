"""The denoising loss of a diffusion model, with fixed noise per example."""

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
    """The loss returned by `diffusion`.

    Args:
        scheduler: scheduler that adds noise.
        target: prediction target of the network.
        draws: number of draws of noise and timestep per example.
        seed: random seed of the draws.
    """

    def __init__(self, scheduler: Any, target: str, draws: int, seed: int) -> None:
        self.scheduler, self.target = scheduler, target
        self.draws, self.seed = draws, seed
        self.steps = int(scheduler.config.num_train_timesteps)

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The denoising error of every example.

        Args:
            model: network called as model(noisy, timestep, **conditions).
            batch: images, (images,) or a mapping with images and conditions.

        Returns:
            Shape (batch,): squared errors averaged over pixels and draws.

        Raises:
            DataError: the batch has another form.
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
    """Denoising loss of a diffusion model as a deterministic function of its weights.

    For an image x the loss is the mean over pixels and draws of `(f(x_t, t) - target)^2`, with
    x_t = sqrt(a_t) x + sqrt(1 - a_t) noise. Noise and timestep depend only on the seed and the
    content of the example, so they do not depend on how the data are split into batches. The
    timesteps of one example are stratified over the range.

    Args:
        unet: network called as unet(noisy, timesteps, **conditions); returns a tensor, or an
            output with the tensor first, as models of diffusers do.
        scheduler: scheduler of diffusers (DDPM, DDIM, ...) with `add_noise`, `get_velocity`,
            `config`.
        draws: number of draws of noise and timestep per example. Default 1.
        seed: random seed of the draws. Default 0.
        prediction: "epsilon" (target: the noise), "v_prediction" or "sample" (the image).
            Default: the value in `scheduler.config`.

    Returns:
        A loss(model, batch) with one number per example. Batches are tensors of images (or
        latents), a tuple with one, or mappings with "images", "pixel_values", "latents" or
        "sample"; other entries, such as `class_labels` and `encoder_hidden_states`, are passed
        to the model by name.

    Raises:
        ArgumentError: `scheduler` has no `add_noise`, `unet` is not a module, or `draws` is
            below 1.
        UnknownNameError: the prediction is unknown.

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
