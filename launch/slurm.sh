#!/bin/bash
# One stage of a recipe on several nodes:
#   sbatch --nodes 4 --gpus-per-node 8 launch/slurm.sh recipes/NAME/7_ppo.yaml ppo launch/zero3.yaml [KEY=VALUE ...]
# Every node starts one launcher; they meet at the first node of the job. The run folder has to be on a disk that all
# nodes see. Earlier stages have to be finished (`e2h run recipes/NAME --only STAGE`).
#SBATCH --job-name=e2h
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
set -euo pipefail

if [ "$#" -lt 3 ]; then
    echo "usage: sbatch launch/slurm.sh STAGE_FILE.yaml STAGE_KIND LAUNCH.yaml [KEY=VALUE ...]" >&2
    exit 2
fi
stage_file=$1 kind=$2 config=$3
shift 3

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((10000 + SLURM_JOB_ID % 20000))
per_node=${SLURM_GPUS_ON_NODE:-1}
export first port per_node config kind stage_file

# SLURM_NODEID is known inside srun only, hence the single quotes.
srun --kill-on-bad-exit=1 bash -c '
    python -m accelerate.commands.launch --config_file "$config" \
        --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
        --num_processes "$((SLURM_NNODES * per_node))" \
        --main_process_ip "$first" --main_process_port "$port" \
        -m rlhf_e2h "$kind" "$stage_file" "$@"
' launcher "$@"
