"""Anatomy: what each tensor of a checkpoint does, and where, from names, shapes and config.

Nothing here knows architectures by heart. Stacks of layers are found from the numbers in the
names, roles from the words that the field uses, ties and layer counts from the config.
"""

from cermet.anatomy.counterparts import Counterparts, find_counterparts
from cermet.anatomy.layers import (
    layer_count_keys,
    module_count_keys,
    per_layer_lists,
    text_path,
)
from cermet.anatomy.modules import Modules, find_modules
from cermet.anatomy.survey import Anatomy, survey
from cermet.anatomy.vocabulary import TokenTensors, token_tensors, vocabulary_keys

__all__ = [
    "Anatomy",
    "Counterparts",
    "Modules",
    "TokenTensors",
    "find_counterparts",
    "find_modules",
    "layer_count_keys",
    "module_count_keys",
    "per_layer_lists",
    "survey",
    "text_path",
    "token_tensors",
    "vocabulary_keys",
]
