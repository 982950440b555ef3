#!/bin/sh
# Process 1 of a user namespace that holds a testbed of a user who isn't root; started by rootless.py. It ends when its
# standard input does, unless a word came before: so nothing outlives an 'up' that was killed.
set -eu

servers=$(cat /etc/resolv.conf 2>/dev/null || :)
mount -t tmpfs -o mode=755 tmpfs /run
place=$(readlink -m /etc/resolv.conf)
case $place in
/run/*)
  mkdir -p "${place%/*}"
  echo "$servers" >"$place"
  ;;
esac
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$1"
echo $$ >"/sys/fs/cgroup/$1/cgroup.procs"
echo ready
read -r _
while :; do
  sleep infinity &
  wait # also for orphans of others
done
