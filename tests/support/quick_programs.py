"""Environment variables that make XLA compile fast. Import and call this before JAX is imported.

Tests compile thousands of small programs and run each of them a few times, so compiling takes most
of their time. Set the variables yourself to test programs as users run them:
`JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS= pytest`.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile

# XLA's older emitters compile twice as fast as its fusion emitters, and code generation is faster
# unsplit. Newer jaxlib releases lack the first flag, and an unknown flag aborts the process.
_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
_PROBE = "from jaxlib import xla_client; xla_client.make_cpu_client()"


def use_quick_programs() -> None:
    """Sets the variables that are not set yet, for this process and those it starts.

    Compiled programs are kept in a temporary folder that all of these processes share. Set
    JAX_COMPILATION_CACHE_DIR to keep them between runs.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="smallvit_jax_programs_")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if "XLA_FLAGS" not in os.environ:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=os.environ | {"XLA_FLAGS": _FLAGS},
            capture_output=True,
        )
        os.environ["XLA_FLAGS"] = "" if probe.returncode else _FLAGS
