"""The projection head and the multi-crop network against the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from smallvit_jax.interop.torch_weights import load_state_dict, state_dict
from smallvit_jax.models import create_model
from smallvit_jax.models.heads import ProjectionHead, ViewNetwork
from smallvit_jax.models.parameters import Functional
from tests.support.golden_formulas import array, fill, image_batch


def filled_head(features: int, out_dim: int) -> ProjectionHead:
    head = ProjectionHead(features, out_dim=out_dim, rngs=nnx.Rngs(0))
    load_state_dict(head, {k: fill(k, v.shape) for k, v in state_dict(head).items()})
    return head


@pytest.mark.parametrize(("features", "out_dim"), [(192, 64), (384, 64), (192, 1024)])
def test_outputs_equal_the_reference(golden, features, out_dim):
    expected = golden("projection_head")[f"in{features}_out{out_dim}"]
    head = filled_head(features, out_dim)
    output = np.asarray(head(jnp.asarray(array(f"head_in:{features}", (4, features), 2.0))))
    recorded = expected["output"]
    values = recorded.get("values", recorded.get("first"))
    # "first" holds the first values of a [4, out_dim] array in row-major order.
    assert np.abs(output.ravel()[: len(values)] - values).max() < 1e-5
    kernel = np.asarray(head.last_layer.kernel()).T
    weight = expected["effective_last_layer_weight"]
    np.testing.assert_allclose(kernel.ravel()[:16], weight["first"], atol=1e-6)
    assert np.linalg.norm(kernel) == pytest.approx(weight["l2"], rel=1e-6)


def test_gradients_equal_the_reference(golden):
    expected = golden("projection_head")["in192_out64"]["grad_of_sum_squares"]
    head = filled_head(192, 64)
    network = Functional(head)
    inputs = jnp.asarray(array("head_in:192", (4, 192), 2.0))

    def sum_of_squares(trainable, inputs):
        return jnp.sum(network(trainable, network.buffers, inputs)[0] ** 2)

    by_weight, by_input = jax.grad(sum_of_squares, argnums=(0, 1))(network.trainable, inputs)
    norms = {"mlp.0.weight": "linears.0.kernel", "mlp.2.bias": "linears.1.bias"}
    norms |= {"mlp.4.weight": "linears.2.kernel", "last_layer.weight_v": "last_layer.weight_v"}
    for key, name in norms.items():
        norm = np.linalg.norm(np.asarray(by_weight[name], np.float64))
        assert norm == pytest.approx(expected[key]["l2"], rel=1e-5), key
    assert np.linalg.norm(by_input) == pytest.approx(expected["input"]["l2"], rel=1e-5)
    assert "last_layer.weight_g" not in by_weight


def test_parameter_count_and_initialization(golden):
    counts = golden("model_vit_32")["parameter_counts"]
    network = Functional(ProjectionHead(192, rngs=nnx.Rngs(0)))
    trainable = sum(a.size for a in network.trainable.values())
    assert trainable == counts["ssl_head_1024_trainable"]
    fixed = sum(a.size for a in network.buffers.values())
    assert trainable + fixed == counts["ssl_head_1024"]
    stats = golden("init_stats_vit_32")
    weight_v = np.asarray(network.trainable["last_layer.weight_v"])
    assert np.abs(weight_v).max() <= 1 / 16
    assert weight_v.std() == pytest.approx(stats["mlphead.last_layer.weight_v"]["std"], rel=0.01)
    kernel = np.asarray(network.trainable["linears.1.kernel"])
    assert kernel.std() == pytest.approx(stats["mlphead.mlp.2.weight"]["std"], rel=0.02)


def test_multi_crop_network_equals_the_reference(golden):
    network = ViewNetwork(create_model("vit"), ProjectionHead(192, out_dim=64, rngs=nnx.Rngs(0)))
    load_state_dict(network, {k: fill(k, v.shape) for k, v in state_dict(network).items()})
    views = [
        np.stack([image_batch(2, 32, "g0"), image_batch(2, 32, "g1")], axis=1),
        np.stack([image_batch(2, 16, "l0"), image_batch(2, 16, "l1")], axis=1),
    ]
    output = network([jnp.asarray(v.transpose(0, 1, 3, 4, 2)) for v in views])
    expected = golden("model_vit_32")["multicrop_output"]["values"]
    assert np.abs(np.asarray(output).swapaxes(0, 1).ravel() - expected).max() < 1e-5


def test_batch_norm_head_keys_and_running_statistics(golden):
    head = ProjectionHead(192, out_dim=64, batch_norm=True, rngs=nnx.Rngs(0))
    expected = {k: tuple(s) for k, s in golden("projection_head")["use_bn_state_dict"]}
    found = {k: v.shape for k, v in state_dict(head).items()}
    counters = {k for k in expected if k.endswith("num_batches_tracked")}
    assert found == {k: s for k, s in expected.items() if k not in counters}

    network = Functional(head)
    inputs = jnp.asarray(array("head_in:192", (8, 192), 2.0))
    _, buffers = network(network.trainable, network.buffers, inputs, train=True)
    hidden = np.asarray(inputs) @ np.asarray(network.trainable["linears.0.kernel"])
    np.testing.assert_allclose(buffers["norms.0.mean"], 0.1 * hidden.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(buffers["norms.0.var"], 0.9 + 0.1 * hidden.var(axis=0), atol=1e-5)
