"""Templates of the report page and the model card, and the function that renders them."""

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
    """Renders a template of this folder; in HTML all values are escaped.

    Raises jinja2.UndefinedError if a value that the template needs is missing.
    """
    return _environment().get_template(name).render(**values)
