"""Residual networks for small pictures: 6n + 2 layers in three stages, no projections."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

_WIDTHS = (16, 32, 64)


class ResNet(nn.Module):
    """A residual network of the CIFAR family, with the parameter names of common checkpoints.

    Args:
        blocks: residual blocks in each of the three stages: 3 gives ResNet-20, 9 ResNet-56.
        channels: image channels.
        outputs: number of classes.

    Source: He et al., CVPR 2016, sec. 4.2, shortcut A, arXiv:1512.03385.
    """

    def __init__(self, blocks: int, *, channels: int = 3, outputs: int = 10) -> None:
        super().__init__()
        self.conv1 = _conv(channels, _WIDTHS[0], 1)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.layer1 = _stage(_WIDTHS[0], _WIDTHS[0], blocks, 1)
        self.layer2 = _stage(_WIDTHS[0], _WIDTHS[1], blocks, 2)
        self.layer3 = _stage(_WIDTHS[1], _WIDTHS[2], blocks, 2)
        self.linear = nn.Linear(_WIDTHS[2], outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return cast(Tensor, self.linear(x.mean((2, 3))))


class BasicBlock(nn.Module):
    """Two convolutions with a shortcut that has no parameters.

    If the size changes, the shortcut takes every second pixel and pads the channels with zeros,
    half of them on each side.

    Args:
        inputs: input channels.
        outputs: output channels.
        stride: stride of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs, 1), nn.BatchNorm2d(outputs)
        self.stride, self.fill = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and not self.fill:
            return x
        thinned = x[:, :, :: self.stride, :: self.stride]
        return F.pad(thinned, (0, 0, 0, 0, self.fill, self.fill))


def resnet20(*, channels: int = 3, outputs: int = 10) -> ResNet:
    """ResNet-20, 272 thousand parameters on CIFAR-10."""
    return ResNet(3, channels=channels, outputs=outputs)


def resnet56(*, channels: int = 3, outputs: int = 10) -> ResNet:
    """ResNet-56, 856 thousand parameters on CIFAR-10."""
    return ResNet(9, channels=channels, outputs=outputs)


def _conv(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)
