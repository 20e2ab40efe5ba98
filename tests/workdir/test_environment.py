"""What is recorded about the machine, and which changes matter."""

import copy
import json
import os
import subprocess
import sys

import jax

from smallvit_jax.workdir.environment import bit_changes, environment


def test_changes_that_affect_results_are_named():
    now = environment()
    assert json.loads(json.dumps(now)) == now
    assert bit_changes(now, now) == []
    before = copy.deepcopy(now)
    before["versions"]["jaxlib"] = "0.4.1"
    before["versions"]["numpy"] = "1.0"  # does not matter
    before["device_count"] = 4
    assert bit_changes(before, now) == [
        f"device count 4 → {jax.device_count()}",
        f"jaxlib 0.4.1 → {now['versions']['jaxlib']}",
    ]
    before = now | {"threads": now["threads"] + 1}
    assert len(bit_changes(before, now)) == (now["platform"] == "cpu")
    assert bit_changes(before, now | {"platform": "gpu"}) == [f"platform {now['platform']} → gpu"]


def test_threads_are_the_cores_available_to_the_process():
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from smallvit_jax.workdir.environment import environment\n"
        "print(environment()['threads'])"
    )
    for nproc, expected in ((None, "1"), ("3", "3")):
        env = {k: v for k, v in os.environ.items() if k != "NPROC"}
        env |= {"NPROC": nproc} if nproc else {}
        out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert out.stdout.strip() == expected, out.stderr
