#!/bin/bash
# One stage of a recipe on the hosts of a file, without a scheduler:
#   launch/hostfile.sh HOSTFILE recipes/NAME/7_ppo.yaml ppo launch/zero3.yaml [KEY=VALUE ...]
# A line of HOSTFILE is `HOST slots=GPUS` (as for DeepSpeed and Open MPI); all hosts need as many slots. Every host starts
# one launcher over ssh, in this folder; they meet at the first host. The run folder has to be on a disk that all see.
# E2H_RSH is the remote shell (default ssh), E2H_PYTHON the interpreter (default python), E2H_PORT the port (default 29500).
set -euo pipefail

if [ "$#" -lt 4 ]; then
    echo "usage: launch/hostfile.sh HOSTFILE STAGE_FILE.yaml STAGE_KIND LAUNCH.yaml [KEY=VALUE ...]" >&2
    exit 2
fi
hostfile=$1 stage_file=$2 kind=$3 config=$4
shift 4
[ -r "$hostfile" ] || { echo "$hostfile: cannot be read; give a file with lines HOST slots=GPUS" >&2; exit 2; }

hosts=() slots=
while read -r host rest; do
    case $host in '' | '#'*) continue ;; esac
    count=$(sed -n 's/.*slots=\([0-9]\{1,\}\).*/\1/p' <<<"$rest")
    count=${count:-1}
    if [ -n "$slots" ] && [ "$slots" != "$count" ]; then
        echo "$hostfile: $host has $count slots and the hosts before it $slots; all need as many" >&2
        exit 2
    fi
    slots=$count
    hosts+=("$host")
done <"$hostfile"
[ "${#hosts[@]}" -gt 0 ] || { echo "$hostfile: no host in it; write lines HOST slots=GPUS" >&2; exit 2; }

launchers=()
trap 'kill "${launchers[@]}" 2>/dev/null || true' EXIT INT TERM
for rank in "${!hosts[@]}"; do
    command=(
        "${E2H_PYTHON:-python}" -m accelerate.commands.launch --config_file "$config"
        --num_machines "${#hosts[@]}" --machine_rank "$rank" --num_processes "$((${#hosts[@]} * slots))"
        --main_process_ip "${hosts[0]}" --main_process_port "${E2H_PORT:-29500}"
        -m rlhf_e2h "$kind" "$stage_file" "$@"
    )
    ${E2H_RSH:-ssh} "${hosts[$rank]}" "cd $(printf %q "$PWD") && $(printf '%q ' "${command[@]}")" &
    launchers+=($!)
done
# one launcher that fails would leave the others waiting for it
status=0
for _ in "${launchers[@]}"; do
    wait -n || status=$?
    [ "$status" -eq 0 ] || break
done
exit "$status"
