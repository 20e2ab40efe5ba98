#!/usr/bin/env bash
# Runs smallvit on a Cloud TPU VM of your own. Nothing else is needed on your machine but gcloud.
#
#     export NAME=my-tpu ZONE=us-west4-a TYPE=v5litepod-8 VERSION=v2-alpha-tpuv5-lite
#     launch/tpu_vm.sh create
#     launch/tpu_vm.sh install                     # this checkout, on all workers
#     launch/tpu_vm.sh run recipe:vit,cifar10 --workdir gs://bucket/runs/x --data_dir gs://bucket/data
#     launch/tpu_vm.sh log                         # follows it
#     launch/tpu_vm.sh stop                        # it saves a checkpoint; "run" goes on from there
#     launch/tpu_vm.sh fetch runs/x runs           # a workdir on the VM's disk, to this machine
#     launch/tpu_vm.sh delete                      # ends the costs
#
# NAME, ZONE  the VM and its zone.
# TYPE        its accelerator, such as v5litepod-8 or v6e-8.
# VERSION     its software, such as v2-alpha-tpuv5-lite or v2-alpha-tpuv6e.
# PROJECT     default: that of gcloud.
# SPOT        not empty: a spot VM, cheaper; see tpu_queued_resource.sh for runs that outlive it.
set -euo pipefail

fail() {
    echo "tpu_vm.sh: $1" >&2
    exit 2
}
[[ -n ${NAME-} && -n ${ZONE-} ]] || fail "set NAME and ZONE, the VM and its zone"
root=$(cd "$(dirname "$0")/.." && pwd)
tpu() { gcloud compute tpus tpu-vm "$@" "--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"}; }
everywhere() { tpu ssh "$NAME" --worker=all "--command=$1"; }

action=${1-}
[[ -z $action ]] || shift
case $action in
    create)
        [[ -n ${TYPE-} && -n ${VERSION-} ]] || fail "set TYPE and VERSION, the accelerator and its software"
        tpu create "$NAME" "--accelerator-type=$TYPE" "--version=$VERSION" ${SPOT:+--spot}
        ;;
    install)
        folder=$(mktemp -d)
        trap 'rm -rf "$folder"' EXIT
        git -C "$root" archive --format=tar.gz --output="$folder/smallvit_jax.tar.gz" HEAD
        tpu scp "$folder/smallvit_jax.tar.gz" "$NAME:" --worker=all
        # The VM's own Python may be too old; uv brings one.
        everywhere 'set -e
            rm -rf smallvit_jax && mkdir smallvit_jax && tar -xzf smallvit_jax.tar.gz -C smallvit_jax
            python3 -m pip install --quiet --user uv
            python3 -m uv venv --quiet --clear --python 3.12 env
            python3 -m uv pip install --quiet --python env "./smallvit_jax[tpu,gcs]"
            env/bin/smallvit --version'
        ;;
    run)
        (($#)) || fail "give the arguments of smallvit, as in: run recipe:vit,cifar10 --workdir runs/x"
        everywhere "nohup smallvit_jax/launch/until_done.sh env/bin/smallvit $(printf '%q ' "$@")\
> smallvit.log 2>&1 < /dev/null &"
        ;;
    log) tpu ssh "$NAME" --worker=0 "--command=tail -n 50 -F smallvit.log" ;;
    stop) everywhere "pkill -TERM -f '[l]aunch/until_done.sh' || true" ;;  # not its own command
    fetch)
        (($# == 2)) || fail "give two folders: one on the VM, and one here, as in: fetch runs/x runs"
        mkdir -p "$2"
        tpu scp --recurse "$NAME:$1" "$2" --worker=0
        ;;
    delete) tpu delete "$NAME" --quiet ;;
    *) fail "give one of create, install, run, log, stop, fetch, delete; see the top of this file" ;;
esac
