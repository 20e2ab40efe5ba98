#!/usr/bin/env bash
# Runs a command again and again until it is done:
#
#     launch/until_done.sh smallvit recipe:vit,cifar10 --workdir runs/cifar10
#
# Starts it again, where it resumes, if it was killed or lost another of its processes. Ends with its
# exit code once it succeeded (0), found a mistake (2) or a bug (1), or was stopped (130, 143). SIGTERM
# and SIGINT are passed on to it as SIGTERM, of which a second one would end it without a checkpoint.
#
# RESTART_AFTER  seconds to wait before a restart; default 10.
# MAX_RESTARTS   restarts after which to give up; default 100.
# PASS_ON        "no" if whoever stops this script sends the signal to the command as well; default yes.
set -uo pipefail

child="" stopped=""
stop() {
    stopped=yes
    [[ -z $child || ${PASS_ON:-yes} == no ]] || kill -TERM "$child" 2>/dev/null
}
trap stop TERM INT

for ((restarts = 0; ; restarts++)); do
    "$@" &
    child=$!
    [[ -z $stopped ]] || stop  # the signal came before the child's number was known
    wait "$child"
    code=$?
    if [[ -n $stopped ]]; then
        while kill -0 "$child" 2>/dev/null; do  # the signal ended the wait, not the child
            wait "$child"
            code=$?
        done
        exit "$code"
    fi
    case $code in
        0 | 1 | 2 | 130 | 143) exit "$code" ;;
    esac
    if ((restarts == ${MAX_RESTARTS:-100})); then
        echo "until_done.sh: exit code $code after $restarts restarts; giving up" >&2
        exit "$code"
    fi
    echo "until_done.sh: exit code $code; starting again in ${RESTART_AFTER:-10} s" >&2
    child=""
    sleep "${RESTART_AFTER:-10}" &
    wait $!
    [[ -z $stopped ]] || exit 143
done
