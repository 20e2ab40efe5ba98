"""The objectives of pre-training by name."""

import jax
from ml_collections import ConfigDict

from smallvit_jax.augment.views import ViewSettings
from smallvit_jax.models.image_model import ImageModel
from smallvit_jax.objectives.dino import Dino
from smallvit_jax.objectives.lejepa import Lejepa
from smallvit_jax.objectives.mae import Mae
from smallvit_jax.objectives.objective import Objective

OBJECTIVES: dict[str, type[Dino | Lejepa | Mae]] = {"dino": Dino, "lejepa": Lejepa, "mae": Mae}


def create_objective(
    config: ConfigDict, backbone: ImageModel, views: ViewSettings, dtype, key: jax.Array
) -> Objective:
    """Builds the objective that `config.pretrain.objective` names; `key` initializes its head."""
    return OBJECTIVES[config.pretrain.objective](config, backbone, views, dtype, key)
