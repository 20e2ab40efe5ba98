#!/usr/bin/env bash
# Trains on spot TPUs until the run is done, however often they are taken away:
#
#     export NAME=my-tpu ZONE=us-west4-a TYPE=v5litepod-8 VERSION=v2-alpha-tpuv5-lite
#     launch/tpu_queued_resource.sh recipe:vit,cifar10 \
#         --workdir gs://bucket/runs/x --data_dir gs://bucket/data
#
# Asks for a TPU that installs this checkout and runs smallvit when it starts (tpu_startup.sh). If the
# TPU is taken away, asks for the next one, which goes on from the run's last upload. Deletes it when
# the run is done, and ends with the run's exit code. If this script is stopped, the TPU goes on;
# start the script again to watch it.
#
# NAME, ZONE, TYPE, VERSION, PROJECT  as for tpu_vm.sh; TYPE must have one machine, as up to 8 chips do.
# ON_DEMAND   not empty: not a spot TPU.
# POLL_EVERY  seconds between looks at the TPU; default 60.
set -euo pipefail

fail() {
    echo "tpu_queued_resource.sh: $1" >&2
    exit 2
}
for setting in NAME ZONE TYPE VERSION; do
    [[ -n ${!setting-} ]] || fail "set $setting; see the top of this file"
done
workdir=""
for ((i = 1; i <= $#; i++)); do
    case ${!i} in
        --workdir=*) workdir=${!i#--workdir=} ;;
        --workdir) next=$((i + 1)) && workdir=${!next-} ;;
    esac
done
[[ $workdir == *://* ]] || fail "--workdir must be in a bucket, as in --workdir gs://bucket/runs/x"
workdir=${workdir%/}
kind=(--spot)
[[ -z ${ON_DEMAND-} ]] || kind=()

launch=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
resources() {
    gcloud compute tpus queued-resources "$@" "--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"}
}
state() {  # UNKNOWN if gcloud fails for another reason than that there is no such TPU
    local answer
    if answer=$(resources describe "$NAME" '--format=value(state.state)' 2>&1); then
        echo "$answer"
    elif [[ $answer == *NOT_FOUND* ]]; then
        echo ABSENT
    else
        echo UNKNOWN
    fi
}
exit_code() { gcloud storage cat "$workdir.exit" 2>/dev/null || true; }

prepare() {
    python3 -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$launch/.."
    package=$(basename "$folder"/smallvit_jax-*.whl)
    gcloud storage cp "$folder/$package" "$workdir.package/$package"
    gcloud storage rm "$workdir.exit" 2>/dev/null || true
    {
        echo "#!/usr/bin/env bash"
        printf '%s=%q\n' WORKDIR "$workdir" PACKAGE "$package" UNTIL_DONE "$(cat "$launch/until_done.sh")"
        printf 'ARGUMENTS=(%s)\n' "$(printf '%q ' "$@")"
        cat "$launch/tpu_startup.sh"
    } > "$folder/startup.sh"
}

if [[ $(state) == ABSENT ]]; then
    prepare "$@"
fi
while true; do
    now=$(state)
    code=$(exit_code)
    if [[ -n $code ]]; then
        echo "the run ended with exit code $code; deleting $NAME"
        until [[ $now == ABSENT ]]; do  # it costs money
            resources delete "$NAME" --force --quiet || true
            sleep "${POLL_EVERY:-60}"
            now=$(state)
        done
        exit "$code"
    fi
    case $now in
        SUSPENDED | FAILED)
            echo "$(date '+%F %T') $NAME is $now; asking for the next one"
            resources delete "$NAME" --force --quiet || true
            ;;
        ABSENT)
            [[ -f $folder/startup.sh ]] || prepare "$@"
            resources create "$NAME" "--node-id=$NAME" "--accelerator-type=$TYPE" \
                "--runtime-version=$VERSION" "--metadata-from-file=startup-script=$folder/startup.sh" \
                "${kind[@]}" || echo "$NAME could not be created; trying again" >&2
            ;;
        *) echo "$(date '+%F %T') $NAME is $now" ;;
    esac
    sleep "${POLL_EVERY:-60}"
done
