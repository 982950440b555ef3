"""Names, addresses, sizes and rules: what is decided before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from emulator.errors import UsageError
from emulator.faults import plan_partition
from emulator.files import mounts_below
from emulator.inventory import build_inventory
from emulator.link_emulation import plan_iptables, plan_netem, plan_rules
from emulator.network import plan_bridge, plan_host_side
from emulator.quantities import (
    read_bytes,
    read_cpus,
    read_delay,
    read_disk,
    read_ppm,
    read_rate,
    read_seconds,
    read_share,
)
from emulator.settings import Settings, read_settings
from emulator.state import Link
from emulator.topology import MOST_HOSTS, choose, plan_hosts

SETTINGS = Settings()


def test_the_chapters_testbed_is_a_desktop_and_sixteen_boards() -> None:
    hosts = plan_hosts(SETTINGS, 17)
    assert [h.name for h in hosts] == ["desktop", *(f"pi{n:02d}" for n in range(1, 17))]
    assert (hosts[0].address, hosts[16].address) == ("10.77.0.10", "10.77.0.26")


def test_no_two_hosts_share_anything_and_names_fit_the_kernel() -> None:
    hosts = plan_hosts(Settings(prefix="abcdef"), MOST_HOSTS)
    for values in zip(*((h.name, h.address, h.mac, h.machine_id, h.namespace, h.port) for h in hosts), strict=True):
        assert len(set(values)) == MOST_HOSTS
    assert all(len(h.port) <= 15 for h in hosts)
    assert all(int(h.address.rsplit(".")[-1]) < 254 for h in hosts)


@pytest.mark.parametrize("count", [0, -1, MOST_HOSTS + 1])
def test_an_impossible_number_of_hosts_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match="choose between"):
        plan_hosts(SETTINGS, count)


def test_hosts_are_chosen_by_name_by_list_or_all() -> None:
    hosts = plan_hosts(SETTINGS, 4)
    assert [h.name for h in choose(hosts, ["pi02,pi01", "pi02"])] == ["pi02", "pi01"]
    assert choose(hosts, ["all"]) == hosts
    with pytest.raises(UsageError, match="no host 'pi04'; there are: desktop, pi01, pi02, pi03"):
        choose(hosts, ["pi04"])


@pytest.mark.parametrize(
    "variables",
    [
        {"TESTBED_EMULATOR_PREFIX": "Toolong"},
        {"TESTBED_EMULATOR_PREFIX": "a/b"},
        {"TESTBED_EMULATOR_PREFIX": "1a"},
        {"TESTBED_EMULATOR_PREFIX": "tb\n"},
        {"TESTBED_EMULATOR_NET": "10.77"},
        {"TESTBED_EMULATOR_NET": "8.8.8"},
        {"TESTBED_EMULATOR_NET": "127.0.0"},
        {"TESTBED_EMULATOR_NET": "10.77.0.0/24"},
        {"TESTBED_EMULATOR_DIR": "/tmp/a:b"},
        {"TESTBED_EMULATOR_DIR": "/tmp/a,b"},
    ],
)
def test_names_that_could_harm_are_refused(variables: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="TESTBED_EMULATOR_"):
        read_settings(variables)


def test_a_directory_of_ones_own_has_an_inventory_of_its_own(tmp_path: Path) -> None:
    assert read_settings({}).inventory_file.parts[-3:] == ("inventory", "emulated", "hosts.yml")
    own = read_settings({"TESTBED_EMULATOR_DIR": str(tmp_path)})
    assert own.inventory_file == tmp_path / "inventory" / "hosts.yml"
    assert own.images == Settings().images  # one base image serves all


def test_interfaces_of_the_machine_are_made_in_namespaces_only() -> None:
    hosts = plan_hosts(SETTINGS, 2)
    lines = plan_bridge(SETTINGS, hosts)
    assert "addr add 10.77.0.254/24 dev br0" in lines
    assert "link add v-pi01 type veth peer name eth0 netns tb-pi01" in lines
    assert "addr add 10.77.0.11/24 broadcast + dev eth0" in plan_host_side(hosts[1])


def test_the_inventory_groups_hosts_and_checks_their_keys() -> None:
    inventory = yaml.safe_load(yaml.safe_dump(build_inventory(SETTINGS, plan_hosts(SETTINGS, 3))))
    testbed = inventory["testbed"]
    assert list(testbed["children"]["desktops"]["hosts"]) == ["desktop"]
    assert testbed["children"]["boards"]["hosts"]["pi02"]["ansible_host"] == "10.77.0.12"
    assert "StrictHostKeyChecking=yes" in testbed["vars"]["ansible_ssh_common_args"]
    assert testbed["vars"]["control_namespace"] == "tb-lab"
    assert list(inventory["influxdb"]["hosts"]) == ["desktop"]


def test_a_partition_cuts_both_ways_also_from_those_not_named() -> None:
    pairs = plan_partition([["a"]], ["a", "b", "c"], one_way=False)
    assert sorted(pairs) == [("a", "b"), ("a", "c"), ("b", "a"), ("c", "a")]
    three = plan_partition([["a"], ["b"]], ["a", "b", "c"], one_way=False)
    assert len(three) == 6


def test_a_one_way_partition_loses_only_what_the_first_group_sends() -> None:
    assert plan_partition([["a"]], ["a", "b", "c"], one_way=True) == [("a", "b"), ("a", "c")]


def test_a_partition_without_two_sides_is_refused() -> None:
    with pytest.raises(UsageError, match="two sides"):
        plan_partition([["a", "b"]], ["a", "b"], one_way=False)
    with pytest.raises(UsageError, match="in two groups"):
        plan_partition([["a", "b"], ["b"]], ["a", "b", "c"], one_way=False)


def test_rules_replace_the_table_whole() -> None:
    rules = plan_rules([("v-pi01", "v-pi02")], ["v-pi03"])
    assert rules.startswith("table bridge testbed\ndelete table bridge testbed\ntable bridge testbed {")
    assert 'iifname . oifname { "v-pi01" . "v-pi02" } drop' in rules
    assert rules.index("drop") < rules.index("queue num 77")
    assert "drop" not in plan_rules([], []) and "queue" not in plan_rules([], [])


def test_iptables_queues_what_a_port_sends_and_receives() -> None:
    assert plan_iptables(["v-pi01"]).splitlines() == [
        "*filter",
        ":FORWARD ACCEPT [0:0]",
        "-A FORWARD -m physdev --physdev-in v-pi01 -j NFQUEUE --queue-num 77",
        "-A FORWARD -m physdev --physdev-out v-pi01 -j NFQUEUE --queue-num 77",
        "COMMIT",
    ]


def test_netem_is_told_in_its_own_units() -> None:
    words = plan_netem(Link(delay_s=0.005, jitter_s=0.001, loss=0.01, rate=40e6))
    assert " ".join(words) == "limit 10000 delay 5000us 1000us loss 1% rate 40000000bit"


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (read_bytes, "512M", 512 << 20),
        (read_bytes, "2G", 2 << 30),
        (read_seconds, "20ms", 0.02),
        (read_seconds, "-1d", -86400.0),
        (read_rate, "40mbit", 40e6),
        (read_rate, "1.5Gbit", 1.5e9),
        (read_delay, "10s", 10.0),
        (read_disk, "64M", 64 << 20),
        (read_share, "1%", 0.01),
        (read_share, "0.25", 0.25),
        (read_cpus, "0.5", 0.5),
        (read_ppm, "-50", -50.0),
    ],
)
def test_quantities_are_read_as_people_write_them(read: object, text: str, value: float) -> None:
    assert callable(read) and read(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (read_bytes, "2"),
        (read_bytes, "-1G"),
        (read_seconds, "5"),
        (read_seconds, "nan s"),
        (read_rate, "40"),
        (read_delay, "-1ms"),
        (read_delay, "11s"),
        (read_disk, "63M"),
        (read_disk, "999999G"),
        (read_share, "101%"),
        (read_share, "-1%"),
        (read_cpus, "0"),
        (read_cpus, "inf"),
        (read_ppm, "1e3"),
    ],
)
def test_a_wrong_quantity_is_refused_with_an_example(read: object, text: str) -> None:
    with pytest.raises(UsageError, match="give"):
        assert callable(read)
        read(text)


def test_what_is_mounted_below_a_directory_is_seen() -> None:
    mounts = "proc /proc proc rw 0 0\nnone /a/b\\040c/dev tmpfs rw 0 0\nnone /a/bc tmpfs rw 0 0\n"
    assert mounts_below(Path("/a/b c"), mounts) == ["/a/b c/dev"]
