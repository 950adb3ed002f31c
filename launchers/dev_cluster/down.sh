#!/usr/bin/env bash
# Stop the dev cluster that up.sh started, with its jobs, and remove its folder; with --keep, only stop it.
# --node NAME: take one node away as a power cut would, with everything that runs on it; up.sh brings it back.
set -euo pipefail
# shellcheck source=launchers/dev_cluster/common.sh
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/common.sh"

# stop NAME SIGNAL SECONDS: kill what does not go by itself
stop() {
  local pid
  pid="$(pid_of "$1")" || return 0
  kill "-$2" "$pid" 2>/dev/null || return 0
  gone "$3" "$pid" || kill -KILL "$pid" 2>/dev/null || true
}

kill_jobs() {
  local pids
  mapfile -t pids < <(job_processes "$@")
  [ "${#pids[@]}" = 0 ] || kill -KILL "${pids[@]}" 2>/dev/null || true
}

lock
[ -d "$DEV_CLUSTER" ] || { say "nothing in $DEV_CLUSTER"; exit 0; }
if [ "${1:-}" = --node ]; then
  is_up "slurmd-$2" || die "no node $2 is up"
  stop "slurmd-$2" KILL 1
  kill_jobs "$2"
  say "$2 is gone"
  exit 0
fi
# First the controller, so that nothing is requeued; last the database, which the others write to.
stop slurmctld TERM 2
for file in "$DEV_CLUSTER"/slurmd-*.pid; do
  [ -e "$file" ] || continue
  name="${file##*/}"
  stop "${name%.pid}" KILL 1
done
kill_jobs
stop slurmdbd TERM 2
if [ "${1:-}" = --keep ]; then stop mariadbd TERM 30; else stop mariadbd KILL 1; fi # it takes its time
stop munge/munged TERM 1
[ "${1:-}" = --keep ] || rm -rf "$DEV_CLUSTER"
say "stopped"
