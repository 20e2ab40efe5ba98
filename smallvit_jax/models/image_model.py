"""The interface of all model families: one forward pass that returns the requested outputs."""

import abc
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

Images = Float[Array, "batch height width 3"]


class ImageModel(nnx.Module):
    """Base class of all model families.

    Attributes:
      num_features: width of the features.
    """

    num_features: int

    @abc.abstractmethod
    def outputs(
        self,
        images: Images,
        *wanted: str,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
        last_blocks: int = 4,
        attention_block: int = -1,
    ) -> dict[str, Any]:
        """Runs the model once and returns the wanted outputs by name.

        - "features" [batch, width]: the input of the classifier and the projection head, float32.
        - "logits" [batch, classes], float32; the features if the model has no classifier.
        - "grid" [batch, rows, columns, width]: a transformer's patch tokens after the last block,
          before the final norm.
        - "block_features" [batch, last_blocks * width]: pooled features of each of the last
          `last_blocks` blocks (or all, if there are fewer), concatenated, float32 (DINO's
          eval_linear.py).
        - "attention" [batch, heads, rows, columns]: how a transformer's attention in one block is
          distributed over the patches, float32. `attention_block` counts from 0, or back from
          -1.
        - "layers": a transformer's tokens [batch, tokens, width] after each layer, as a dict by
          layer name.

        Args:
          images: normalized images; for a transformer, sides must be multiples of the patch size.
          train: uses the batch statistics if the model has batch norm.
          rngs: PRNG keys for drop path and dropout; None disables both.

        Raises:
          UserError: if the family does not have a wanted output.
          IndexError: if there is no such block.
        """

    def __call__(
        self, images: Images, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "batch outputs"]:
        """Logits, or features if there is no classifier, float32; arguments as in `outputs`."""
        return self.outputs(images, "logits", train=train, rngs=rngs)["logits"]

    def features(
        self, images: Images, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "batch width"]:
        """Input of the classifier and the projection head, float32; arguments as in `outputs`."""
        return self.outputs(images, "features", train=train, rngs=rngs)["features"]
