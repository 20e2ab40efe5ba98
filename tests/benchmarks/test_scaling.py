"""What devices send each other, and the paper model of many chips."""

import json
import subprocess
import sys

import pytest

from benchmarks.scaling import (
    BATCHES,
    CHIPS,
    NETWORKS,
    Network,
    all_reduce_seconds,
    batch_needed,
    efficiency,
    paper_rows,
    step_seconds,
)
from tests.support.tiny_jobs import ROOT

SWITCHED = Network("switched", "h100", 8e-3, 8, 400e9, 50e9, 5e-6, torus=False)
TORUS = Network("torus", "v5e-8", 3e-3, 256, 90e9, 90e9, 1e-6, torus=True)


@pytest.mark.parametrize(
    ("network", "chips", "expected"),
    [
        (SWITCHED, 1, 0.0),
        # 2 (n - 1) / n x 8 MB at the rate within a machine, or beyond; 2 log2(n) messages, twice
        (SWITCHED, 8, 2 * 7 / 8 * 8e6 / 400e9 + 2 * 6 * 5e-6),
        (SWITCHED, 64, 2 * 63 / 64 * 8e6 / 50e9 + 2 * 12 * 5e-6),
        (TORUS, 64, 2 * 63 / 64 * 8e6 / 90e9 + 2 * 28 * 1e-6),  # 7 steps along both sides, twice
    ],
)
def test_all_reduce_takes_the_time_of_bytes_and_messages(network, chips, expected):
    assert all_reduce_seconds(network, chips, 8e6, 2) == pytest.approx(expected)


def test_step_is_work_of_the_fullest_chip_and_sending():
    sending = all_reduce_seconds(TORUS, 64, 8e6, 2)
    assert step_seconds(TORUS, 64, 100, 1e-3, 8e6, 2) == pytest.approx(2e-3 + 3e-3 + sending)
    assert efficiency(TORUS, 1, 100, 1e-3, 8e6, 2) == 1


def test_batch_needed_is_the_smallest_power_of_two():
    about = (1e-3, 8e6, 2)
    batch = batch_needed(TORUS, 64, *about)
    assert efficiency(TORUS, 64, batch, *about) >= 0.5 > efficiency(TORUS, 64, batch // 2, *about)


def test_paper_rows_use_the_compiled_programs():
    row = {"model": "vit", "stage": "pretrain", "bytes": {}, "estimated_images_per_second": 8000.0}
    sent = {"collectives": {"all-reduce": 34}, "collective_bytes": {"all-reduce": 12e6}}
    compiled = [
        row | {"target": "h100", "devices": 1},
        row | {"target": "v5e-8", "devices": 8} | sent,
    ]
    rows = list(paper_rows(compiled))
    assert len(rows) == 2 * (len(BATCHES) + 1) * len(CHIPS)
    v5e = {(r["batch"], r["chips"]): r for r in rows if r["network"] == "TPU v5e"}
    one, many, grown = v5e["512", 1], v5e["512", 64], v5e["64 per chip", 64]
    assert one["images_per_second"] == pytest.approx(512 / (0.512 + 3e-3))
    assert one["efficiency"] == 1 and one["share_of_sending"] == 0
    sending = all_reduce_seconds(NETWORKS[0], 64, 12e6, 34)
    assert many["efficiency"] == pytest.approx(0.515 / (64 * (0.008 + 3e-3 + sending)))
    assert grown["batch_size"] == 4096
    assert grown["efficiency"] == pytest.approx((0.064 + 3e-3) / (0.064 + 3e-3 + sending))


COUNT = """
import json
import jax
jax.config.update("jax_num_cpu_devices", 2)
from benchmarks.scaling import count_collectives
fields = {"model.depth": 1, "finetune.augment.policy": "none", "finetune.augment.mix": 0.0}
print(json.dumps([count_collectives("finetune", devices, **fields) for devices in (1, 2)]))
"""


@pytest.mark.slow
def test_two_devices_send_the_gradients_and_one_sends_nothing():
    done = subprocess.run([sys.executable, "-c", COUNT], cwd=ROOT, capture_output=True, text=True)
    one, two = json.loads(done.stdout.splitlines()[-1])
    assert one["collectives"] == {}
    assert two["collectives"] == {"all-reduce": 1}
    assert two["gradient_bytes"] <= two["bytes"]["all-reduce"] < 1.01 * two["gradient_bytes"]
