"""Emulates the testbed on one Linux machine: hosts with real systemd and real SSH, and what may happen to them.

Every host is a root file system (overlay over one base image) booted by systemd-nspawn, in cgroups and a network
namespace of its own, on a bridge that lives in a namespace too: the machine's own network is never touched.
"""
