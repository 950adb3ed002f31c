# Sourced by up.sh and down.sh: whose daemons are whose.
# shellcheck shell=bash
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launchers/dev_cluster/env.sh
. "$here/env.sh"
export PATH="$PATH:/usr/sbin:/sbin"

say() { echo "dev cluster: $*"; }
die() { echo "dev cluster: $*" >&2; exit 1; }

# One of up.sh and down.sh at a time. The lock lies beside the folder, which down.sh removes.
lock() {
  exec {lock_fd}>"$DEV_CLUSTER.lock"
  flock --timeout 120 "$lock_fd" || die "another up.sh or down.sh has held $DEV_CLUSTER.lock for 120 s"
}

# pid_of NAME: of a daemon of this cluster that runs; a pid that another program has by now does not count
pid_of() {
  local pid program="${1##*/}"
  pid="$(cat "$DEV_CLUSTER/$1.pid" 2>/dev/null)" || return 1
  [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "${program%%-*}" ] && echo "$pid"
}

is_up() { pid_of "$1" >/dev/null; }

# gone SECONDS PID...: wait until none of them runs
gone() {
  local tenths=$(($1 * 10)) pid; shift
  for pid in "$@"; do
    while [ -e "/proc/$pid" ] && ! grep -q '^State:\sZ' "/proc/$pid/status" 2>/dev/null; do
      [ "$((tenths -= 1))" -ge 0 ] || return 1
      sleep 0.1
    done
  done
}

# job_processes [NODE]: pids of the jobs' processes of this cluster, and of the slurmstepd above them
job_processes() {
  local files file pid
  mapfile -t files < <(grep -lzxF "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ 2>/dev/null)
  for file in "${files[@]}"; do
    grep -qzx "SLURMD_NODENAME=${1:-.*}" "$file" 2>/dev/null || continue # a shell with env.sh, a daemon
    pid="${file//[!0-9]/}"
    echo "$pid"
    pid="$(awk '$1 == "PPid:" { print $2 }' "/proc/$pid/status" 2>/dev/null)" || continue
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != slurmstepd ] || echo "$pid"
  done | sort -un
}
