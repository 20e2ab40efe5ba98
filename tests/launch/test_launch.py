"""The scripts of `launch/` with stand-ins for a cloud and a cluster on this machine."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from benchmarks.kill_campaign import compare
from smallvit_jax.command.flags import read_flags, resolve
from smallvit_jax.config.check import validate
from tests.launch.stand_ins import (
    LAUNCH,
    arguments,
    calls,
    environment,
    running_vm,
    start,
    take_away,
    wait_until,
)

TPU = {"NAME": "tpu", "ZONE": "zone", "TYPE": "v5litepod-8", "VERSION": "v2", "POLL_EVERY": "0.1"}
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


def undisturbed(folder: Path, epochs: int, checkpoint_every: int) -> Path:
    """Runs smallvit to the end, without any script; returns its workdir."""
    words = arguments(folder / "undisturbed", epochs, checkpoint_every)
    subprocess.run(
        [sys.executable, "-m", "smallvit_jax", *words], env=environment(folder), check=True
    )
    return folder / "undisturbed"


def tool(name: str) -> str:
    """The path of a program that the extra "test" installs beside Python."""
    path = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert path, f"there is no {name}: pip install '.[test]'"
    return path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script):
    done = subprocess.run(
        [tool("shellcheck"), "--shell=bash", "--severity=warning", script],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_dockerfile_passes_hadolint():
    command = [tool("hadolint"), LAUNCH / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("code", [0, 1, 2, 130, 143])
def test_until_done_ends_with_codes_that_a_restart_does_not_change(tmp_path, code):
    process = start("until_done.sh", ["bash", "-c", f"echo x >> runs; exit {code}"], tmp_path)
    assert process.wait(30) == code
    assert (tmp_path / "runs").read_text() == "x\n"


def test_until_done_restarts_after_kills_and_gives_up_in_the_end(tmp_path):
    command = ["bash", "-c", "echo x >> runs; [[ $(wc -l < runs) == 4 ]] || kill -KILL $$"]
    assert start("until_done.sh", command, tmp_path).wait(30) == 0
    assert (tmp_path / "runs").read_text().count("x") == 4
    process = start("until_done.sh", ["bash", "-c", "exit 75"], tmp_path, MAX_RESTARTS="2")
    assert process.wait(30) == 75
    assert (
        "exit code 75 after 2 restarts; giving up" in (tmp_path / "until_done.sh.log").read_text()
    )


def test_until_done_passes_sigterm_on(tmp_path):
    program = "trap 'echo saved >> runs; exit 143' TERM; echo ready >> runs; sleep 60 & wait"
    process = start("until_done.sh", ["bash", "-c", program], tmp_path)
    wait_until(lambda: (tmp_path / "runs").exists(), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert (tmp_path / "runs").read_text() == "ready\nsaved\n"


def test_command_that_gets_the_signal_anyway_gets_it_once(tmp_path):
    """As at the shutdown of a VM."""
    program = (
        "trap 'echo stopped >> runs; sleep 1; exit 143' TERM; echo ready > runs; sleep 60 & wait"
    )
    process = start("until_done.sh", ["bash", "-c", program], tmp_path, PASS_ON="no")
    wait_until(lambda: (tmp_path / "runs").exists(), process)
    child = int(subprocess.check_output(["pgrep", "-P", str(process.pid)]).split()[0])
    for pid in (process.pid, child):
        os.kill(pid, signal.SIGTERM)
    assert process.wait(30) == 143
    assert (tmp_path / "runs").read_text() == "ready\nstopped\n"


def test_watcher_waits_while_gcloud_fails_and_deletes_in_the_end(tmp_path):
    """It takes no failure for a missing TPU, and tries to create and to delete one again."""
    (tmp_path / "cloud").mkdir()
    (tmp_path / "cloud/failures").write_text("describe create describe delete")
    program = tmp_path / "program"
    program.write_text("#!/bin/bash\nexit 0\n")
    program.chmod(0o755)
    words = ["quickstart", "--workdir", f"file://{tmp_path}/bucket/run"]
    process = start("tpu_queued_resource.sh", words, tmp_path, **TPU, FAKE_PYTHON=str(program))
    assert process.wait(60) == 0, (tmp_path / "tpu_queued_resource.sh.log").read_text()
    assert (tmp_path / "cloud/failures").read_text() == ""
    assert running_vm(tmp_path) is None and len(list((tmp_path / "cloud/vms").iterdir())) == 1


def test_failed_installation_is_reported(tmp_path):
    process = start(
        "tpu_queued_resource.sh",
        ["quickstart", "--workdir", f"file://{tmp_path}/bucket/run"],
        tmp_path,
        **TPU,
        FAKE_SMALLVIT="",  # not there yet, and no network to install it from
        RETRY_AFTER="0",
    )
    assert process.wait(120) == 1
    assert running_vm(tmp_path) is None


def spot_run(folder: Path, epochs: int, checkpoint_every: int) -> subprocess.Popen:
    words = arguments(f"file://{folder}/bucket/run", epochs, checkpoint_every)
    return start("tpu_queued_resource.sh", words, folder, **TPU)


def manifest(bucket: Path) -> str:
    """What the last complete upload held."""
    file = bucket / ".manifest.json"
    return file.read_text() if file.exists() else ""


@pytest.mark.slow
def test_spot_run_goes_on_on_the_next_tpu(tmp_path):
    bucket = tmp_path / "bucket/run"
    process = spot_run(tmp_path, 60, 20)
    try:
        wait_until(lambda: "/params/" in manifest(bucket), process)
        take_away(running_vm(tmp_path))
        assert process.wait(120) == 0, (tmp_path / "tpu_queued_resource.sh.log").read_text()
    finally:
        process.kill()
    assert len(list((tmp_path / "cloud/vms").iterdir())) == 2
    assert "resuming after step" in (tmp_path / "cloud/vms/1/smallvit.log").read_text()
    assert compare(undisturbed(tmp_path, 60, 20), bucket) == []
    assert running_vm(tmp_path) is None  # deleted, so that it costs nothing
    created = [words for words in calls(tmp_path) if "create" in words]
    expected = ["--node-id=tpu", "--accelerator-type=v5litepod-8", "--runtime-version=v2", "--spot"]
    assert all(set(expected) <= set(words) for words in created) and len(created) == 2


def test_spot_run_ends_at_a_mistake(tmp_path):
    words = [*arguments(f"file://{tmp_path}/bucket/run", 2, 5), "--config.pretrain.epochs=many"]
    process = start("tpu_queued_resource.sh", words, tmp_path, **TPU)
    assert process.wait(120) == 2
    assert "given twice" in (tmp_path / "cloud/vms/0/smallvit.log").read_text()


@pytest.mark.parametrize(
    ("script", "words", "more", "sentence"),
    [
        ("tpu_queued_resource.sh", ["recipe", "--workdir", "gs://a/b"], {}, "set NAME"),
        ("tpu_queued_resource.sh", ["recipe", "--workdir", "runs/x"], TPU, "must be in a bucket"),
        ("tpu_vm.sh", ["create"], {}, "set NAME and ZONE"),
        ("tpu_vm.sh", ["create"], {"NAME": "a", "ZONE": "b"}, "set TYPE and VERSION"),
        ("tpu_vm.sh", ["run"], TPU, "give the arguments of smallvit"),
        ("tpu_vm.sh", ["fetch", "runs"], TPU, "give two folders"),
        ("tpu_vm.sh", ["fly"], TPU, "give one of create, install"),
    ],
)
def test_scripts_answer_mistakes_with_a_sentence(tmp_path, script, words, more, sentence):
    assert start(script, words, tmp_path, **more).wait(30) == 2
    assert sentence in (tmp_path / f"{script}.log").read_text()
    assert calls(tmp_path) == []


def test_tpu_vm_creates_installs_runs_and_deletes(tmp_path):
    for words in (["create"], ["install"], ["fetch", "runs/x", "here"], ["delete"]):
        # What "install" runs there needs a network; see test_dockerfile_installs_a_working_command.
        code = start("tpu_vm.sh", words, tmp_path, **TPU, FAKE_SSH="record").wait(60)
        assert code == 0
    made = [words[2:] for words in calls(tmp_path)]
    assert made[0] == [
        *("tpu-vm", "create", "tpu", "--accelerator-type=v5litepod-8", "--version=v2"),
        "--zone=zone",
    ]
    assert made[1][:2] == ["tpu-vm", "scp"] and made[1][3:] == [
        "tpu:",
        "--worker=all",
        "--zone=zone",
    ]
    assert made[2][:4] == ["tpu-vm", "ssh", "tpu", "--worker=all"]
    assert "./smallvit_jax[tpu,gcs]" in made[2][4]
    assert made[3] == [
        "tpu-vm",
        "scp",
        "--recurse",
        "tpu:runs/x",
        "here",
        "--worker=0",
        "--zone=zone",
    ]
    assert made[4] == ["tpu-vm", "delete", "tpu", "--quiet", "--zone=zone"]


def test_tpu_vm_runs_until_done_and_stops(tmp_path):
    home = tmp_path / "cloud/home"
    shutil.copytree(LAUNCH, home / "smallvit_jax/launch")
    (home / "env/bin").mkdir(parents=True)
    program = "#!/bin/bash\ntrap 'echo stopped >> out; exit 143' TERM\n"
    program += 'printf "%s\\n" "$@" >> out\nsleep 60 & wait\n'
    (home / "env/bin/smallvit").write_text(program)
    (home / "env/bin/smallvit").chmod(0o755)
    words = ["recipe:vit,cifar10", "--workdir", "runs/my run"]
    assert start("tpu_vm.sh", ["run", *words], tmp_path, **TPU).wait(30) == 0
    deadline = time.monotonic() + 30
    while not (home / "out").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (home / "out").read_text().splitlines() == words
    assert start("tpu_vm.sh", ["stop"], tmp_path, **TPU).wait(30) == 0
    while "stopped" not in (home / "out").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (home / "out").read_text().endswith("stopped\n")


class Slurm:
    """A job under the stand-ins for srun and scontrol: two tasks, requeued until it ends."""

    def __init__(self, folder: Path, words: list[str], **environment: str):
        self.folder, self.words, self.environment = folder, words, environment
        folder.mkdir(parents=True, exist_ok=True)
        self.starts, self.process = 0, None

    def start(self) -> None:
        port = str(random.randrange(4096))  # srun's tasks meet at a port that depends on the job
        more = {"SLURM_JOB_ID": port, "SLURM_RESTART_COUNT": str(self.starts), **self.environment}
        (self.folder / "requeued").unlink(missing_ok=True)
        self.process = start("slurm.sbatch", self.words, self.folder, **more)
        self.starts += 1

    def wait(self, timeout: float = 900) -> int:
        return self.process.wait(timeout)

    def finish(self) -> int:
        """Starts the job again while it asks to be requeued; returns its exit code."""
        while self.wait() == 0 and (self.folder / "requeued").exists():
            self.start()
        return self.process.returncode

    def tasks(self) -> list[int]:
        file = self.folder / "tasks"
        return list(map(int, file.read_text().split())) if file.exists() else []

    def signal(self, signum: int, *, both: bool) -> None:
        """As at the time limit (both tasks), or as if one of the machines broke."""
        for task in self.tasks() if both else self.tasks()[-1:]:
            os.killpg(task, signum)


def test_slurm_job_is_requeued_until_it_is_done(tmp_path):
    """With a program in smallvit's place that is stopped, then loses a task, then is done."""
    program = tmp_path / "program"
    program.write_text(
        "#!/bin/bash\ncase $SLURM_RESTART_COUNT in 0) exit 143;; 1) exit 75;; esac\n"
    )
    program.chmod(0o755)
    job = Slurm(tmp_path, [], FAKE_PYTHON=str(program))
    job.start()
    assert job.finish() == 0 and job.starts == 3
    log = (tmp_path / "slurm.sbatch.log").read_text()
    # On a busy machine, the second task is killed for the first one's 75 before it ends by itself.
    codes = re.findall(r"exit code (\d+); back into the queue", log)
    assert codes in (["143", "75"], ["143", "137"])
    job = Slurm(tmp_path, [], FAKE_PYTHON=str(program), MAX_RESTARTS="0")
    job.start()
    assert job.finish() == 143 and job.starts == 1


@pytest.mark.slow
@pytest.mark.multiprocess
def test_slurm_job_goes_on_after_its_time_limit(tmp_path):
    whole = Slurm(tmp_path / "undisturbed", arguments("run", 60, 20))
    whole.start()
    job = Slurm(tmp_path / "disturbed", arguments("run", 60, 20))
    job.start()
    checkpoints = tmp_path / "disturbed/run/checkpoints"
    wait_until(lambda: list(checkpoints.glob("*/params")) != [], job.process)
    job.signal(signal.SIGTERM, both=True)
    for each in (job, whole):
        assert each.finish() == 0, (each.folder / "slurm.sbatch.log").read_text()
    assert (job.starts, whole.starts) == (2, 1)
    assert (
        "exit code 143; back into the queue"
        in (tmp_path / "disturbed/slurm.sbatch.log").read_text()
    )
    assert compare(tmp_path / "undisturbed/run", tmp_path / "disturbed/run") == []


def test_mistake_of_one_task_is_not_taken_for_the_kill_of_the_other(tmp_path):
    """The second task ends with 2 while the first still works, and is killed for it."""
    program = tmp_path / "program"
    program.write_text("#!/bin/bash\n[[ $SLURM_PROCID == 0 ]] && exec sleep 60\nsleep 1; exit 2\n")
    program.chmod(0o755)
    job = Slurm(tmp_path, [], FAKE_PYTHON=str(program))
    job.start()
    assert job.wait() == 2 and not (tmp_path / "requeued").exists()
    assert not list(tmp_path.glob(".smallvit-*"))


def test_tasks_with_a_gpu_each_use_their_first_device(tmp_path):
    program = tmp_path / "program"
    program.write_text('#!/bin/bash\necho "$JAX_LOCAL_DEVICE_IDS $SRUN_CPUS_PER_TASK" > seen\n')
    program.chmod(0o755)
    gpus = {"SLURM_GPUS_PER_TASK": "1", "SLURM_CPUS_PER_TASK": "8"}
    job = Slurm(tmp_path, [], FAKE_PYTHON=str(program), **gpus)
    job.start()
    assert job.wait() == 0 and (tmp_path / "seen").read_text() == "0 8\n"


def test_slurm_job_ends_at_a_mistake(tmp_path):
    job = Slurm(tmp_path, ["recipe:vit,digit", "--workdir", "run"])
    job.start()
    assert job.wait() == 2 and not (tmp_path / "requeued").exists()
    assert 'no dataset "digit"' in (tmp_path / "slurm.sbatch.log").read_text()


@pytest.mark.slow
def test_spot_run_taken_away_20_times(tmp_path):
    """Taken away 20 times at random moments, it ends with the bits of an undisturbed run."""
    moments = random.Random(0)
    process = spot_run(tmp_path, 3000, 25)
    try:
        for _ in range(20):
            wait_until(lambda: running_vm(tmp_path) is not None, process)
            time.sleep(moments.uniform(0, 15))
            vm = running_vm(tmp_path)
            assert process.poll() is None and vm is not None, "done before the last kill"
            take_away(vm)
        assert process.wait(900) == 0
    finally:
        process.kill()
    assert compare(undisturbed(tmp_path, 3000, 25), tmp_path / "bucket/run") == []


@pytest.mark.slow
@pytest.mark.multiprocess
def test_slurm_job_disturbed_20_times(tmp_path):
    """20 time limits and broken machines at random moments: the bits of an undisturbed job."""
    moments = random.Random(0)
    words = arguments("run", 800, 25)
    job = Slurm(tmp_path / "disturbed", words)
    job.start()
    for count in range(20):
        wait_until(lambda: len(job.tasks()) == 2, job.process)
        time.sleep(moments.uniform(0, 20))
        assert job.process.poll() is None, "done before the last kill"
        job.signal(signal.SIGTERM if count % 2 else signal.SIGKILL, both=bool(count % 2))
        assert job.wait() == 0 and (tmp_path / "disturbed/requeued").exists()
        job.start()
    assert job.finish() == 0
    whole = Slurm(tmp_path / "undisturbed", words)
    whole.start()
    assert whole.finish() == 0
    assert compare(tmp_path / "undisturbed/run", tmp_path / "disturbed/run") == []


def check_command(words: list[str]) -> None:
    """Fails unless smallvit accepts these arguments."""
    config, _, _ = resolve(read_flags(words))
    validate(config)


def test_jobset_is_complete_and_its_command_valid():
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["backoffLimit"] == 0 and spec["parallelism"] == spec["completions"] == 1
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [1, 2]  # the same as in until_done.sh and slurm.sbatch
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # required by podFailurePolicy
    (container,) = pod["containers"]
    (rule_name,) = [rule["name"] for rule in jobset["spec"]["failurePolicy"]["rules"]]
    assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule_name)  # else refused
    assert container["name"] == rule["onExitCodes"]["containerName"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert container["resources"]["limits"]["google.com/tpu"] == int(rows) * int(columns)
    check_command(container["args"])


def test_skypilot_task_is_complete_and_its_command_valid(tmp_path):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    known = {"name", "resources", "workdir", "envs", "setup", "run"}
    assert set(task) == known and task["resources"]["use_spot"]
    # The command runs with a stand-in that prints its arguments.
    smallvit = tmp_path / "env/bin/smallvit"
    smallvit.parent.mkdir(parents=True)
    smallvit.write_text('#!/bin/bash\nprintf "%s\\n" "$@" > "$HOME/arguments"\n')
    smallvit.chmod(0o755)
    subprocess.run(
        ["bash", "-c", task["run"]],
        cwd=LAUNCH.parent,
        env=os.environ | task["envs"] | {"HOME": str(tmp_path)},
        check=True,
    )
    check_command((tmp_path / "arguments").read_text().splitlines())


def dockerfile_runs() -> list[str]:
    """The RUN instructions of the Dockerfile as shell commands."""
    text = (LAUNCH / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(r"^RUN (.*)$", text, re.MULTILINE)


def test_dockerfile_refuses_unknown_devices():
    (command,) = dockerfile_runs()
    environ = os.environ | {"DEVICE": "abacus"}
    done = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "DEVICE must be cpu, gpu or tpu, not abacus\n"


@pytest.mark.slow
def test_dockerfile_installs_a_working_command(tmp_path):
    """Its RUN line in a fresh virtual environment; then the quickstart's help from elsewhere."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", LAUNCH.parent, source], check=True)
    (command,) = dockerfile_runs()
    path = f"{tmp_path}/env/bin:{os.environ['PATH']}"
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environ |= {"DEVICE": "cpu", "PATH": path}
    command = command.replace("/source", str(source))
    subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environ, check=True)
    done = subprocess.run(
        [tmp_path / "env/bin/smallvit", "quickstart", "--help"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pretrain.epochs=72" in done.stdout


def test_stand_in_for_gcloud_refuses_what_it_does_not_know(tmp_path):
    done = subprocess.run(["gcloud", "sql"], env=environment(tmp_path), capture_output=True)
    assert done.returncode == 1 and calls(tmp_path) == [["sql"]]
