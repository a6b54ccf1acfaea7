"""Episodes of one shape as a batch: `CompactNet` for all support sets of a training step at once.

A GPU is kept busy by large tensors, not by loops over episodes. The result is the same:
`tests/model/training/test_episode_batch.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fewscope.model.episodes.sampler import Episode
from fewscope.model.networks import readouts
from fewscope.model.networks.compact import ATTENTION, STRIDES, TEXTURE_SCALE, CompactNet, join
from fewscope.model.networks.pixel_classifier import (
    JITTER,
    LIMIT,
    QUICK_BATCH,
    QUICK_STEPS,
    TexturePack,
    fit_textures,
)
from fewscope.model.networks.texture_statistics import texture_statistics


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeBatch:
    """E episodes of K supports and Q queries each, as bytes.

    Attributes
    ----------
    images : Tensor
        (E, K + Q, 3, S, S) uint8, support first.
    masks : Tensor
        (E, K + Q, 1, S, S) uint8, 1 = object.
    labelled : Tensor
        (E, K, 1, S, S) uint8, 0 where the annotator left the support patch unlabelled.
    depths : Tensor
        (E, K + Q, 1, S, S) uint8, 255 in the middle of an object, 0 where depth is not known.
    has_depth : Tensor
        (E,) bool, whether depth is known.
    known : Tensor | None
        (E, Q, 1, S, S) uint8, 0 where a query is void; None without void.
    """

    images: Tensor
    masks: Tensor
    labelled: Tensor
    depths: Tensor
    has_depth: Tensor
    known: Tensor | None = None

    @property
    def shots(self) -> int:
        """K, the number of support pairs."""
        return self.labelled.shape[1]

    @staticmethod
    def of(episodes: Sequence[Episode]) -> EpisodeBatch:
        """Batch episodes of one shape."""
        depths = [torch.zeros_like(e.masks) if e.depths is None else e.depths for e in episodes]
        known = [torch.ones_like(e.masks[e.shots :]) if e.known is None else e.known for e in episodes]
        return EpisodeBatch(
            _bytes([e.images for e in episodes]),
            torch.stack([e.masks for e in episodes]).to(torch.uint8),
            torch.stack([e.labelled for e in episodes]).to(torch.uint8),
            _bytes(depths),
            torch.tensor([e.depths is not None for e in episodes]),
            None if all(e.known is None for e in episodes) else torch.stack(known).to(torch.uint8),
        )

    @staticmethod
    def grouped(episodes: Sequence[Episode]) -> list[EpisodeBatch]:
        """Batch episodes of any shapes, one batch per shape."""
        shapes: dict[tuple[int, int], list[Episode]] = {}
        for e in episodes:
            shapes.setdefault((e.shots, len(e.images)), []).append(e)
        return [EpisodeBatch.of(alike) for alike in shapes.values()]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> EpisodeBatch:
        """The same on another device."""
        if device.type == "cpu":
            return self
        parts = [self.images, self.masks, self.labelled, self.depths, self.has_depth]
        parts += [] if self.known is None else [self.known]
        return EpisodeBatch(*(t.pin_memory().to(device, non_blocking=True) for t in parts))

    def episodes(self) -> list[Episode]:
        """The episodes of the batch, as floats."""
        return [
            Episode(
                images.float() / 255,
                masks.float(),
                labelled.float(),
                depths.float() / 255 if has_depth else None,
                "",
                None if self.known is None else self.known[i].float(),
            )
            for i, (images, masks, labelled, depths, has_depth) in enumerate(
                zip(self.images, self.masks, self.labelled, self.depths, self.has_depth.tolist(), strict=True)
            )
        ]


def _bytes(maps: list[Tensor]) -> Tensor:
    return (torch.stack(maps) * 255).round().to(torch.uint8)


def predict_episodes(
    net: CompactNet, batch: EpisodeBatch, *, texture: TexturePack | None = None
) -> tuple[Tensor, dict[int, Tensor]]:
    """Logits of all queries, and scores of the ridge regressions.

    Parameters
    ----------
    texture : TexturePack | None
        Pixel classifiers of the episodes; None to fit them.

    Returns
    -------
    logits : (E * Q, 1 or 2, S, S), as `CompactNet.decode` returns them
    scores : {stride: (E * Q, 1, S / stride, S / stride)}
    """
    n, k = batch.images.shape[0], batch.shots
    images = batch.images.flatten(0, 1).float() / 255
    statistics = texture_statistics(images).unflatten(0, (n, -1))
    maps = net.encoder.forward_episodes(images.contiguous(memory_format=torch.channels_last), n, k)
    truth = batch.masks[:, :k].float()
    labelled = batch.labelled.float()
    sides = torch.cat([truth * labelled, (1 - truth) * labelled], dim=2)  # (E, K, 2, S, S)
    if texture is None:
        texture = fit_classifiers(images.unflatten(0, (n, -1))[:, :k], statistics[:, :k], sides)
    embedded = net.mask_encoder(sides.flatten(0, 1))
    texture_maps = _texture_logits(statistics[:, k:], texture).to(maps[2].dtype) / TEXTURE_SCALE
    matched, scores, query_maps = {}, {}, {}
    for i, s in enumerate(STRIDES):
        shares = F.avg_pool2d(sides.flatten(0, 1), s).unflatten(0, (n, k))
        fg, bg = (shares[:, :, side].flatten(1) for side in (0, 1))  # (E, P)
        supports, queries = (
            m.flatten(0, 1) for m in maps[s].unflatten(0, (n, -1)).split([k, len(maps[s]) // n - k], 1)
        )
        rows = _rows(supports, n)
        by_episode = queries.unflatten(0, (n, -1))
        ridge = readouts.class_ridge(rows, fg, bg, net.log_ridge[str(s)].exp())
        score = (
            torch.einsum("eqchw,ec->eqhw", by_episode.float(), ridge[:, :-1]) + ridge[:, -1, None, None, None]
        )
        scores[s] = score.flatten(0, 1)[:, None] * net.ridge_gain[i]
        means = readouts.prototypes(rows, fg, bg)  # (E, 2, C)
        unit = F.normalize(by_episode.float(), dim=2, eps=1e-4)
        cosines = torch.einsum("eqchw,epc->eqphw", unit, means).flatten(0, 1)
        parts = [scores[s].clamp(-4, 4), cosines, F.avg_pool2d(texture_maps, s // 2)]
        if s in ATTENTION:
            parts.append(
                _attend(net, s, _rows(net.keys(supports, s), n), queries, _rows(embedded[s], n), fg, bg)
            )
        matched[s] = join([part.to(queries.dtype) for part in parts])
        query_maps[s] = queries
    query_maps[1] = maps[1].unflatten(0, (n, -1))[:, k:].flatten(0, 1)
    return net.decode(query_maps, matched), scores


def _rows(maps: Tensor, n: int) -> Tensor:
    """(E * K, C, H, W) -> (E, K * H * W, C)."""
    return maps.permute(0, 2, 3, 1).unflatten(0, (n, -1)).flatten(1, 3)


def _attend(
    net: CompactNet, stride: int, keys: Tensor, queries: Tensor, values: Tensor, fg: Tensor, bg: Tensor
) -> Tensor:
    """`readouts.attend` for every episode, over the pixels that `readouts.select_keys` keeps."""
    n = len(keys)
    kept = keys_kept(fg, bg, ATTENTION[stride][1])
    is_kept, at = kept.float().topk(min(ATTENTION[stride][1], kept.shape[1]), dim=1)
    keys, values = (t.gather(1, at[..., None].expand(-1, -1, t.shape[-1])) for t in (keys, values))
    query_keys = net.keys(queries, stride)
    flat = _rows(query_keys, n) * net.log_scale[str(stride)].exp()
    width = flat.shape[-1]
    padded = F.pad(values, (0, width - values.shape[-1]))
    hidden = torch.where(is_kept > 0, 0.0, -1e4)[:, None, None].to(flat.dtype)
    read = F.scaled_dot_product_attention(
        flat[:, None], keys.to(flat.dtype)[:, None], padded.to(flat.dtype)[:, None], hidden, scale=1.0
    )[:, 0, :, : values.shape[-1]]
    read = read * kept.any(1)[:, None, None]
    return read.unflatten(1, (-1, *queries.shape[-2:])).flatten(0, 1).permute(0, 3, 1, 2)


def keys_kept(fg: Tensor, bg: Tensor, n_max: int) -> Tensor:
    """Pixels that `readouts.select_keys` keeps of every episode: (E, P) bool, from (E, P) fractions."""
    labelled = fg + bg >= 0.5
    sides = [labelled & (fg >= bg), labelled & (fg < bg)]
    n_fg, n_bg = (side.sum(1, keepdim=True) for side in sides)
    most_fg = torch.minimum(n_fg, (n_max - n_bg).clamp_min(n_max // 2))
    most_bg = torch.minimum(n_bg, n_max - most_fg)
    kept = torch.zeros_like(labelled)
    for side, there, most in ((sides[0], n_fg, most_fg), (sides[1], n_bg, most_bg)):
        rank = side.cumsum(1) - 1
        # rank = floor(i * there / most) for some i < most
        i = -(-rank * most // there.clamp_min(1))
        kept |= side & (i < most) & (i * there // most.clamp_min(1) == rank)
    return kept


def fit_classifiers(images: Tensor, statistics: Tensor, sides: Tensor) -> TexturePack:
    """Fit the pixel classifiers of all episodes, to plain and jittered supports.

    Parameters
    ----------
    images : Tensor
        (E, K, 3, S, S)
    statistics : Tensor
        (E, K, N_STATISTICS, S / 2, S / 2), of the images.
    sides : Tensor
        (E, K, 2, S, S), foreground and background.

    Returns
    -------
    A pack whose tensors have a leading dimension E.
    """
    n, device = len(images), images.device
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        generator = torch.Generator(device).manual_seed(0)
        gain, shift = 1 + JITTER * torch.randn(
            2, *images.shape[:2], 1, 1, 1, generator=generator, device=device
        )
        jittered = ((images - 0.5) * gain + 0.5 + (shift - 1) / 2).clamp(0, 1)
        both = torch.stack([statistics.flatten(0, 1), texture_statistics(jittered.flatten(0, 1))])
        x = both.unflatten(1, (n, -1)).permute(1, 0, 2, 4, 5, 3).flatten(1, 4)
        shares = F.avg_pool2d(sides.flatten(0, 1), 2).unflatten(0, (n, -1))
        fg, bg = (shares[:, :, side].flatten(1).repeat(1, 2) for side in (0, 1))
        return fit_textures(
            x, fg / (fg + bg).clamp_min(1e-6), fg + bg > 0.5, generator, steps=QUICK_STEPS, batch=QUICK_BATCH
        )


def _texture_logits(statistics: Tensor, pack: TexturePack) -> Tensor:
    """`texture_logits` for every episode: (E * Q, 1, H, W) from (E, Q, N_STATISTICS, H, W)."""
    with torch.no_grad(), torch.autocast(statistics.device.type, enabled=False):
        x = statistics.permute(0, 1, 3, 4, 2).flatten(1, 3)
        x = ((x - pack.mean[:, None]) / pack.std[:, None]).clamp(-LIMIT, LIMIT)
        for weight, bias in ((pack.weight1, pack.bias1), (pack.weight2, pack.bias2)):
            x = F.relu(torch.baddbmm(bias[:, None], x, weight.mT))
        x = torch.baddbmm(pack.bias3[:, None], x, pack.weight3.mT).clamp(-LIMIT, LIMIT)
        return x.unflatten(1, (-1, *statistics.shape[-2:])).flatten(0, 1).permute(0, 3, 1, 2)
