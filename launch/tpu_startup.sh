# Runs on the TPU VM whenever it starts. tpu_queued_resource.sh puts the variables before it: WORKDIR,
# PACKAGE (a wheel in $WORKDIR.package), ARGUMENTS of smallvit, and UNTIL_DONE, the text of until_done.sh.
# The exit code goes to $WORKDIR.exit, unless the VM is being stopped.
set -euo pipefail
export HOME=${HOME:-/root}
cd "$HOME"
if [[ ! -x env/bin/smallvit ]]; then
    gcloud storage cp "$WORKDIR.package/$PACKAGE" .
    python3 -m pip install --quiet uv  # the VM's own Python may be too old
    python3 -m uv venv --quiet --clear --python 3.12 env
    python3 -m uv pip install --quiet --python env "./${PACKAGE}[tpu,gcs]"
fi
code=0
bash -c "$UNTIL_DONE" until_done.sh env/bin/smallvit "${ARGUMENTS[@]}" 2>&1 | tee -a smallvit.log ||
    code=${PIPESTATUS[0]}
if [[ $code != 130 && $code != 143 ]]; then
    echo "$code" | gcloud storage cp - "$WORKDIR.exit"
fi
