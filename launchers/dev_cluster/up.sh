#!/usr/bin/env bash
# A real SLURM of two or more nodes on this machine: for trying adit_scale's launcher, and for its tests.
#
#   launchers/dev_cluster/up.sh [--install]    start it; again: start only what is down
#   . launchers/dev_cluster/env.sh             point this shell's sbatch, squeue, sacct at it
#   launchers/dev_cluster/down.sh              stop it and remove its folder
#
# Needs Debian's packages slurm-wlm slurmdbd munge mariadb-server; --install fetches them (as root).
# All daemons run as the calling user, in one folder (DEV_CLUSTER), on ports from DEV_CLUSTER_PORT (16800) on: a
# SLURM that is installed on this machine is left alone, and a second dev cluster needs another folder and
# other ports. DEV_CLUSTER_NODES (2) nodes of DEV_CLUSTER_CPUS (4) processors each share the machine.
set -euo pipefail
# shellcheck source=launchers/dev_cluster/common.sh
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/common.sh"
packages=(slurm-wlm slurmdbd munge mariadb-server)
nodes="${DEV_CLUSTER_NODES:-2}" cpus="${DEV_CLUSTER_CPUS:-4}" port="${DEV_CLUSTER_PORT:-16800}"
user="$(id -un)" host="$(hostname -s)"

# daemon LOG COMMAND...: in a session of its own, holding no pipe, lock or terminal of ours
daemon() {
  local log="$1" fd; shift
  (
    for fd in "/proc/$BASHPID/fd"/*; do
      fd="${fd##*/}"
      [ "$fd" -le 2 ] || eval "exec $fd>&-"
    done
    exec setsid "$@" </dev/null >>"$log" 2>&1
  ) &
}

# wait_for SECONDS WHAT LOG COMMAND...: until the command succeeds
wait_for() {
  local end=$((SECONDS + $1)) what="$2" log="$3" seconds="$1"; shift 3
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] ||
      die "$what did not come up in $seconds s; last lines of $log: $(tail -n 3 "$log" 2>/dev/null | tr '\n' ' ')"
    sleep 0.1
  done
}

install_packages() {
  [ "$(id -u)" = 0 ] || die "--install needs root: sudo apt-get install ${packages[*]}"
  ! dpkg-query --show "${packages[@]}" >/dev/null 2>&1 || return 0
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

check() {
  local command i
  for command in munged mariadbd mariadb-install-db slurmdbd slurmctld slurmd sacctmgr; do
    command -v "$command" >/dev/null ||
      die "no $command on this machine; run up.sh --install as root (apt-get install ${packages[*]})"
  done
  for i in $(seq "$nodes"); do
    ! getent hosts "dev$i" >/dev/null || continue
    [ -w /etc/hosts ] || die "/etc/hosts has no dev$i; add '127.0.0.1 $(seq -s ' ' -f 'dev%g' "$nodes")' to it as root"
    echo "127.0.0.1 dev$i" >>/etc/hosts
  done
}

# secret NAME BYTES: a file only this user can read, made once
secret() {
  [ -s "$DEV_CLUSTER/$1" ] || (umask 077; head -c "$2" /dev/urandom | od -An -tx1 | tr -d ' \n' >"$DEV_CLUSTER/$1")
}

# Written once; a cluster whose folder stands keeps the settings it was made with.
write_settings() {
  # Short paths: a socket's may have 107 characters.
  mkdir -p "$DEV_CLUSTER"/{munge,database,state,log}
  chmod 700 "$DEV_CLUSTER"/{munge,database}
  secret munge.key 512
  secret database.password 16
  dbd_settings | (umask 077; cat >"$DEV_CLUSTER/slurmdbd.conf")
  # Two GPUs a node that are none: plain files, to try what is asked for and granted.
  touch "$DEV_CLUSTER/state/gpu"{0,1}
  echo "Name=gpu File=$DEV_CLUSTER/state/gpu[0-1]" >"$DEV_CLUSTER/gres.conf"
  # shellcheck disable=SC2016 # the mail program's own shell expands these
  printf '#!/bin/sh\n{ echo "$(date +%%FT%%T) $*"; cat; } >>"%s"\n' "$DEV_CLUSTER/log/mail" >"$DEV_CLUSTER/mail.sh"
  chmod +x "$DEV_CLUSTER/mail.sh"
  slurm_settings >"$SLURM_CONF.part"
  mv "$SLURM_CONF.part" "$SLURM_CONF"
}

dbd_settings() {
  cat <<END
AuthType=auth/munge
AuthInfo=socket=$DEV_CLUSTER/munge/socket
DbdHost=localhost
DbdPort=$((port + 20))
SlurmUser=$user
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((port + 19))
StorageUser=slurm
StoragePass=$(cat "$DEV_CLUSTER/database.password")
StorageLoc=slurm
LogFile=$DEV_CLUSTER/log/slurmdbd.log
PidFile=$DEV_CLUSTER/slurmdbd.pid
END
}

slurm_settings() {
  cat <<END
ClusterName=dev
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((port + 17))
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until its old credentials have run out: 120 s unless said otherwise.
AuthInfo=socket=$DEV_CLUSTER/munge/socket,cred_expire=5
StateSaveLocation=$DEV_CLUSTER/state
SlurmdSpoolDir=$DEV_CLUSTER/spool-%n
SlurmctldPidFile=$DEV_CLUSTER/slurmctld.pid
SlurmdPidFile=$DEV_CLUSTER/slurmd-%n.pid
SlurmctldLogFile=$DEV_CLUSTER/log/slurmctld.log
SlurmdLogFile=$DEV_CLUSTER/log/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
# Mail to users is written to log/mail.
MailProg=$DEV_CLUSTER/mail.sh
ReturnToService=2
# A node that does not answer for so long (and up to 20 s more) is down, and its jobs are requeued.
SlurmdTimeout=15
KillWait=30
MinJobAge=300
MaxArraySize=1001
SchedulerParameters=sched_interval=2,sched_min_interval=200000,bf_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=2000
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
# Memory is measured, and a job over its own is killed, without control groups, which need root.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=3
JobAcctGatherParams=UsePss,OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((port + 20))
AccountingStoragePass=$DEV_CLUSTER/munge/socket
AccountingStorageEnforce=associations,limits,qos
$(for i in $(seq "$nodes"); do
    echo "NodeName=dev$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 30 + i)) CPUs=$cpus RealMemory=16000 Gres=gpu:2 State=UNKNOWN"
  done)
# A node on another machine, which is never up: folders of this one are not there.
NodeName=far1 NodeHostname=far-away NodeAddr=127.0.0.1 Port=$((port + 30)) CPUs=$cpus RealMemory=16000 State=DOWN Reason=far
# dev is the default; jobs of urgent push those of dev back into the queue; short has a low time limit.
PartitionName=dev Nodes=dev[1-$nodes] Default=YES MaxTime=04:00:00 DefaultTime=01:00:00 PriorityTier=1
PartitionName=urgent Nodes=dev[1-$nodes] MaxTime=01:00:00 PriorityTier=10 PreemptMode=OFF
PartitionName=short Nodes=dev[1-$nodes] MaxTime=00:05:00 PriorityTier=1
PartitionName=far Nodes=far1 MaxTime=01:00:00 PriorityTier=1
END
}

start_munge() {
  is_up munge/munged && return
  local folder="$DEV_CLUSTER/munge" log="$DEV_CLUSTER/log/munged.log"
  daemon "$DEV_CLUSTER/log/munged.out" munged --force --num-threads=4 --key-file="$DEV_CLUSTER/munge.key" --socket="$folder/socket" \
    --pid-file="$folder/munged.pid" --log-file="$log" --seed-file="$folder/seed"
  wait_for 10 munged "$log" munge --socket="$folder/socket" --no-input
}

start_database() {
  is_up mariadbd && return
  local folder="$DEV_CLUSTER/database" log="$DEV_CLUSTER/log/mariadbd.log"
  if [ ! -e "$folder/made" ]; then
    find "$folder" -mindepth 1 -delete # of a start that was cut short
    mariadb-install-db --no-defaults --datadir="$folder" --user="$user" --auth-root-authentication-method=socket \
      --skip-test-db --skip-name-resolve >"$log" 2>&1 || die "no database could be made; see $log"
    touch "$folder/made"
  fi
  daemon "$log" mariadbd --no-defaults --datadir="$folder" --user="$user" --socket="$folder/socket" \
    --pid-file="$DEV_CLUSTER/mariadbd.pid" --bind-address=127.0.0.1 --port="$((port + 19))" --skip-name-resolve \
    --innodb-lock-wait-timeout=900 --innodb-buffer-pool-size=128M --innodb-flush-log-at-trx-commit=2
  wait_for 60 mariadbd "$log" timeout 10 mariadb-admin --no-defaults --socket="$folder/socket" ping
  mariadb --no-defaults --socket="$folder/socket" <<END
CREATE DATABASE IF NOT EXISTS slurm;
CREATE USER IF NOT EXISTS slurm@'127.0.0.1' IDENTIFIED BY '$(cat "$DEV_CLUSTER/database.password")';
GRANT ALL ON slurm.* TO slurm@'127.0.0.1';
END
}

# Accounts: lab is the user's own; guest has no user, so that nobody may use it.
add_accounts() {
  [ ! -e "$DEV_CLUSTER/state/accounts" ] || return 0
  local what
  for what in "cluster dev" "account lab,guest" "user $user Account=lab DefaultAccount=lab AdminLevel=Admin"; do
    # shellcheck disable=SC2086
    timeout 20 sacctmgr --immediate --quiet add $what >>"$DEV_CLUSTER/log/sacctmgr.log" 2>&1 || true # there already
  done
  sacctmgr --noheader --parsable2 show assoc user="$user" account=lab format=user | grep -qx "$user" ||
    die "no account for $user could be made; see $DEV_CLUSTER/log/sacctmgr.log"
  touch "$DEV_CLUSTER/state/accounts"
}

start_slurm() {
  local i log="$DEV_CLUSTER/log"
  is_up slurmdbd || daemon "$log/slurmdbd.out" slurmdbd
  wait_for 60 slurmdbd "$log/slurmdbd.log" timeout 10 sacctmgr --noheader --readonly show cluster
  add_accounts
  is_up slurmctld || daemon "$log/slurmctld.out" slurmctld
  for i in $(seq "$nodes"); do
    mkdir -p "$DEV_CLUSTER/spool-dev$i"
    is_up "slurmd-dev$i" || daemon "$log/slurmd-dev$i.out" slurmd -N "dev$i"
  done
  for i in $(seq "$nodes"); do # the controller may not have missed it yet
    wait_for 30 "slurmd of dev$i" "$log/slurmd-dev$i.log" is_up "slurmd-dev$i"
  done
  wait_for 30 slurmctld "$log/slurmctld.log" controller_answers
  wait_for 60 "a node" "$log/slurmctld.log" all_nodes_up
}

controller_answers() { timeout 10 scontrol ping | grep -q 'is UP'; }

all_nodes_up() {
  local n
  n="$(timeout 10 sinfo --noheader --Node --partition=dev --format=%T | grep -cE '^(idle|mixed|allocated|completing)$')"
  [ "$n" = "$nodes" ]
}

[ "${1:-}" != --install ] || install_packages
lock
[ ! -s "$SLURM_CONF" ] || nodes="$(grep -c '^NodeName=dev' "$SLURM_CONF")" port=$(($(sed -n 's/^SlurmctldPort=//p' "$SLURM_CONF") - 17))
check
[ -s "$SLURM_CONF" ] || write_settings
start_munge
start_database
start_slurm
say "$nodes nodes are up in $DEV_CLUSTER; now: . $here/env.sh"
