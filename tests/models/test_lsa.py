"""Locality self-attention against SPT_LSA_ViT's outputs with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from smallvit_jax.errors import UserError
from smallvit_jax.models import create_model
from smallvit_jax.models.cait_attention import TalkingHeads
from smallvit_jax.models.initializers import get_scheme
from smallvit_jax.models.layers import Attention
from smallvit_jax.models.swin import SwinBlock
from smallvit_jax.models.window_attention import WindowAttention, window_mask
from tests.models.spt_lsa_cases import TOLERANCE, added_parameters, check, fill, read_case
from tests.support.golden_formulas import hashed
from tests.support.reference_traces import quick_jit


def shared() -> dict:
    return {"scheme": get_scheme("reference"), "dtype": jnp.float32, "rngs": nnx.Rngs(0)}


@pytest.mark.parametrize("case", ["vit_attn_base", "vit_attn_lsa_initscale", "vit_attn_lsa"])
def test_vit_attention_equals_the_published_code(case):
    weights, tokens = read_case(case)
    module = Attention(192, 12, lsa="lsa" in case, **shared())
    names = {
        "scale": "temperature",
        "to_qkv.weight": "qkv.kernel",
        "to_out.0.weight": "proj.kernel",
        "to_out.0.bias": "proj.bias",
    }
    fill(module, {names[name]: weight.T for name, weight in weights.items()})
    mixed = module(tokens)
    check(case, mixed)
    np.testing.assert_allclose(module(tokens, queries=1), mixed[:, :1], atol=1e-6)


def test_window_attention_equals_the_published_code():
    case = "swin_attn_lsa_initscale"
    weights, tokens = read_case(case)
    module = WindowAttention(96, 3, 4, 0, False, lsa=True, **shared())
    fill(module, {_swin_name(name): _swin_layout(name, w) for name, w in weights.items()})
    check(case, module(tokens.reshape(8, 4, 4, 96)).reshape(8, 16, 96))


@pytest.mark.parametrize("case", ["swin_block_shift_base", "swin_block_shift_lsa"])
def test_shifted_window_block_equals_the_published_code(case):
    weights, tokens = read_case(case)
    lsa = case.endswith("lsa")
    block = SwinBlock(96, 3, 4, 2, 2.0, 0.0, mask_padding=False, lsa=lsa, **shared())
    block.norm1.epsilon = block.norm2.epsilon = 1e-5  # as published
    fill(block, {_swin_name(name): _swin_layout(name, w) for name, w in weights.items()})
    check(case, block(tokens.reshape(2, 8, 8, 96)).reshape(2, 64, 96))


def _swin_name(name: str) -> str:
    if name.startswith("norm"):
        return name.replace("weight", "scale")
    return name.replace("weight", "kernel")


def _swin_layout(name: str, weight: np.ndarray) -> np.ndarray:
    return weight if name.endswith("table") else weight.T


def talking_heads(weights: dict[str, np.ndarray], lsa: bool, lsa_mask: str) -> TalkingHeads:
    """As published: heads of width 64 at any model width, and no bias except the output's."""
    module = TalkingHeads(192, 4, lsa=lsa, lsa_mask=lsa_mask, **shared())
    if lsa:
        module.temperature[...] = jnp.full(4, 64**-0.5)
    qkv = np.concatenate([weights["to_q.weight"], weights["to_kv.weight"]])
    module.qkv.kernel, module.qkv.bias = nnx.Param(jnp.asarray(qkv.T)), nnx.Param(jnp.zeros(768))
    module.proj.kernel = nnx.Param(jnp.asarray(weights["to_out.0.weight"].T))
    module.proj.bias[...] = jnp.asarray(weights["to_out.0.bias"])
    module.proj_l.kernel[...] = jnp.asarray(weights["mix_heads_pre_attn"])
    module.proj_w.kernel[...] = jnp.asarray(weights["mix_heads_post_attn"])
    return module


@pytest.mark.parametrize("case", ["cait_attn_base", "cait_attn_lsa_initscale"])
def test_talking_heads_equal_the_published_code(case):
    weights, tokens = read_case(case)
    check(case, talking_heads(weights, "lsa" in case, "released")(tokens))


def test_talking_heads_are_masked_after_mixing():
    """Against plain NumPy."""
    weights, tokens = read_case("cait_attn_lsa_initscale")
    found = talking_heads(weights, True, "masked")(tokens)
    heads = {
        part: (tokens.astype(np.float64) @ kernel.T).reshape(2, 64, 4, 64)
        for part, kernel in zip(
            "qkv",
            [weights["to_q.weight"], *np.split(weights["to_kv.weight"], 2)],
            strict=True,
        )
    }
    scores = np.einsum("bqhd,bkhd->bhqk", heads["q"], heads["k"]) / 8
    scores = np.einsum("bhqk,hg->bgqk", scores, weights["mix_heads_pre_attn"])
    scores[:, :, np.arange(64), np.arange(64)] = -np.inf
    attention = np.exp(scores - scores.max(-1, keepdims=True))
    attention /= attention.sum(-1, keepdims=True)
    attention = np.einsum("bhqk,hg->bgqk", attention, weights["mix_heads_post_attn"])
    mixed = np.einsum("bhqk,bkhd->bqhd", attention, heads["v"]).reshape(2, 64, 256)
    expected = mixed @ weights["to_out.0.weight"].T + weights["to_out.0.bias"]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    released = talking_heads(weights, True, "released")(tokens)
    assert np.abs(released - expected).max() > 10 * TOLERANCE


def test_tokens_attend_to_themselves_only_when_alone():
    """In a 7 x 7 grid, padded to 8 and shifted by 2, the last token is alone in its part of the
    fourth window if padding is masked."""
    unmasked, masked = (
        np.diagonal(window_mask(7, 7, 4, 2, mask_padding, mask_self=True), axis1=1, axis2=2)
        for mask_padding in (False, True)
    )
    assert (unmasked < -1e8).all()
    assert np.argwhere(masked > -1e8).tolist() == [[3, 0]] and masked[3, 0] == 0
    assert window_mask(1, 1, 1, 0, False, mask_self=True) == 0


@pytest.mark.parametrize(("name", "added"), [("vit", 9 * 12), ("swin", 90), ("cait", 26 * 4)])
def test_added_parameters(name, added):
    """One temperature per head: 9 blocks of 12 heads; 2 of 3, 6 of 6 and 4 of 12; 26 of 4."""
    assert added_parameters(name, lsa=True) == added


TINY = {
    "vit": {"width": 16, "heads": 2, "depth": 3},
    "swin": {"width": 8, "heads": 1, "depths": (1, 2)},
    "cait": {"width": 16, "heads": 2, "depth": 2, "class_depth": 1},
}


@pytest.mark.parametrize("name", TINY)
def test_every_temperature_gets_a_gradient(name):
    """On half-size views, for which Swin pads a window."""
    model = create_model(name, image_size=16, patch_size=2, init="fan_in", lsa=True, **TINY[name])
    graph, weights = nnx.split(model)
    images = jnp.asarray(hashed("images", (2, 8, 8, 3), 1.0))

    @quick_jit
    @jax.grad
    def gradients(weights):
        return jnp.sin(nnx.merge(graph, weights).features(images)).sum()

    found = nnx.to_flat_state(gradients(weights))
    values = {".".join(map(str, path)): np.asarray(v.get_value()) for path, v in found}
    assert all(np.isfinite(value).all() for value in values.values())
    temperatures = [v for k, v in values.items() if k.endswith("temperature")]
    assert len(temperatures) == 3 and all((t != 0).all() for t in temperatures)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cait", {"lsa": True, "lsa_mask": "realeased"}, 'did you mean "released"'),
        ("cait", {"lsa_mask": "released"}, "nothing is masked without model.lsa"),
        ("vit", {"lsa": True, "lsa_mask": "released"}, "has no option"),
        (
            "vit",
            {"lsa": True, "init": "mimetic", "pool": "mean", "pos_embed": "sincos"},
            "attend to themselves too, which model.lsa masks",
        ),
    ],
)
def test_mistakes_get_one_sentence(name, options, words):
    with pytest.raises(UserError, match=words):
        create_model(name, **options)
