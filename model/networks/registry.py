"""Networks by name."""

from __future__ import annotations

from torch import Tensor, nn

from fewscope.model.networks.compact import CompactNet
from fewscope.model.networks.encoders import ENCODERS
from fewscope.model.networks.names import COMPACT, NETWORKS, RELATION
from fewscope.model.networks.relation import RelationNet


def build_network(name: str, *, depth: bool = True) -> CompactNet | RelationNet:
    """A network with random weights.

    Parameters
    ----------
    name : one of `NETWORKS`
    depth : whether a compact network tells objects apart (`model.depth`); the relation networks never do

    Raises
    ------
    ValueError
        There is no network of this name.
    """
    if name in COMPACT:
        return CompactNet(COMPACT[name], depth=depth)
    if name in RELATION:
        encoder, variant = RELATION[name]
        return RelationNet(variant, ENCODERS[encoder]())
    raise ValueError(f"network {name!r} is not one of {', '.join(NETWORKS)}")


def side_multiple(name: str) -> int:
    """What the sides of a network's input must be a multiple of, in px."""
    return 16 if name in COMPACT else 32


def start_from(net: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Load weights to go on from; those of a compact network from before it told objects apart will do.

    Raises
    ------
    ValueError
        The weights are of another network.
    """
    own = net.state_dict()
    wrong = [key for key, tensor in weights.items() if key not in own or own[key].shape != tensor.shape]
    wrong += [key for key in own if key not in weights and not key.startswith("depth_head.")]
    if wrong:
        raise ValueError(
            f"the initial weights are of another network than {name}: {wrong[0]} does not fit; give those of {name}"
        )
    net.load_state_dict(weights, strict=False)
