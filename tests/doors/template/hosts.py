"""The hosts file that `tidings template` makes, read by those who read such files: the system's own resolver (getent) in
place of /etc/hosts, and dnsmasq. Started in a mount namespace of its own.

Usage: hosts.py hosts TIDINGS TEMPLATES WORK
"""

import os
import shutil
import signal
import subprocess

from stage import (
    FIRST, OUT, RELOADS, TEMPLATES, WORK, agent, ask, check, reloads, stage, start, template, text, until,
)

DNS = FIRST + 42


def said(*words):
    return subprocess.run(words, capture_output=True, text=True, timeout=20).stdout.split()


def getent(name):
    """The address that any program of this machine gets for a name."""
    return said("getent", "ahostsv4", name)[:1]


def dnsmasq(name):
    return said("dig", "+short", "+tries=1", "+time=1", "-p", str(DNS), "@127.0.0.1", name, "A")


def main():
    agent(0)
    # Every address of 127/8 is this machine.
    others = [
        agent(n, "--join", f"127.0.0.1:{FIRST + 10}", "--advertise", f"127.0.{n}.7:{FIRST + 10 + n}") for n in (1, 2)
    ]
    until(lambda: len(ask("GET", FIRST, "/v2/members?state=reachable")["members"]) == 3, "three members")
    # A copy, beside which the head stands that goes in first.
    shutil.copy(f"{TEMPLATES}/hosts.j2", f"{WORK}/hosts.j2")
    with open(f"{WORK}/hosts.head.j2", "w") as file:
        file.write("127.0.0.1 localhost\n")
    pid = f"{WORK}/dnsmasq.pid"
    # As in a container: a file is bound over /etc/hosts, and so no other can take its place.
    shutil.copy("/etc/hosts", f"{WORK}/bound")
    subprocess.run(("mount", "--bind", f"{WORK}/bound", "/etc/hosts"), check=True, timeout=20)
    told = f"cat {OUT} >/etc/hosts; echo >>{RELOADS}; test ! -e {pid} || kill -HUP $(cat {pid})"
    template(f"{WORK}/hosts.j2:{OUT}:sh -c '{told}'")
    until(lambda: "node-2" in text("/etc/hosts"), "the file is made")
    check(text(OUT).startswith("127.0.0.1 localhost\n"), "what stood there before stands first")
    start("dnsmasq", "-k", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root", f"--pid-file={pid}",
          "--listen-address=127.0.0.1", "--bind-interfaces", f"--port={DNS}", f"--addn-hosts={OUT}")
    for name in ("node-1", "node-1.node.tidings"):
        check(getent(name) == ["127.0.1.7"], f"the system's resolver knows {name}")
        until(lambda: dnsmasq(name) == ["127.0.1.7"], f"dnsmasq knows {name}")
    check(getent("localhost") == ["127.0.0.1"], "and what it knew before")

    runs = reloads()
    others[0].send_signal(signal.SIGTERM)
    until(lambda: "node-1" not in text("/etc/hosts"), "who left is out of the file")
    check(getent("node-1.node.tidings") == [] and getent("node-2") == ["127.0.2.7"], "nor does the system's resolver know it")
    until(lambda: dnsmasq("node-1.node.tidings") == [], "nor dnsmasq, which was told")
    check(dnsmasq("node-2.node.tidings") == ["127.0.2.7"], "while the other is known")
    check(reloads() == runs + 1, "by one run of the command")

    others[1].send_signal(signal.SIGKILL)
    until(lambda: ask("GET", FIRST, "/v2/members?state=unreachable")["members"], "a crash is known")
    check("node-2" in text(OUT), "whoever only does not answer keeps its name")
    print("hosts: all of it", flush=True)


with stage():
    main()
