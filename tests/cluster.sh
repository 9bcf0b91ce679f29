#!/usr/bin/env bash
# A real SLURM on this machine, for the tests: munge, slurmctld and four slurmd, of Debian's packages, as root.
#   cluster.sh install                  its packages
#   cluster.sh start [--accounting | --forgetful]     nodes n1 and n2 (partition gpu), n3 (frail), n4 (low, and urgent,
#                                                     whose jobs preempt those of low); forgetful: of jobs that ended
#   cluster.sh stop
# The nodes say that they have more CPUs and memory than this machine, and GPUs that are only device files, so that
# no test waits for another's jobs.
set -euo pipefail
verb=${1:-}
[ "${2:-}" = --forgetful ] && age=20 || age=600 # seconds for which SLURM knows a job that has ended
conf=/etc/slurm
state=/var/lib/kd-test-cluster
mark="# the test cluster of kd"

await() {
  for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done
  echo "cluster.sh: gave up waiting for: $*" >&2
  return 1
}

start_munge() {
  mkdir -p /run/munge
  [ -s /etc/munge/munge.key ] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none
  chown -R munge:munge /etc/munge /var/lib/munge /var/log/munge /run/munge
  chmod 400 /etc/munge/munge.key
  munge -n >/dev/null 2>&1 || runuser -u munge -- /usr/sbin/munged
  await munge -n
}

configure() {
  if [ -s $conf/slurm.conf ] && ! grep -q "$mark" $conf/slurm.conf; then
    echo "cluster.sh: $conf/slurm.conf is of another cluster; it stays as it is" >&2
    exit 1
  fi
  rm -rf $state
  mkdir -p $conf $state/control
  : >$conf/gres.conf
  for node in 1 2 3 4; do
    mkdir -p $state/n$node
    for gpu in 0 1 2 3; do
      mknod $state/gpu-$node-$gpu c 1 3 2>/dev/null || touch $state/gpu-$node-$gpu
      echo "NodeName=n$node Name=gpu File=$state/gpu-$node-$gpu" >>$conf/gres.conf
    done
  done
  # Naming v1 keeps SLURM 22.05 from looking for cgroups that it would not use; later ones can be told so.
  if dpkg --compare-versions "$(dpkg-query -W -f '${Version}' slurmd)" ge 23.11
  then echo "CgroupPlugin=disabled" >$conf/cgroup.conf
  else echo "CgroupPlugin=cgroup/v1" >$conf/cgroup.conf; fi
  cat >$conf/slurm.conf <<CONF
$mark
ClusterName=kdtest
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
StateSaveLocation=$state/control
SlurmdSpoolDir=$state/%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd-%n.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd-%n.log
SchedulerParameters=bf_interval=1,sched_interval=1
ReturnToService=2
KillWait=3
MinJobAge=$age
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n[1-4] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=[17001-17004] CPUs=8 RealMemory=64000 Gres=gpu:4
PartitionName=gpu Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
PartitionName=low Nodes=n4 PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=n4 PriorityTier=10 MaxTime=INFINITE State=UP
PartitionName=frail Nodes=n3 MaxTime=INFINITE State=UP
CONF
}

start_accounting() {
  cat >>$conf/slurm.conf <<CONF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
CONF
  cat >$conf/slurmdbd.conf <<CONF
DbdHost=localhost
SlurmUser=root
AuthType=auth/munge
LogFile=$state/slurmdbd.log
PidFile=$state/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=kdtest
CONF
  chmod 600 $conf/slurmdbd.conf
  mkdir -p /run/mysqld
  chown mysql: /run/mysqld
  if ! mariadb -e 'select 1' >/dev/null 2>&1; then
    setsid mariadbd --user=mysql --skip-networking --innodb-lock-wait-timeout=900 >$state/mariadb.log 2>&1 &
  fi
  await mariadb -e 'select 1'
  mariadb -e "create database if not exists kdtest; create user if not exists slurm@localhost identified by 'slurm';
    grant all on kdtest.* to slurm@localhost;"
  slurmdbd
  await sacctmgr -n list cluster
  sacctmgr -i -Q add cluster kdtest >/dev/null || true
  sacctmgr -i -Q add account kd cluster=kdtest >/dev/null || true
  sacctmgr -i -Q add user "$(id -un)" account=kd >/dev/null || true
}

case $verb in
install)
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -qq -y --no-install-recommends munge slurmctld slurmd slurm-client slurmdbd mariadb-server >/dev/null
  ;;
start)
  start_munge
  configure
  if [ "${2:-}" = --accounting ]; then start_accounting; fi
  slurmctld -c
  await scontrol ping
  for node in 1 2 3 4; do slurmd -N n$node; done
  await bash -c '[ "$(sinfo -h -N -o %T | grep -c idle)" -ge 4 ]'
  ;;
stop)
  for file in $state/slurmd-*.pid $state/slurmctld.pid $state/slurmdbd.pid; do
    [ ! -s "$file" ] || kill "$(cat "$file")" 2>/dev/null || true
  done
  await bash -c '! pgrep -r S,R,D -x "slurmctld|slurmd|slurmdbd"'
  ;;
*)
  echo "cluster.sh: '$verb': expected install, start or stop" >&2
  exit 2
  ;;
esac
