"""The text of `--help`."""

from smallvit_jax.command.help import help_text
from smallvit_jax.config import default_config
from smallvit_jax.config.tree import FIELD_AT


def test_help_shows_every_field_with_the_configs_value(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    config = default_config()
    config.pretrain.views.blur = (1.0, 0.0, 0.25)
    config.model.width = 48
    text = help_text(config, "mine.py")
    assert "values of mine.py" in text
    assert "pretrain.views.blur=1.0,0.0,0.25 " in text
    assert "model.width=48 " in text and "model.depth=none " in text
    shown = [line.strip().partition("=")[0] for line in text.splitlines()]
    assert [path for path in shown if path in FIELD_AT] == list(FIELD_AT)
    assert max(map(len, text.splitlines())) <= 100


def test_field_help_names_choices_and_the_meaning_of_none():
    assert FIELD_AT["pretrain.optimizer.name"].help == "optimizer: adamw | sgd | lars"
    assert FIELD_AT["model.stem_norm"].help == (
        "normalization in the conv stem: batch | layer; default: batch"
    )
    assert "cls (the class token, as in the reference) | mean (" in FIELD_AT["model.pool"].help
    assert FIELD_AT["model.spt_directions"].help == (
        "directions in which spt shifts the image: 4 (diagonal) | 8 (also left, right, up and "
        "down); default: 4"
    )
    assert all(field.about for field in FIELD_AT.values())
