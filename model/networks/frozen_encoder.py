"""Frozen encoders, the user's own or `efficientnet_lite`, and read-outs of their features that are fitted to patches.

Pathologists have UNI or Virchow, others DINOv2: encoders that were trained on far more images than ours, and under
licences that let nobody ship them. `load_encoder` opens such an encoder from local files. `fit_readout` fits a logistic
regression to its features in the labelled pixels, a linear probe (Alain and Bengio, ICLR 2017 workshop), on several
levels of the encoder at once (hypercolumns, Hariharan et al., CVPR 2015). Its logits are averaged with those of the
pixel classifier (`model.networks.pixel_classifier`), which the network receives at every level, and with the network's.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor, nn

from fewscope.errors import ConfigError, MissingPackageError, WeightsError
from fewscope.model.networks import efficientnet_lite
from fewscope.model.networks.pixel_classifier import BALANCE, LIMIT, SMOOTHING

STRIDE = 4
"""Finest stride at which features are read out, px: finer levels are averaged over it."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the inputs of encoders that do not say theirs. EfficientNet-Lite0 was trained with 127 and 128 of 255. With these,
its read-outs alone have a mean IoU of 0.546 on 36 training classes of photographs, with ImageNet's 0.552."""

WEIGHT_DECAY = 2e-4
"""L2 penalty of the regression on standardised features, for each of them: logits vary alike for any number."""

STEPS = 40
"""Iterations of L-BFGS."""

MOST_VALUES = 20_000_000
"""Of the features that a read-out is fitted to: 80 MB."""

TIMM = "timm/"


class FrozenEncoder(nn.Module):
    """An encoder as this package uses it: images in, maps at one stride or several out.

    Parameters
    ----------
    body : torch.nn.Module
        Takes (N, 3, H, W) float, normalised. Returns a map (N, D, H / stride, W / stride), tokens (N, T, D) of a vision
        transformer, or a list of such.
    name : str
        Shown in the report.
    digest : str
        SHA-256 of its files.
    mean, std : sequence of float
        By which red, green and blue in [0, 1] are normalised.
    multiple : int
        H and W are resized to the nearest multiple of it, px.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        name: str,
        digest: str,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self.body = body
        self.name, self.digest, self.multiple = name, digest, multiple
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    @torch.inference_mode()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps of images (N, 3, H, W), float in [0, 1]: [(N, D_i, h_i, w_i)] float32, the largest first.

        Raises
        ------
        ConfigError
            The encoder cannot take images of this size, or returns something else.
        """
        size = [max(1, round(n / self.multiple)) * self.multiple for n in images.shape[-2:]]
        if size != list(images.shape[-2:]):
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        try:
            found = self.body((images - self.mean) / self.std)
        except (RuntimeError, AssertionError) as error:  # mostly of sizes that it does not take
            reason = " ".join(str(error).split())[-200:]
            raise ConfigError(
                f"encoder {self.name} cannot take images of {size[0]} x {size[1]} px ({reason})"
            ) from error
        maps = [self._map(one, size) for one in (found if isinstance(found, list | tuple) else [found])]
        return sorted((_coarse(one, size) for one in maps), key=lambda one: -one.shape[-1])

    def maps_in(self, dtype: torch.dtype, images: Tensor) -> list[Tensor]:
        """`forward` in the precision in which a network predicts: bfloat16, or else float32."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            return list(self(images))

    def _map(self, found: Any, size: Sequence[int]) -> Tensor:
        """A map from what the encoder returned: itself, or its tokens without those that are no patches."""
        if not isinstance(found, Tensor) or found.ndim not in (3, 4):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(
                f"encoder {self.name} returns {shape}; expected a map (N, D, h, w), tokens (N, T, D), or a list of them"
            )
        if found.ndim == 3:
            # class and register tokens come first
            rows = max(1, math.isqrt(found.shape[1] * size[0] // size[1]))
            columns = rows * size[1] // size[0]
            found = found[:, found.shape[1] - rows * columns :].mT.unflatten(2, (rows, columns))
        return found.float()


def _coarse(one: Tensor, size: Sequence[int]) -> Tensor:
    """A map at `STRIDE` or coarser."""
    target = (-(-size[0] // STRIDE), -(-size[1] // STRIDE))
    return F.adaptive_avg_pool2d(one, target) if one.shape[-1] > target[1] else one


@dataclass(frozen=True, slots=True, eq=False)
class Readout:
    """Logistic regression on an encoder's features, float32: standardisation is folded in."""

    weight: Tensor  # (D,), D the sum over the encoder's maps
    bias: Tensor  # (1,)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Readout:
        """The inverse of `tensors`, from arrays."""
        return cls(**{name: torch.from_numpy(array) for name, array in arrays.items()})

    def to(self, device: torch.device | str) -> Readout:
        """The same on another device."""
        return Readout(self.weight.to(device), self.bias.to(device))

    def logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits of the object, (N, 1, h, w) float32 of the largest map's size, clipped to +-`LIMIT`.

        Interpolation and the sum over channels commute, so that each map is weighted before it is enlarged.
        """
        size, parts = maps[0].shape[-2:], self.weight.split([one.shape[1] for one in maps])
        total = self.bias.view(1, 1, 1, 1)
        for one, weight in zip(maps, parts, strict=True):
            part = torch.einsum("ndhw,d->nhw", one, weight)[:, None]
            total = total + F.interpolate(part, size=size, mode="bilinear")
        return total.clamp(-LIMIT, LIMIT)


def fit_readout(maps: Sequence[Tensor], foreground: Tensor, background: Tensor) -> Readout:
    """Fit a read-out to labelled patches.

    Parameters
    ----------
    maps : sequence of Tensor
        What a `FrozenEncoder` returns of K patches.
    foreground, background : Tensor
        (K, 1, H, W) float, 1 where a pixel is labelled as object (background).

    Returns
    -------
    The read-out. It depends on the arguments and the processor's arithmetic alone, under `model.finetune.one_thread`.
    """
    return fit_rows(*labelled_rows(maps, foreground, background, most_rows(maps, MOST_VALUES)))


def most_rows(maps: Sequence[Tensor], n_values: int) -> int:
    """Rows of features of an encoder, with these maps, that have so many values; 1000 at least."""
    return max(1000, n_values // sum(one.shape[1] for one in maps))


def labelled_rows(
    maps: Sequence[Tensor], foreground: Tensor, background: Tensor, most: int
) -> tuple[Tensor, Tensor]:
    """Features (P, D) of the labelled places of patches, and their shares (P,) of object; `most` of them, evenly.

    Parameters are those of `fit_readout`; a place is a pixel of the largest map.
    """
    size = maps[0].shape[-2:]
    columns = torch.cat([F.interpolate(one, size=size, mode="bilinear") for one in maps], dim=1)
    sides = F.interpolate(torch.cat([foreground, background], dim=1).float(), size=size, mode="area")
    rows, sides = columns.permute(0, 2, 3, 1).flatten(0, 2), sides.permute(0, 2, 3, 1).flatten(0, 2)
    known = evenly(torch.nonzero(sides.sum(1) > 0.5).flatten(), most)
    return rows[known], sides[known, 0] / sides[known].sum(1)


def evenly(rows: Tensor, most: int) -> Tensor:
    """At most so many rows, spread evenly."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most, device=rows.device).long()]


def fit_rows(x: Tensor, share: Tensor) -> Readout:
    """Fit a read-out to features (P, D) and their shares (P,) of object; zeros where there are none."""
    if not len(x):
        return Readout(x.new_zeros(x.shape[1]), x.new_zeros(1))
    mean, std = x.mean(0), x.std(0, correction=0) + 1e-4
    x = ((x - mean) / std).clamp(-LIMIT, LIMIT)
    weight, bias = _logistic(x.cpu().numpy(), share.cpu().numpy())
    weights = torch.from_numpy(weight).to(std) / std
    return Readout(weights, bias - (weights @ mean)[None])


def _logistic(x: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights (D,) and bias of a regularised logistic regression on rows (P, D) and shares (P,) of object."""
    n_objects = share.sum(dtype=np.float64).clip(1e-3, len(share) - 1e-3)
    # classes weigh as in the batches of the pixel classifier
    part = BALANCE * 0.5 + (1 - BALANCE) * n_objects / len(share)
    importance = share * part / n_objects + (1 - share) * (1 - part) / (len(share) - n_objects)
    target = share * (1 - 2 * SMOOTHING) + SMOOTHING

    decay, start = WEIGHT_DECAY * x.shape[1], np.zeros(x.shape[1] + 1)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = parameters[:-1], parameters[-1]
        logits = x @ weight.astype(x.dtype) + x.dtype.type(bias)
        # of the cross-entropy, without its constant: log(1 + exp(z)) - t z
        error = importance * (expit(logits) - target)
        value = float((importance * (np.logaddexp(0, logits) - target * logits)).sum(dtype=np.float64))
        slope = np.append(error.astype(x.dtype) @ x + decay * weight, error.sum(dtype=np.float64))
        return value + decay / 2 * float(weight @ weight), slope

    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x
    return found[:-1], float(found[-1])


def load_encoder(spec: str) -> FrozenEncoder:
    """Open an encoder from local files; nothing is downloaded.

    Parameters
    ----------
    spec : str
        One of these:

        - ``efficientnet-lite0``: a small encoder of photographs (`model.networks.efficientnet_lite`).
        - ``FILE``: a program of `torch.export.save` (.pt2), or a TorchScript module (any other name). Programs are
          code: open only those that you trust.
        - ``timm/NAME:FILE``: a model of the package timm, and a file of its weights (.safetensors, .pth).
        - ``timm/FOLDER``: a folder with weights and a ``config.json``, as the models on the Hugging Face hub have that
          were made for timm.

    Raises
    ------
    WeightsError
        There is no such file or model, or the file holds something else.
    MissingPackageError
        timm is not installed.
    """
    if spec == efficientnet_lite.NAME:
        body, digest = efficientnet_lite.load_efficientnet_lite()
        return FrozenEncoder(body, spec, digest)
    return _load_timm(spec.removeprefix(TIMM)) if spec.startswith(TIMM) else _load_program(spec)


def _load_program(spec: str) -> FrozenEncoder:
    """What `torch.export.save` or TorchScript wrote."""
    path = Path(spec)
    if not path.is_file():
        raise WeightsError(
            f"{spec}: no such file; an encoder is {efficientnet_lite.NAME}, FILE.pt2, a TorchScript file, or "
            f"{TIMM}NAME:FILE"
        )
    try:
        if path.suffix == ".pt2":
            body: nn.Module = torch.export.load(path).module()
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # what people have is TorchScript, still
                body = torch.jit.load(str(path), map_location="cpu").eval()
    except Exception as error:  # of PyTorch, zip and pickle
        raise WeightsError(
            f"{spec}: neither an exported program nor a TorchScript module; for a file of weights say of which model: "
            f"{TIMM}NAME:{spec}"
        ) from error
    return FrozenEncoder(body, path.name, _digest_of_file(path))


class _Intermediates(nn.Module):
    """Maps of a model of timm, (N, D, h, w): of each stage, or of four blocks where all have one stride."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        reductions = [level["reduction"] for level in network.feature_info]
        n = len(reductions)
        self.multiple = max(reductions)
        self.indices = [n * i // 4 - 1 for i in range(1, 5)] if len(set(reductions)) == 1 and n > 4 else None

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps of normalised images (N, 3, H, W)."""
        found: list[Tensor] = self.network.forward_intermediates(
            x, indices=self.indices, output_fmt="NCHW", intermediates_only=True
        )
        return found


def _load_timm(spec: str) -> FrozenEncoder:
    name, _, file = spec.partition(":")
    is_folder = not file and (Path(name) / "config.json").is_file()
    if not file and not is_folder:
        raise WeightsError(
            f"encoder {TIMM}{name} has no weights; give a file of them, {TIMM}{name}:FILE, or a folder with config.json"
        )
    if file and not Path(file).is_file():
        raise WeightsError(f"{file}: no such file of weights for {TIMM}{name}")
    try:
        import timm
    except ImportError:
        raise MissingPackageError(f"encoder {TIMM}{name} needs timm: pip install timm") from None
    if file and not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.partition('_')[0]}*")[:5])
        raise WeightsError(f"timm has no model {name!r}" + (f"; similar ones: {near}" if near else ""))
    try:
        network = _create(timm.create_model, name, file)
    except Exception as error:  # of PyTorch, safetensors, pickle, and timm itself
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{file or name}: no weights of {TIMM}{name} ({reason})") from error
    if not hasattr(network, "forward_intermediates"):
        raise WeightsError(f"timm gives no maps of {name!r}, only classes; use another model")
    files = [Path(file)] if file else sorted(path for path in Path(name).iterdir() if path.is_file())
    digest = hashlib.sha256("".join([name if file else "", *map(_digest_of_file, files)]).encode())
    body = _Intermediates(network.eval())
    return FrozenEncoder(
        body,
        f"{TIMM}{name if file else Path(name).name}",
        digest.hexdigest(),
        mean=network.pretrained_cfg.get("mean", IMAGENET_MEAN),
        std=network.pretrained_cfg.get("std", IMAGENET_STD),
        multiple=body.multiple,
    )


def _create(create_model: Any, name: str, file: str) -> Any:
    """A model of timm with its weights, all of them: timm is not strict about those of a model whose classes differ."""
    if not file:
        return _of_any_size(create_model, f"local-dir:{name}")
    overlay: dict[str, Any] = {"file": file}
    try:
        return _of_any_size(create_model, name, pretrained_cfg_overlay=overlay)
    except RuntimeError:  # perhaps the file has no classes
        overlay |= {"num_classes": 0}
        return _of_any_size(create_model, name, pretrained_cfg_overlay=overlay, num_classes=0)


def _of_any_size(create_model: Any, name: str, **options: Any) -> Any:
    try:
        return create_model(name, pretrained=True, dynamic_img_size=True, **options)
    except TypeError:  # convolutional networks take any size without being asked
        return create_model(name, pretrained=True, **options)


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
