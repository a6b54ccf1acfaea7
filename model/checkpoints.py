"""Checkpoints of other code, converted to weights of Fewscope's networks. Pickles are read with ``weights_only``."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fewscope.errors import ConfigError, WeightsError
from fewscope.model.networks.episodic import IMAGENET_MEAN, IMAGENET_STD, EpisodicNet, vgg_state
from fewscope.model.networks.folding import fold_batch_norm
from fewscope.model.networks.hkustcv import AuthorsRelationNet
from fewscope.model.networks.registry import NETWORKS, build_network
from fewscope.model.networks.relation import RelationNet
from fewscope.model.weights import Unfilled, load_weights, metadata

HKUSTCV_BLOCKS = 5
"""Blocks of the decoder of FSS-1000's published code, ``double_conv1`` to ``double_conv5``."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``state_dict`` that torch has saved, on the CPU.

    Nothing in the file is executed. The names of a network that was wrapped for several GPUs lose their ``module.``.

    Parameters
    ----------
    path : Path
        File (.pkl, .pth, .pt).

    Raises
    ------
    WeightsError
        The file is missing, holds anything but tensors by name, or values that are not finite.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give a checkpoint (.pkl, .pth)")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path}: is not a checkpoint of tensors alone: a whole network, or no file of torch.save; "
            "give what torch.save(net.state_dict(), ...) writes"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if (
        not isinstance(content, Mapping)
        or not all(isinstance(t, Tensor) for t in content.values())
        or not content
    ):
        raise WeightsError(f"{path}: holds no tensors by name; give a state_dict")
    for name, tensor in content.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsError(
                f"{path}: tensor {name} holds values that are not finite; give another checkpoint"
            )
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def convert_hkustcv(encoder: Path, relation: Path) -> AuthorsRelationNet:
    """The network of FSS-1000's authors with the weights of their two files.

    Parameters
    ----------
    encoder, relation : Path
        ``feature_encoder*.pkl`` and ``relation_network*.pkl``, as their code saves them.

    Raises
    ------
    WeightsError
        A file cannot be read, or is of another network.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in read_checkpoint(encoder).items():
        part, _, rest = name.partition(".")
        place, _, kind = rest.partition(".")
        if part == "features" and place.isdigit():  # the authors' first layer is apart
            renamed[f"encoder.layers.{int(place) + 1}.{kind}"] = tensor
        elif part == "layer1":
            renamed[f"encoder.layers.0.{kind}"] = tensor
        else:
            raise WeightsError(
                f"{encoder}: {name} is no part of the feature encoder; give feature_encoder*.pkl first"
            )
    for name, tensor in read_checkpoint(relation).items():
        renamed[_relation_name(name, relation)] = tensor
    with Unfilled():
        net = AuthorsRelationNet()
    for name, own in net.state_dict().items():
        if name.endswith("num_batches_tracked"):  # files of torch before 0.4.1 lack it
            renamed.setdefault(name, own)
    _load(net, renamed, f"{encoder} and {relation}")
    return net


def _relation_name(name: str, path: Path) -> str:
    part, _, rest = name.partition(".")
    place, _, kind = rest.partition(".")
    if place.isdigit():
        if part in ("layer1", "layer2"):
            return f"relation.{int(place) + (3 if part == 'layer2' else 0)}.{kind}"
        block = part.removeprefix("double_conv")
        if block.isdigit() and 1 <= int(block) <= HKUSTCV_BLOCKS:
            if int(block) == HKUSTCV_BLOCKS and place == "3":
                return f"head.{kind}"
            return f"decoder.{int(block) - 1}.{place}.{kind}"
    raise WeightsError(
        f"{path}: {name} is no part of the relation network; give relation_network*.pkl second"
    )


def convert_torchvision(path: Path, name: str) -> EpisodicNet:
    """A network whose backbone has torchvision's weights; what is trained on top of it is random.

    Parameters
    ----------
    path : Path
        A ``state_dict`` of torchvision's network, such as ``vgg16-397923af.pth``.
    name : str
        A key of `model.networks.registry.NETWORKS`.

    Raises
    ------
    ConfigError
        The network has no backbone of torchvision's.
    WeightsError
        The file cannot be read, or is of another network.
    """
    _check_backbone(name)
    state = read_checkpoint(path)
    net = _with_random_weights(name)
    try:
        net.load_backbone(state)
    except (KeyError, RuntimeError) as error:
        expected = _backbone(name)
        first, tensor = next(iter(state.items()))
        raise WeightsError(
            f"{path}: is not torchvision's {expected}, which {name} needs: it begins with {first} {tuple(tensor.shape)}"
        ) from error
    return net


def convert_backbone(path: Path, name: str) -> EpisodicNet:
    """A network with the backbone of another that was trained; what is trained on top of it is random.

    The encoder of a relation network is a VGG-16 with batch norm, which is folded into its convolutions, and loses the
    channel of the mask, as it sees a query.

    Parameters
    ----------
    path : Path
        Weights that training wrote (.safetensors), of a network of another paper, or of a relation network with VGG-16.
    name : str
        A key of `model.networks.registry.NETWORKS`.

    Raises
    ------
    ConfigError
        The network has no backbone of torchvision's.
    WeightsError
        The file cannot be read, or its network has another backbone.
    """
    _check_backbone(name)
    weights, source = load_weights(path), metadata(path).get("network", "")
    spec = NETWORKS.get(source)
    lends = spec is not None and spec.trained and (spec.family == "episodic" or spec.encoder == "vgg16")
    if not lends:
        raise WeightsError(
            f"{path}: is of {source or 'an unnamed network'}, which has no backbone to give; give weights of panet, "
            "vgg16-paper or another network with a backbone that train wrote"
        )
    with Unfilled():
        trained = build_network(source)
    _load(trained, weights, str(path))
    net = _with_random_weights(name)
    fits = _backbone(source) == _backbone(name)
    try:
        if fits:
            net.load_backbone(_backbone_state(trained))
    except KeyError:  # CANet has three of ResNet-50's four stages
        fits = False
    if not fits:
        raise WeightsError(f"{path}: {source} has no {_backbone(name)} for {name}")
    return net


def _backbone(name: str) -> str:
    """The backbone of a network by its name in torchvision."""
    return NETWORKS[name].encoder.removesuffix("-plain")


def _backbone_state(net: nn.Module) -> dict[str, Tensor]:
    if isinstance(net, EpisodicNet):
        return net.backbone_state()
    assert isinstance(net, RelationNet)
    state = vgg_state(fold_batch_norm(net.encoder.eval()))
    weight = state["features.0.weight"][:, :3]  # for RGB in [0, 1]
    shift = (weight * torch.tensor(IMAGENET_MEAN)[:, None, None]).sum((1, 2, 3))
    state["features.0.weight"] = weight * torch.tensor(IMAGENET_STD)[:, None, None]
    state["features.0.bias"] = state["features.0.bias"] + shift
    return state


def _check_backbone(name: str) -> None:
    """ConfigError if the backbone of a network is none of torchvision's."""
    if name not in NETWORKS or NETWORKS[name].family != "episodic" or not NETWORKS[name].encoder:
        fitting = [n for n, spec in NETWORKS.items() if spec.family == "episodic" and spec.encoder]
        raise ConfigError(
            f"{name} takes no weights of torchvision's networks; give one of {', '.join(fitting)}"
        )


def _with_random_weights(name: str) -> EpisodicNet:
    """The network with random weights of seed 0."""
    torch.manual_seed(0)
    net = build_network(name)
    assert isinstance(net, EpisodicNet)
    return net


def _load(net: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    try:
        net.load_state_dict(dict(state))
    except RuntimeError as error:
        raise WeightsError(f"{what}: are of another network: {' '.join(str(error).split())[:200]}") from error
