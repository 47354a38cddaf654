"""An agent that knows nothing of tokens or TLS: it keeps calling an http:// URL with `requests`.

Arguments: the URL, the number of concurrent calls, and the seconds for which it goes on after
SIGTERM. Port 8000 reports the calls: `{"sent": N, "failed": N, "failures": [...]}`.
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
stopping = threading.Event()
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


def call_steadily():
    session = requests.Session()
    while not ended.is_set():
        call(session, "last" if stopping.is_set() else "python")
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
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    report = http.server.ThreadingHTTPServer(("", 8000), Report)
    threading.Thread(target=report.serve_forever, daemon=True).start()
    threads = [threading.Thread(target=call_steadily) for _ in range(CALLS)]
    for thread in threads:
        thread.start()
    stopping.wait()
    with lock:
        before = len(failures)
    time.sleep(LINGER)
    ended.set()
    for thread in threads:
        thread.join()
    # The very last call reports the failures since SIGTERM.
    call(requests.Session(), f"farewell?failed={len(failures) - before}")


if __name__ == "__main__":
    main()
