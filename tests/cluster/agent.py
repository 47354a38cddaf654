"""An agent that knows nothing of tokens or TLS: it calls a plain http:// address with `requests`, again and again.

Arguments: the address, how many calls at one time, and how many seconds it goes on after it was told to stop. On port 8000 it says
what it saw: `{"sent": N, "failures": [...]}`.
"""

import http.server
import json
import signal
import sys
import threading
import time

import requests

ADDRESS, CALLS, LINGER = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
PAUSE = 0.05  # seconds between two calls of one thread

lock = threading.Lock()
told = threading.Event()
ended = threading.Event()
sent, failures = 0, []


def call(session: requests.Session, path: str):
    global sent
    try:
        answer = session.get(f"{ADDRESS}/{path}", timeout=20)
        failure = None if answer.status_code == 200 else f"{answer.status_code} {answer.text[:300]}"
    except requests.RequestException as error:
        failure = f"{type(error).__name__}: {error}"
    with lock:
        sent += 1
        if failure:
            failures.append(f"{time.strftime('%H:%M:%S')} {failure}")


def steadily():
    session = requests.Session()
    while not ended.is_set():
        call(session, "last" if told.is_set() else "python")
        ended.wait(PAUSE)


class Report(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with lock:
            body = json.dumps({"sent": sent, "failures": failures[:20], "failed": len(failures)}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    report = http.server.ThreadingHTTPServer(("", 8000), Report)
    threading.Thread(target=report.serve_forever, daemon=True).start()
    threads = [threading.Thread(target=steadily) for _ in range(CALLS)]
    for thread in threads:
        thread.start()
    told.wait()
    with lock:
        before = len(failures)
    time.sleep(LINGER)
    ended.set()
    for thread in threads:
        thread.join()
    # The very last call says how the others went.
    call(requests.Session(), f"farewell?failed={len(failures) - before}")


if __name__ == "__main__":
    main()
