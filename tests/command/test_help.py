"""The field comments that `--help` shows."""

from smallvit_jax.command.help import field_comments, help_text
from smallvit_jax.config import default_config, leaves


def test_every_field_has_a_comment():
    comments = field_comments()
    assert set(comments) == set(leaves(default_config()))
    assert all(len(comment) > 3 for comment in comments.values())


def test_comments_behind_and_above():
    comments = field_comments()
    assert comments["pretrain.epochs"] == "passes over the images"
    assert comments["dataset.train_fraction"].startswith("part of the training images")
    assert list(comments)[:2] == ["job", "seed"]  # in the order of the file


def test_help_shows_every_field_with_the_configs_values(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    config = default_config()
    config.pretrain.views.blur = (1.0, 0.0, 0.25)
    config.model.width = 48
    text = help_text(config, "mine.py")
    assert "values of mine.py" in text
    assert "pretrain.views.blur=1.0,0.0,0.25 " in text
    assert "model.width=48 " in text and "model.depth=none " in text
    assert all(f"  {path}=" in text for path in leaves(config))
    assert max(map(len, text.splitlines())) <= 100
