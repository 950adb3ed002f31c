# Sourced: points sbatch, squeue, sacct and the rest at the dev cluster. See up.sh.
# shellcheck shell=bash
export DEV_CLUSTER="${DEV_CLUSTER:-/tmp/adit-dev-cluster-$(id -u)}"
export SLURM_CONF="$DEV_CLUSTER/slurm.conf"
