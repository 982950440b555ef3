#!/bin/sh
# Usage: binfmt.sh PLACE NAME RULE COMMAND…: runs a command while the kernel knows how to start programs by RULE.
# What is mounted at PLACE, if nothing is yet, goes with the mount namespace that this is given.
set -eu
place=$1 name=$2 rule=$3
shift 3
[ -e "$place/register" ] || mount -t binfmt_misc none "$place"
# Of two at once one finds it made.
[ -e "$place/$name" ] || printf '%s' "$rule" >"$place/register" || [ -e "$place/$name" ]
exec "$@"
