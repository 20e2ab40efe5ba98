# Runs on the TPU VM whenever it starts. tpu_queued_resource.sh puts the variables before it: WORKDIR,
# PACKAGE (a wheel in $WORKDIR.package), ARGUMENTS of smallvit, and UNTIL_DONE, the text of until_done.sh.
# The exit code goes to $WORKDIR.exit, unless the VM is being stopped; 1 if the installation failed.
set -uo pipefail
export HOME=${HOME:-/root}
cd "$HOME" || exit 1

again() {  # runs a command up to 5 times
    local attempt
    for attempt in 1 2 3 4 5; do
        "$@" && return
        sleep $((attempt * ${RETRY_AFTER:-10}))
    done
    return 1
}
report() { again bash -c "echo $1 | gcloud storage cp - '$WORKDIR.exit'"; }
install() {
    gcloud storage cp "$WORKDIR.package/$PACKAGE" . &&
        python3 -m pip install --quiet uv && # the VM's own Python may be too old
        python3 -m uv venv --quiet --clear --python 3.12 env &&
        python3 -m uv pip install --quiet --python env "./${PACKAGE}[tpu,gcs]"
}

if [[ ! -x env/bin/smallvit ]] && ! again install; then
    report 1
    exit 1
fi
# At a shutdown, every process of the VM gets SIGTERM.
PASS_ON=no bash -c "$UNTIL_DONE" until_done.sh env/bin/smallvit "${ARGUMENTS[@]}" >> smallvit.log 2>&1
code=$?
[[ $code == 130 || $code == 143 ]] || report "$code"
