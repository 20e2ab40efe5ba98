"""One output of a model."""


def output(model, images, name: str, **options):
    """`model.outputs` for a single name."""
    return model.outputs(images, name, **options)[name]
