"""Anatomy: what each tensor of a checkpoint does, and where, from names, shapes and config.

Nothing here knows architectures by heart. Stacks of layers are found from the numbers in the
names, roles from the words that the field uses, ties and layer counts from the config.
"""

from cermet.anatomy.layers import layer_count_keys, per_layer_lists
from cermet.anatomy.survey import Anatomy, survey
from cermet.anatomy.vocabulary import TokenTensors, token_tensors, vocabulary_keys

__all__ = [
    "Anatomy",
    "TokenTensors",
    "layer_count_keys",
    "per_layer_lists",
    "survey",
    "token_tensors",
    "vocabulary_keys",
]
