"""What every model family offers: one forward pass that returns whatever is asked for."""

import abc

from flax import nnx
from jaxtyping import Array, Float

Images = Float[Array, "batch height width 3"]


class ImageModel(nnx.Module):
    """Base of the families.

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
        blocks: int = 4,
        block: int = -1,
    ) -> dict[str, Array]:
        """Runs the model once and returns the wanted outputs by name.

        - "features" [batch, width]: what the classifier and the projection head see, float32.
        - "logits" [batch, classes], float32; the features if the model has no classifier.
        - "grid" [batch, rows, columns, width]: a transformer's patch tokens after their last block,
          before the final norm.
        - "block_features" [batch, blocks * width]: pooled features of each of the last `blocks`
          blocks (all, if there are fewer), side by side, float32 (DINO's eval_linear.py).
        - "attention" [batch, heads, rows, columns]: how a transformer's attention in one block is
          spread over the patches, float32. `block` counts from 0, or back from -1.
        - "layers": a transformer's tokens [batch, tokens, width] after each layer, by layer name.

        Args:
          images: normalized; sides of a transformer's images are multiples of its patch size.
          train: normalizes by the batch's statistics if the model has batch norm.
          rngs: random numbers for drop path and dropout; None disables both.

        Raises:
          UserError: the family does not have what is wanted.
          IndexError: no such block.
        """

    def __call__(
        self, images: Images, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "batch outputs"]:
        """Logits, or features if the model has no classifier, float32; arguments as `outputs`."""
        return self.outputs(images, "logits", train=train, rngs=rngs)["logits"]

    def features(
        self, images: Images, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "batch width"]:
        """What the classifier and the projection head see, float32; arguments as `outputs`."""
        return self.outputs(images, "features", train=train, rngs=rngs)["features"]
