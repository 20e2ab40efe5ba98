"""Templates of the report's page and the model card, and the one way to fill them in."""

import functools
from typing import Any

import jinja2


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("smallvit_jax.reporting", "templates"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )


def render_template(name: str, **values: Any) -> str:
    """Fills in a template of this folder; in HTML all values are escaped.

    Raises jinja2.UndefinedError for a value that the template needs and does not get.
    """
    return _environment().get_template(name).render(**values)
