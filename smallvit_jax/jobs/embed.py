"""Computes the features of a folder of images, for use in other programs."""

import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import part_of
from smallvit_jax.evaluation.predictor import load_predictor
from smallvit_jax.plans.data_and_model import DatasetReader
from smallvit_jax.process import runtime
from smallvit_jax.workdir.files import make_folder, write_arrays
from smallvit_jax.workdir.ownership import check_folder
from smallvit_jax.workdir.records import write_config, write_result


def run(config: ConfigDict, workdir: Path, reader: DatasetReader) -> dict[str, Any]:
    """Writes `embeddings.npz` to `workdir` and returns the contents of `result.json`.

    The file has `features` [images, width], float32, and `names` [images], text; it loads without
    pickle.
    """
    del reader  # the images are files
    p = config.predict
    used = part_of(config, JOBS["embed"].uses)
    check_folder(workdir, used)
    r = config.runtime
    dtype = runtime.prepare(r.precision, r.compilation_cache, r.fused_attention)
    predictor = load_predictor(p.checkpoint, batch_size=p.batch_size, dtype=dtype)
    started = time.monotonic()
    features, names = predictor.embed(p.input)
    seconds = time.monotonic() - started
    target = workdir / "embeddings.npz"
    if jax.process_index() == 0:
        write_arrays(make_folder(workdir) / target.name, {"features": features, "names": names})
    write_config(workdir, used)
    result = {
        "job": "embed",
        "checkpoint": p.checkpoint,
        "checkpoint_step": predictor.meta["step"],
        "input": p.input,
        "images": len(names),
        "width": features.shape[1],
        "file": target.name,
        "seconds": round(seconds, 1),
        "images_per_second": round(len(names) / seconds, 1),
    }
    print(f"{len(names):,} images, {features.shape[1]} features each: {target}")
    return write_result(workdir, result)
