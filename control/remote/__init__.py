"""Live operations on the hosts of an inventory, over SSH by Fabric: `exec`, `logs`, and the hands for faults.

What changes a host for good is a playbook's business; what is here looks at hosts and at running validators.
"""
