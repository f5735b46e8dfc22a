"""What kernels hold where tensors without numbers go another way: convolutions, attention."""

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lossatlas.guard import patched

_ATEN = torch.ops.aten
# oneDNN reads images in blocks of so many channels, and images of fewer than four as they are.
_BLOCK, _AS_IT_IS = 16, 4
_ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


def workspace(func: Any, args: tuple[Any, ...], output: Any) -> int:
    """Bytes that an operation holds for a moment beyond what it returns; 0 where unknown."""
    # Convolutions of float32 and narrower types copy images into blocks of channels (oneDNN),
    # those of float64 write every patch out. What a GPU's library takes is its own choice.
    if func is _ATEN.convolution.default:
        images, weight = args[:2]
        if not _by_blocks(images):
            return _patches(images, weight, output)
        read, made = _blocks(images), _blocks(output)
        return int(max(read + made - output.nbytes, made))
    if func is _ATEN.convolution_backward.default:
        slope, images, weight = args[:3]
        if not _by_blocks(images):
            return _patches(images, weight, slope)
        return _blocks(slope) + _blocks(images)
    return 0


def _by_blocks(images: Tensor) -> bool:
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available) and images.dtype.itemsize <= 4


def _blocks(images: Tensor) -> int:
    channels = images.shape[1]
    if channels < _AS_IT_IS:
        return 0
    return images.nbytes // channels * (-(-channels // _BLOCK) * _BLOCK)


def _patches(images: Tensor, weight: Tensor, made: Tensor) -> int:
    # One row for every place of the result.
    places = len(made) * math.prod(made.shape[2:])
    return int(places * weight[0].numel() * images.element_size())


def fused_attention() -> AbstractContextManager[None]:
    """Take attention on tensors without numbers as fused kernels take it."""
    # By themselves such tensors go the way that writes out the scores of all pairs of tokens.
    whole = F.scaled_dot_product_attention

    def attention(*args: Any, **options: Any) -> Tensor:
        named = dict(zip(_ATTENTION, args, strict=False)) | options
        return _fused(**named) if _is_fused(**named) else whole(*args, **options)

    return patched((F, "scaled_dot_product_attention", attention))


def _is_fused(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any
) -> bool:
    learned = attn_mask is not None and attn_mask.requires_grad
    same = query.shape[-1] == key.shape[-1] == value.shape[-1] and query.ndim == 4
    plain = not (learned or options.get("dropout_p") or options.get("enable_gqa"))
    enabled = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
    return same and plain and bool(enabled)


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    **_: Any,
) -> Tensor:
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.empty_like(attn_mask, dtype=query.dtype)
    output: Tensor = _ATEN._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=attn_mask
    )[0]
    return output
