"""One proxy behind `tidings template`: what it must show, each a sentence that can be false.

Usage: drive.py nginx|caddy TIDINGS TEMPLATES WORK
"""

import http.client
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request

SERVER, TIDINGS, TEMPLATES, WORK = sys.argv[1:]
FIRST = int(os.environ.get("TIDINGS_TEST_PORT", "18800"))
SITE, ADMIN = FIRST + 40, FIRST + 41
OUT, RELOADS = f"{WORK}/{SERVER}.made", f"{WORK}/{SERVER}.reloads"
PATIENCE = 20
running = []


def check(is_true, sentence):
    if not is_true:
        raise SystemExit(f"NOT TRUE: {sentence}")
    print(f"ok: {sentence}", flush=True)


def until(what, sentence):
    began = time.monotonic()
    while not what():
        if time.monotonic() - began > PATIENCE:
            raise SystemExit(f"NOT TRUE within {PATIENCE} s: {sentence}")
        time.sleep(0.02)
    return time.monotonic() - began


def start(*words, **more):
    log = open(f"{WORK}/{SERVER}.log", "ab")
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **more)
    running.append(child)
    return child


def ask(method, port, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def answers(port, path="/readyz"):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def text(path):
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


class Backend(http.server.ThreadingHTTPServer):
    """Says its own name."""

    daemon_threads = True

    def __init__(self, port):
        name = f"{port}\n".encode()

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", port), Answer)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Load:
    """Calls through the proxy without end, one after another, and counts."""

    def __init__(self):
        self.by, self.failed, self.stopped = {}, [], False
        self.thread = threading.Thread(target=self.go_on, daemon=True)
        self.thread.start()

    def go_on(self):
        while not self.stopped:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", SITE, timeout=5)
                connection.request("GET", "/")
                answer = connection.getresponse()
                body = answer.read().decode().strip()
                if answer.status == 200:
                    self.by[body] = self.by.get(body, 0) + 1
                else:
                    self.failed.append(f"status {answer.status}")
                connection.close()
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
            time.sleep(0.002)

    def all(self):
        return sum(self.by.values())

    def stop(self):
        self.stopped = True
        self.thread.join()


def agent(n, *more):
    child = start(
        TIDINGS, "node", "--name", f"node-{n}", "--cluster", "template", "--bind", f"127.0.0.1:{FIRST + 10 + n}",
        "--http", f"127.0.0.1:{FIRST + n}", "--output", "jsonl", *more,
    )
    until(lambda: answers(FIRST + n), f"agent {n} is ready")
    return child


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


def reloads():
    return text(RELOADS).count("\n")


def main():
    environment = dict(os.environ, CADDY_ADMIN=f"localhost:{ADMIN}", CADDY_SITE=f"http://127.0.0.1:{SITE}", HOME=WORK)
    run, reload, template = {"nginx": nginx, "caddy": caddy}[SERVER]()
    backends = [Backend(FIRST + 50 + n) for n in range(3)]
    agent(0)
    other = agent(1, "--join", f"127.0.0.1:{FIRST + 10}", "--service", f"name=web,id=w2,addr=127.0.0.1:{FIRST + 52}")
    for n in range(2):
        offer = {
            "service": "web", "id": f"w{n}", "address": {"host": "127.0.0.1", "port": FIRST + 50 + n},
            "checks": [{"kind": "tcp", "target": f"127.0.0.1:{FIRST + 50 + n}", "interval_ms": 200, "timeout_ms": 200}],
        }
        ask("POST", FIRST, "/v2/offers", offer)

    def healthy():
        return len(ask("GET", FIRST, "/v2/services/web?healthy=true")["instances"])

    until(lambda: healthy() == 3, "three backends are healthy")
    made = f"{TEMPLATES}/{template}:{OUT}"
    api = ("--api", f"127.0.0.1:{FIRST}")
    subprocess.run((TIDINGS, "template", made, "--once", *api), check=True, env=environment, timeout=60)
    start(*run, env=environment)
    until(lambda: answers(SITE, "/"), f"{SERVER} serves")
    start(TIDINGS, "template", f"{made}:sh -c 'echo >>{RELOADS} && {reload}'", *api, env=environment)
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


try:
    main()
except BaseException:
    print(text(f"{WORK}/{SERVER}.log")[-3000:], file=sys.stderr)
    raise
finally:
    for child in reversed(running):
        child.terminate()
    for child in running:
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
