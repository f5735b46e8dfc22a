"""The network of topoadamw 0.1.0 that learns the labels of its table."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.checks import check_at_least
from lossatlas.training.seeding import seeded

FLAT, NEUTRAL, DECEL = 0, 1, 2
LR_FACTORS = {FLAT: 1.15, NEUTRAL: 1.0, DECEL: 0.85}


class TopoCNN(nn.Module):
    """Three classes from a persistence image of two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()
        )
        self.head = nn.Linear(16, len(LR_FACTORS))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the three classes.

        Args:
            x: shape (batch, 2, height, width).

        Returns:
            Shape (batch, 3).
        """
        hidden: Tensor = self.features(x)
        logits: Tensor = self.head(hidden.mean((2, 3)))
        return logits


class TopoCNNTrainer:
    """Keeps images with the labels of the table, and trains a `TopoCNN` on them.

    Args:
        min_samples: images before the first training. Default 100.
        retrain_every: new images before the next one. Default 25.
        train_epochs: steps of Adam on all images. Default 20.
        buffer_capacity: images that are kept, the latest ones. Default 500.
        device: where to train. Default the CPU.
        verbose: accepted; nothing is printed.
        seed: of the initial weights.

    Attributes:
        is_ready: whether the network was trained.
    """

    def __init__(
        self,
        min_samples: int = 100,
        retrain_every: int = 25,
        train_epochs: int = 20,
        buffer_capacity: int = 500,
        device: torch.device | str = "cpu",
        verbose: bool = False,
        seed: int = 0,
    ) -> None:
        check_at_least("min_samples", min_samples, 1)
        check_at_least("retrain_every", retrain_every, 1)
        check_at_least("buffer_capacity", buffer_capacity, 1)
        self.min_samples, self.retrain_every = min_samples, retrain_every
        self.train_epochs, self.buffer_capacity = train_epochs, buffer_capacity
        self.device, self.verbose, self.is_ready = device, verbose, False
        with seeded(seed, "topocnn"):
            self.model = TopoCNN().to(device)
        self._imgs: list[Tensor] = []
        self._labels: list[int] = []
        self._new = 0

    @staticmethod
    def heuristic_label(sharpness: float, variance: float) -> int:
        """The class of the table.

        Args:
            sharpness: relative rise of the neighbors.
            variance: relative deviation of all probed losses.

        Returns:
            FLAT, NEUTRAL or DECEL.
        """
        if sharpness < 0.1 and variance < 0.3:
            return FLAT
        return DECEL if sharpness > 0.2 or variance > 0.5 else NEUTRAL

    def add_sample(self, persistence_img: Tensor, sharpness: float, variance: float) -> None:
        """Keep an image with its label; train where it is time.

        Args:
            persistence_img: shape (2, height, width).
            sharpness: for the label.
            variance: for the label.
        """
        self._imgs = [*self._imgs, persistence_img.detach().to(self.device)]
        self._imgs = self._imgs[-self.buffer_capacity :]
        label = self.heuristic_label(sharpness, variance)
        self._labels = [*self._labels, label][-self.buffer_capacity :]
        self._new += 1
        wanted = self.retrain_every if self.is_ready else 1
        if len(self._imgs) >= self.min_samples and self._new >= wanted:
            self._train()

    def predict_factor(self, persistence_img: Tensor) -> float | None:
        """The factor of the class that the network sees.

        Args:
            persistence_img: shape (2, height, width).

        Returns:
            One of `LR_FACTORS`; None before the first training.
        """
        if not self.is_ready:
            return None
        with torch.no_grad():
            logits = self.model(persistence_img.to(self.device)[None])
        return LR_FACTORS[int(logits.argmax())]

    def _train(self) -> None:
        images, labels = torch.stack(self._imgs), torch.tensor(self._labels, device=self.device)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, weight_decay=1e-4)
        with torch.enable_grad():
            for _ in range(self.train_epochs):
                optimizer.zero_grad()
                torch.autograd.backward(F.cross_entropy(self.model(images), labels))
                optimizer.step()
        self.is_ready, self._new = True, 0
