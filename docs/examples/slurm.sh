#!/bin/bash
# Anneal on Slurm: a Ray node on each machine, the driver on the first (docs/cluster.md).
#   sbatch docs/examples/slurm.sh all --recipe recipes/nano2-9b-posttrain.yaml --set runs_dir=/shared/runs
# Submit it from this folder, which all machines must see. Five minutes before the time is up the stages save
# and the job is queued again: the same command continues.
#SBATCH --job-name=anneal
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
set -euo pipefail

source .venv/bin/activate
port=${RAY_PORT:-6379}
mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${machines[0]}
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN  # of this job alone: whoever has it can run code here
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_worker_niceness=0 RAY_USAGE_STATS_ENABLED=0 OMP_WAIT_POLICY=PASSIVE
cards=${SLURM_GPUS_ON_NODE:-0} cpus=${SLURM_CPUS_ON_NODE:-$(nproc)}

answers() { (: < "/dev/tcp/$head/$port") 2> /dev/null; }
# One step a machine: the loss of one ends neither the job nor the others.
for machine in "${machines[@]}"; do
  if [ "$machine" = "$head" ]; then where=(--head --port "$port" --include-dashboard false)
  else where=(--address "$head:$port"); fi
  srun --nodes=1 --ntasks=1 --nodelist="$machine" --overlap \
    ray start "${where[@]}" --num-cpus "$cpus" --num-gpus "$cards" --disable-usage-stats --block &
  for _ in {1..120}; do answers && break || sleep 1; done
done
python - "$head:$port" "${#machines[@]}" <<'WAIT'
import sys, time
import ray
ray.init(address=sys.argv[1], logging_level="ERROR")
for _ in range(300):
    there = sum(node["Alive"] for node in ray.nodes())
    if there >= int(sys.argv[2]):
        break
    time.sleep(1)
else:
    sys.exit(f"{there} of {sys.argv[2]} machines joined the Ray cluster in five minutes")
WAIT

python scripts/run_stage.py "$@" --address "$head:$port" &
driver=$!
late=
trap 'late=1; kill -TERM "$driver"' TERM
status=0
wait "$driver" || status=$?
if [ -n "$late" ]; then  # the first wait ended with the signal; this one ends with the driver
  wait "$driver" || status=$?
  if [ "$status" -ne 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
fi
jobs -p | xargs -r kill 2>/dev/null || true
exit "$status"
