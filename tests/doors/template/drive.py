"""One proxy behind `tidings template`: what it must show, each a sentence that can be false.

Usage: drive.py nginx|caddy|haproxy TIDINGS TEMPLATES WORK
"""

import os
import signal
import subprocess
import time

from stage import (
    ADMIN, API, FIRST, OUT, RELOADS, SERVER, SITE, TEMPLATES, TIDINGS, WORK, Backend, Load, agent, answers, ask, check,
    reloads, stage, start, template, text, until,
)


def nginx():
    os.makedirs(f"{WORK}/nginx", exist_ok=True)
    config = f"{WORK}/nginx.conf"
    with open(config, "w") as file:
        file.write(
            f"pid {WORK}/nginx.pid; error_log {WORK}/nginx/error.log; daemon off; worker_processes 1;\n"
            "events { worker_connections 256; }\n"
            f"http {{ access_log off; client_body_temp_path {WORK}/nginx; proxy_temp_path {WORK}/nginx;\n"
            f"fastcgi_temp_path {WORK}/nginx; uwsgi_temp_path {WORK}/nginx; scgi_temp_path {WORK}/nginx;\n"
            f"include {OUT}; server {{ listen 127.0.0.1:{SITE}; location / {{ proxy_pass http://web; "
            "proxy_connect_timeout 1s; } } }\n"
        )
    return ("nginx", "-c", config), f"nginx -c {config} -s reload", "nginx.conf.j2"


def caddy():
    run = ("caddy", "run", "--config", OUT, "--adapter", "caddyfile")
    return run, f"caddy reload --config {OUT} --adapter caddyfile --address localhost:{ADMIN}", "Caddyfile.j2"


def haproxy():
    config, pid = f"{WORK}/haproxy.cfg", f"{WORK}/haproxy.pid"
    with open(config, "w") as file:
        # Whoever listens is handed on from process to process: nobody finds the port closed.
        file.write(
            f"global\n    stats socket {WORK}/haproxy.sock mode 600 level admin expose-fd listeners\n"
            "defaults\n    mode http\n    timeout connect 1s\n    timeout client 10s\n    timeout server 10s\n"
            f"frontend site\n    bind 127.0.0.1:{SITE}\n    use_backend web\n"
        )
    both = f"-f {config} -f {OUT}"
    return ("haproxy", "-W", *both.split(), "-p", pid), f"haproxy -c -q {both} && kill -USR2 $(cat {pid})", "haproxy.cfg.j2"


def main():
    environment = dict(os.environ, CADDY_ADMIN=f"localhost:{ADMIN}", CADDY_SITE=f"http://127.0.0.1:{SITE}", HOME=WORK)
    run, reload, file = {"nginx": nginx, "caddy": caddy, "haproxy": haproxy}[SERVER]()
    backends = [Backend(FIRST + 50 + n) for n in range(3)]
    # Ids are unique within a member only.
    twin = ("--service", f"name=twin,id=t,addr=127.0.0.1:{FIRST + 53}")
    nowhere = ("--service", "name=nowhere,id=n,addr=nowhere.invalid:80") if SERVER == "haproxy" else ()
    agent(0, *twin, *nowhere)
    other = agent(1, "--join", f"127.0.0.1:{FIRST + 10}", *twin,
                  "--service", f"name=web,id=w2,addr=127.0.0.1:{FIRST + 52}")
    for n in range(2):
        offer = {
            "service": "web", "id": f"w{n}", "address": {"host": "127.0.0.1", "port": FIRST + 50 + n},
            "checks": [{"kind": "tcp", "target": f"127.0.0.1:{FIRST + 50 + n}", "interval_ms": 200, "timeout_ms": 200}],
        }
        ask("POST", FIRST, "/v2/offers", offer)

    def healthy():
        return len(ask("GET", FIRST, "/v2/services/web?healthy=true")["instances"])

    until(lambda: healthy() == 3, "three backends are healthy")
    until(lambda: len(ask("GET", FIRST, "/v2/services/twin?healthy=true")["instances"]) == 2, "and so are the twins")
    made = f"{TEMPLATES}/{file}:{OUT}"
    subprocess.run((TIDINGS, "template", made, "--once", *API), check=True, env=environment, timeout=60)
    start(*run, env=environment)
    until(lambda: answers(SITE, "/"), f"{SERVER} serves")
    template(f"{made}:sh -c 'echo >>{RELOADS} && {reload}'", env=environment)
    load = Load()
    until(lambda: len(load.by) == 3, "all three backends get calls")
    check(reloads() == 0, "a file that is as it was brings no reload")

    # Something that the file does not show, and after it something that it does.
    before = text(OUT)
    ask("POST", FIRST, "/v2/offers", {"service": "db", "id": "d1", "address": {"host": "127.0.0.1", "port": 5432}}) \
        if SERVER == "caddy" else None
    moved = ask("GET", FIRST, "/v2/offers/w0")["offer"]["record"]
    offer = {key: moved[key] for key in ("service", "id", "address", "weight")}
    check_of = {"kind": "tcp", "target": f"127.0.0.1:{FIRST + 50}", "interval_ms": 200, "timeout_ms": 200,
                "status": "passing"}
    ask("PUT", FIRST, "/v2/offers/w0", dict(offer, meta={"commit": "1"}, checks=[check_of]))
    time.sleep(1.5)
    check(text(OUT) == before and reloads() == 0, "a change that the file does not show brings no reload")

    load.failed.clear()
    began = time.monotonic()
    ask("POST", FIRST, "/v2/offers/w0/drain", {"timeout_ms": 4000})
    until(lambda: f":{FIRST + 50}" not in text(OUT), "a drained backend is out of the file")
    until(lambda: reloads() == 1, "one change, one reload")
    time.sleep(0.5)
    backends[0].shutdown()
    backends[0].server_close()
    calls = load.all()
    until(lambda: load.all() > calls + 200, "calls go on")
    drained, took = len(load.failed), time.monotonic() - began
    check(drained == 0, f"no call fails while a backend is drained: {load.failed[:3]}")
    check(reloads() == 1, "nor is there another reload")

    load.failed.clear()
    calls = load.all()
    other.send_signal(signal.SIGKILL)
    backends[2].shutdown()
    backends[2].server_close()
    gone = until(lambda: f":{FIRST + 52}" not in text(OUT), "a killed backend is out of the file")
    until(lambda: reloads() == 2, "and brings one reload")
    until(lambda: load.all() > calls + 200, "calls go on to the one that is left")
    load.stop()
    print(f"{SERVER}: {load.all()} calls; drained: {drained} failed, {took:.1f} s; killed: out of the file after "
          f"{gone:.2f} s, {len(load.failed)} of some {load.all() - calls} failed; {reloads()} reloads", flush=True)


with stage():
    main()
