"""Asks a proxy again and again.

load.py shares URL COUNT WEIGHTS: how the answers are spread, which must be within 5 % of the weights.
load.py under URL SECONDS: how many of about 200 requests a second failed, and when the last one did.
"""

import collections
import sys
import threading
import time
import urllib.request

# Whatever the environment says, this machine is asked directly.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url):
    with opener.open(url, timeout=5) as answer:
        return answer.read().decode().strip()


def shares(url, count, weights):
    told = collections.Counter(ask(url) for _ in range(count))
    whole = sum(weights)
    is_right = True
    for n, weight in enumerate(weights):
        share, due = told[f"b{n}"] / count, weight / whole
        off = share / due - 1
        is_right &= abs(off) <= 0.05
        print(f"  b{n}: weight {weight}, {told[f'b{n}']} of {count}: {share:.4f}, due {due:.4f}, off by {off:+.2%}")
    return is_right


def under(url, seconds, rate=200, threads=8):
    began = time.monotonic()
    failed, done, lock = [], [0], threading.Lock()

    def work(n):
        at = began + n / rate
        while at < began + seconds:
            time.sleep(max(0, at - time.monotonic()))
            try:
                ask(url)
                is_good = True
            except Exception:
                is_good = False
            with lock:
                done[0] += 1
                if not is_good:
                    failed.append(time.monotonic() - began)
            at += threads / rate

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    last = f"{max(failed) - min(failed):.2f} s after the first" if failed else "never"
    print(f"  {done[0]} requests, {len(failed)} failed, last failure {last}")


if sys.argv[1] == "shares":
    weights = [int(weight) for weight in sys.argv[4].split(",")]
    sys.exit(0 if shares(sys.argv[2], int(sys.argv[3]), weights) else 1)
under(sys.argv[2], float(sys.argv[3]))
