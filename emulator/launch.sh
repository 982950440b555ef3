#!/bin/sh
# Runs one host until it is powered off or killed. Started by host.py in a mount namespace of its own, so that nothing
# mounted here outlives it; the variables are its own.
set -eu

join() { for group in "$@"; do echo $$ >"$group/cgroup.procs"; done; }

# shellcheck disable=SC2086  # lists of directories
join $GROUPS_BEFORE

mkdir -p "$HOST_DIRECTORY/rw" "$HOST_DIRECTORY/root"
if [ -e "$HOST_DIRECTORY/disk.img" ]; then
  mount -o loop "$HOST_DIRECTORY/disk.img" "$HOST_DIRECTORY/rw"
fi
mkdir -p "$HOST_DIRECTORY/rw/upper" "$HOST_DIRECTORY/rw/work"
mount -t overlay "$HOST" "$HOST_DIRECTORY/root" \
  -o "lowerdir=$LAYERS,upperdir=$HOST_DIRECTORY/rw/upper,workdir=$HOST_DIRECTORY/rw/work"

# systemd-nspawn wants its /run/systemd/nspawn on a tmpfs, and would leave files in the machine's /run.
: >"$HOST_DIRECTORY/network"
mount --bind "/run/netns/$NAMESPACE" "$HOST_DIRECTORY/network"
mount -t tmpfs -o mode=755,size=4m tmpfs /run
mkdir -p /run/systemd/nspawn

# From here on no device of the machine can be opened.
# shellcheck disable=SC2086
join $GROUPS_AFTER

export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 UNIFIED_CGROUP_HIERARCHY=1
status=133 # a host that rebooted
while [ "$status" = 133 ]; do
  status=0
  # shellcheck disable=SC2016,SC2086
  sh -c 'echo $$ >"$CONTAINER_GROUP/cgroup.procs" && exec "$@"' sh systemd-nspawn --quiet --register=no --keep-unit \
    --network-namespace-path="$HOST_DIRECTORY/network" --directory="$HOST_DIRECTORY/root" --machine="$HOST" \
    --hostname="$HOST" --boot --console=pipe --link-journal=no --resolv-conf=off --timezone=off \
    --kill-signal=SIGRTMIN+3 --capability=CAP_NET_ADMIN ${CLOCK_BIND:+"$CLOCK_BIND"} || status=$?
done
echo "systemd-nspawn ended with $status"
exit "$status"
