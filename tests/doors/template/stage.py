"""What the drivers here share: agents, backends, load, and sentences that can be false.

Usage of each: DRIVER.py SERVER TIDINGS TEMPLATES WORK
"""

import contextlib
import http.client
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request

SERVER, TIDINGS, TEMPLATES, WORK = sys.argv[1:]
FIRST = int(os.environ.get("TIDINGS_TEST_PORT", "18800"))
SITE, ADMIN = FIRST + 40, FIRST + 41
OUT, RELOADS = f"{WORK}/{SERVER}.made", f"{WORK}/{SERVER}.reloads"
API = ("--api", f"127.0.0.1:{FIRST}")
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


def reloads():
    """How often the command of `template` was run."""
    return text(RELOADS).count("\n")


def template(made, *more, **env):
    """Starts `tidings template`; its command is noted before it is run."""
    return start(TIDINGS, "template", made, *more, *API, **env)


@contextlib.contextmanager
def stage():
    """Ends with everything that was started in it."""
    try:
        yield
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
