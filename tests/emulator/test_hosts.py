"""Three real hosts: SSH, isolation, limits, and everything that may happen to them."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emulator.topology import plan_hosts
from tests.emulator.footprint import look, members
from tests.emulator.testbed import EMULATION, Testbed, make_testbed

pytestmark = EMULATION

ONE, TWO = "10.77.77.11", "10.77.77.12"


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """The desktop and two boards with disks and limits; afterwards nothing of them may be left."""
    made = make_testbed(tmp_path_factory.mktemp("emulated") / "a place")
    made.run("up", "-n", "3", "--disk", "1G", "--memory", "512M", "--cpus", "2")
    yield made
    seen = members(made.settings)
    made.run("down")
    left = look(made.settings, seen)
    assert left == type(left)(*[frozenset()] * 7)


def until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def round_trip_ms(testbed: Testbed, target: str, count: int = 10) -> float:
    """The shortest of some, which a busy machine disturbs least; 0 if none came back."""
    _, output = testbed.inside("pi01", f"ping -c {count} -i 0.05 -W 1 -q {target}")
    found = re.search(r"= ([\d.]+)/", output)
    return float(found[1]) if found else 0.0


def test_the_control_machine_logs_in_by_key_and_becomes_root(testbed: Testbed) -> None:
    done = testbed.ssh(ONE, "hostname; sudo -n id -u; systemctl is-system-running --wait")
    assert done.stdout.split() == ["pi01", "0", "running"], done.stderr


def test_a_host_with_another_key_is_refused(testbed: Testbed) -> None:
    text = testbed.settings.known_hosts.read_text()
    try:
        testbed.settings.known_hosts.write_text(text.replace(ONE, "x").replace(TWO, ONE))
        refused = testbed.ssh(ONE, "true")
    finally:
        testbed.settings.known_hosts.write_text(text)
    assert refused.returncode == 255 and "IDENTIFICATION HAS CHANGED" in refused.stderr


def test_nobody_logs_in_with_a_password(testbed: Testbed) -> None:
    done = testbed.ssh(ONE, "true", "-o", "PubkeyAuthentication=no")
    assert done.returncode == 255 and "Permission denied (publickey)" in done.stderr


def test_hosts_know_each_other_by_name(testbed: Testbed) -> None:
    assert round_trip_ms(testbed, "desktop") > 0


def test_a_command_in_a_host_has_its_exit_code_and_no_more_power_than_the_host(testbed: Testbed) -> None:
    assert testbed.inside("pi01", "exit 7")[0] == 7
    code, output = testbed.inside("pi01", "date -s 2030-01-01")
    assert code != 0 and "Operation not permitted" in output
    _, powers = testbed.inside("pi01", "grep CapEff /proc/self/status; grep CapBnd /proc/1/status")
    assert len(set(powers.replace("CapBnd", "CapEff").splitlines())) == 1
    assert int(powers.split()[1], 16) >> 25 & 1 == 0  # CAP_SYS_TIME


def test_a_host_can_open_no_device_of_the_machine(testbed: Testbed) -> None:
    device = Path("/dev/loop-control").stat().st_rdev
    script = f"mknod /dev/x c {device >> 8} {device & 255} && head -c1 /dev/x"
    code, output = testbed.inside("pi01", script)
    testbed.inside("pi01", "rm -f /dev/x")
    if code and "Operation not permitted" not in output:
        pytest.skip("only control groups of v1 can keep devices from a host here")
    assert code != 0


def test_a_host_has_no_more_memory_than_its_limit(testbed: Testbed) -> None:
    before = {name: host["process"] for name, host in testbed.status().items() if name != "links"}
    code, _ = testbed.inside("pi02", "python3 -c 'x = bytearray(700 << 20)'")
    assert code == 137
    after = testbed.status()
    assert before == {name: after[name]["process"] for name in before}
    assert testbed.inside("pi01", "systemctl is-system-running") == (0, "running\n")
    testbed.run("limits", "pi02", "--memory", "1G", "--cpus", "1.5")
    assert testbed.inside("pi02", "python3 -c 'x = bytearray(700 << 20)'")[0] == 0
    assert testbed.status()["pi02"]["limits"] == {"memory_bytes": 1 << 30, "cpus": 1.5}


def test_a_host_has_no_more_processors_than_its_limit(testbed: Testbed) -> None:
    testbed.run("limits", "pi02", "--cpus", "0.2")
    burn = "import time; end = time.time() + 1\nwhile time.time() < end: pass\nprint(time.process_time())"
    assert float(testbed.inside("pi02", f"python3 -c '{burn}'")[1]) < 0.5
    testbed.run("limits", "pi02", "--cpus", "none")
    assert testbed.status()["pi02"]["limits"]["cpus"] == 0


def test_a_disk_of_its_own_gets_full(testbed: Testbed) -> None:
    code, output = testbed.inside("pi01", "head -c 1100M /dev/zero > /root/full; x=$?; rm /root/full; exit $x")
    assert code != 0 and "No space left on device" in output


def test_a_paused_host_hangs_until_it_is_resumed(testbed: Testbed) -> None:
    testbed.run("pause", "pi02")
    try:
        assert testbed.status()["pi02"]["condition"] == "paused"
        code, output = testbed.inside("pi02", "true")
        assert code == 3 and "resume pi02" in output
        assert testbed.ssh(TWO, "true", "-o", "ConnectTimeout=1").returncode == 255
    finally:
        testbed.run("resume", "pi02")
    assert testbed.ssh(TWO, "true").returncode == 0


def test_a_partition_cuts_hosts_but_not_the_control_machine_and_heals(testbed: Testbed) -> None:
    testbed.run("partition", "pi01")
    assert round_trip_ms(testbed, "pi02", 2) == 0
    assert testbed.ssh(ONE, "true").returncode == 0
    assert testbed.status()["pi01"]["cut_from"] == ["desktop", "pi02"]
    testbed.run("partition", "pi02")  # in place of the other
    assert round_trip_ms(testbed, "desktop") > 0
    testbed.run("heal")
    assert round_trip_ms(testbed, "pi02") > 0


def test_a_one_way_partition_loses_only_what_one_side_sends(testbed: Testbed) -> None:
    _, one, two = plan_hosts(testbed.settings, 3)
    for here, there in ((one, two), (two, one)):  # nobody has to ask for the other's hardware address
        testbed.inside(here.name, f"ip neigh replace {there.address} lladdr {there.mac} nud permanent dev eth0")

    def requests_seen(host: str) -> int:
        names, values = re.findall(r"Icmp: (.*)", testbed.inside(host, "grep ^Icmp: /proc/net/snmp")[1])
        return int(values.split()[names.split().index("InEchos")])

    before = requests_seen("pi01"), requests_seen("pi02")
    testbed.run("partition", "--one-way", "pi01")
    assert all(
        "100% packet loss" in testbed.inside(a, f"ping -c 3 -i 0.05 -W 1 {b}")[1]
        for a, b in (("pi01", TWO), ("pi02", ONE))
    )
    assert (requests_seen("pi01"), requests_seen("pi02")) == (before[0] + 3, before[1])
    testbed.run("heal")
    assert round_trip_ms(testbed, "pi02") > 0
    for host in ("pi01", "pi02"):
        testbed.inside(host, "ip neigh flush nud permanent dev eth0")


def test_links_are_slow_lossy_and_perfect_again(testbed: Testbed) -> None:
    code, output = testbed.try_run("link", "pi01", "pi02", "--delay", "10ms")
    if code == 3 and "can't be emulated here" in output:
        pytest.skip(output.strip())
    assert code == 0 and "links are emulated by" in output
    assert round_trip_ms(testbed, "pi02") >= 40
    assert round_trip_ms(testbed, "desktop") >= 20  # whose own link is perfect
    testbed.run("link", "pi01", "--loss", "100%")
    assert round_trip_ms(testbed, "desktop", 2) == 0
    assert testbed.ssh(ONE, "true").returncode == 0
    assert "perfect" in testbed.run("link", "all")
    assert 0 < round_trip_ms(testbed, "pi02") < 20


def test_links_jitter_lose_a_share_and_have_a_rate(testbed: Testbed) -> None:
    testbed.run("link", "pi01", "--delay", "5ms", "--jitter", "10ms")
    output = testbed.inside("pi01", f"ping -c 30 -i 0.02 -q {TWO}")[1]
    shortest, _, longest = (float(number) for number in re.findall(r"[\d.]+(?=/)", output.partition("=")[2]))
    assert shortest >= 10 and longest > shortest + 5
    testbed.run("link", "pi01", "--loss", "30%")
    received = re.search(r"(\d+) received", testbed.inside("pi01", f"ping -c 50 -i 0.01 -W 1 -q {TWO}")[1])
    assert received and 1 <= int(received[1]) <= 49  # about a quarter each is lost going, coming, in vain
    for options in (["--rate", "8mbit"], ["--shared", "--shared-rate", "16mbit"]):  # a medium carries each frame twice
        testbed.run("link", "pi01", "pi02", *options)
        assert seconds_for_a_megabyte(testbed) >= 0.9
    testbed.run("link", "all", "--shared-rate", "none")
    assert seconds_for_a_megabyte(testbed) < 0.9


def seconds_for_a_megabyte(testbed: Testbed) -> float:
    """How long TCP takes from pi01 to pi02."""
    listen = "import socket; s = socket.create_server(('', 8001)); c = s.accept()[0]\nwhile c.recv(1 << 16): pass"
    send = (
        "import socket, time; s = socket.create_connection(('pi02', 8001)); began = time.monotonic()\n"
        "s.sendall(bytes(1_000_000)); s.shutdown(1); s.recv(1); print(time.monotonic() - began)"
    )
    with testbed.start("exec", "pi02", "--", "python3", "-c", listen) as receiver:
        assert until(lambda: "8001" in testbed.inside("pi02", "ss -ltn")[1])
        code, output = testbed.try_run("exec", "pi01", "--", "python3", "-c", send)
        receiver.communicate()
    assert code == 0, output
    return float(output)


def test_the_daemon_of_the_links_is_started_again_when_it_dies(testbed: Testbed) -> None:
    if not testbed.run("link", "pi01", "--delay", "10ms").count("daemon"):
        testbed.run("link", "all")
        pytest.skip("links are emulated by the kernel here")
    supervisor = int((testbed.settings.directory / "links.pid").read_text())
    [daemon] = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    ctypes.CDLL(None).kill(int(daemon), 9)
    assert until(lambda: round_trip_ms(testbed, "pi02") >= 20)
    testbed.run("link", "all")


def test_a_wall_clock_is_wrong_for_one_host_only(testbed: Testbed) -> None:
    machine = time.time() - time.monotonic()
    code, output = testbed.try_run("clock", "pi01", "--offset=-1d", "--drift", "100")
    if code == 3 and "gcc" in output:
        pytest.skip(output.strip())
    assert code == 0

    def shift(host: str) -> float:
        return float(testbed.inside(host, "date +%s.%N")[1]) - time.time()

    assert -86_460 < shift("pi01") < -86_340
    assert -60 < shift("pi02") <= 0
    assert testbed.status()["pi01"]["clock_drift_ppm"] == 100
    service = "systemd-run --quiet --wait --pipe -p DynamicUser=yes -p ProtectSystem=strict date +%s"
    assert -86_460 < int(testbed.inside("pi01", service)[1]) - time.time() < -86_340
    testbed.run("clock", "pi01", "--drift", "100000")  # a tenth too fast
    script = "from time import *; a, b = time(), monotonic(); sleep(1); print((time() - a) / (monotonic() - b))"
    assert float(testbed.inside("pi01", f"python3 -c '{script}'")[1]) == pytest.approx(1.1, abs=0.05)
    testbed.run("clock", "pi01")
    assert -60 < shift("pi01") <= 0
    assert time.time() - time.monotonic() == pytest.approx(machine, abs=1)


def test_after_a_kill_what_was_written_is_there_and_a_peer_saw_no_goodbye(testbed: Testbed) -> None:
    testbed.inside("pi02", "python3 -m http.server 8000 >/dev/null 2>&1 & echo kept > /root/written")
    connect = "import socket; s = socket.create_connection(('pi02', 8000), 5)"
    listen = f"{connect}; s.settimeout(3); print(s.recv(1))"
    assert until(lambda: testbed.try_run("exec", "pi01", "--", "python3", "-c", connect)[0] == 0)
    peer = testbed.start("exec", "pi01", "--", "python3", "-c", listen)
    time.sleep(1)
    testbed.run("kill", "pi02")
    assert "timed out" in peer.communicate()[0]  # neither FIN nor RST
    assert testbed.status()["pi02"]["condition"] == "down"
    assert testbed.try_run("exec", "pi02", "--", "true")[0] == 3
    testbed.run("start", "pi02")
    assert testbed.inside("pi02", "cat /root/written") == (0, "kept\n")


def test_a_power_cut_loses_what_was_not_synced(testbed: Testbed) -> None:
    testbed.inside(
        "pi02", "echo safe > /root/synced; sync; echo lost > /root/unsynced; head -c 1M /dev/zero > /root/big"
    )
    testbed.run("powercut", "pi02")
    testbed.run("start", "pi02")
    assert testbed.inside("pi02", "cat /root/synced") == (0, "safe\n")
    assert testbed.inside("pi02", "cat /root/unsynced")[1] != "lost\n"


def test_a_reboot_and_a_poweroff_from_inside(testbed: Testbed) -> None:
    before = testbed.status()["pi02"]["process"]
    testbed.inside("pi02", "systemctl reboot")
    assert until(lambda: testbed.status()["pi02"]["process"] not in (0, before))
    testbed.run("start", "pi02")  # runs already: waits for nothing
    assert until(lambda: testbed.ssh(TWO, "true").returncode == 0)
    testbed.inside("pi02", "systemctl poweroff")
    assert until(lambda: testbed.status()["pi02"]["condition"] == "down")
    testbed.run("start", "pi02")


@pytest.mark.parametrize("names", ["pi01,pi02", "all", ",", "pi99"])
def test_what_is_done_to_one_host_is_refused_for_several_or_none(testbed: Testbed, names: str) -> None:
    for arguments in (["exec", names, "--", "true"], ["snapshot", "some", "--host", names]):
        code, output = testbed.try_run(*arguments)
        assert code == 2 and output.startswith("error: ") and output.count("\n") == 1


def test_a_second_up_is_refused_while_hosts_are_up(testbed: Testbed) -> None:
    code, output = testbed.try_run("up", "-n", "2")
    assert code == 2 and "down" in output
    assert testbed.status()["pi01"]["condition"] == "up"


def test_a_golden_layer_brings_what_one_host_had_to_all(testbed: Testbed, tmp_path: Path) -> None:
    testbed.inside("pi01", "echo gold > /opt/gold; rm /etc/motd; chown pi /opt/gold")
    testbed.run("snapshot", "trained", "--host", "pi01")
    assert testbed.ssh(ONE, "true").returncode == 0  # it went on
    other = make_testbed(tmp_path / "other")
    other.settings.golden.parent.mkdir()
    (testbed.settings.golden / "trained").parent.rename(other.settings.golden)
    try:
        other.run("up", "-n", "2", "--golden", "trained")
        _, found = other.inside("pi01", "cat /opt/gold; stat -c %U /opt/gold; hostname; test -e /etc/motd || echo gone")
        assert found.split() == ["gold", "pi", "pi01", "gone"]
        one, two = (other.inside(host, "cat /etc/machine-id")[1] for host in ("desktop", "pi01"))
        assert one != two
        assert other.ssh("10.77.77.11", "true").returncode == 0
    finally:
        other.run("down")
    code, output = other.try_run("up", "-n", "1", "--golden", "none")
    assert code == 2 and "snapshot none" in output
