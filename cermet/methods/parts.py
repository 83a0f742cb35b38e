"""The parts of a network that a method may be confined to, by the roles of their tensors."""

from __future__ import annotations

from cermet.core.types import Place, Role

__all__ = ["belongs"]

_ATTENTION = frozenset({Role.Q, Role.K, Role.V, Role.O, Role.QKV, Role.KV})
_FEED_FORWARD = frozenset({Role.GATE, Role.UP, Role.DOWN, Role.GATE_UP})
_ROLES = {
    "linear": _ATTENTION | _FEED_FORWARD,
    "attention": _ATTENTION,
    "feed_forward": _FEED_FORWARD,
}


def belongs(place: Place, part: str) -> bool:
    """Whether a tensor is of a part: linear, attention, feed_forward, or layers."""
    return place.layer is not None if part == "layers" else place.role in _ROLES[part]
