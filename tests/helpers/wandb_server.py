"""A W&B server on loopback that misbehaves when told to, and what it and wandb's files hold."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WANDB = Path(sys.executable).parent / "wandb"
ENTITY = "somebody"


class Server(ThreadingHTTPServer):
    """Takes runs and saved views, as W&B's server does, unless ``fault`` says otherwise.

    ``fault`` is ``silent`` (requests are taken and never answered), ``gone`` (connections are cut
    off), a status with which everything is refused, or a number of seconds, as a float, that each
    answer takes.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault = None
        self.asked = []
        """Names of the GraphQL operations, in their order; wandb's telemetry is none."""
        self.rows = {}
        """What was logged, by the run's id: rows as dictionaries."""
        self.views = {}
        """Saved views by their id."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        """Say nothing of connections that were cut off."""

    def graphql(self, query, variables):
        if "viewer" in query:
            viewer = {"id": "u", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
            return {"viewer": viewer | {"teams": {"edges": []}}, "serverInfo": None}
        if "RunResumeStatus" in query:
            return {"model": _project(variables["project"]) | {"bucket": self._run(variables)}}
        if "UpsertBucket" in query:
            name = variables["name"]
            known = name in self.rows
            self.rows.setdefault(name, [])
            bucket = {"id": name, "name": name, "displayName": name, "config": "{}"}
            bucket |= {"project": _project(variables["project"])}
            return {"upsertBucket": {"bucket": bucket, "inserted": not known}}
        if "CreateRunFiles" in query:
            files = [{"name": f, "uploadUrl": f"{self.url}/{f}"} for f in variables["files"]]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        if "UpsertView" in query:
            id_ = variables.get("id") or f"view-{len(self.views)}"
            new = id_ not in self.views
            self.views[id_] = variables
            view = {"id": id_, "name": variables["name"]}
            return {"upsertView": {"view": view, "inserted": new}}
        if "allViews" in query:
            nodes = [
                {"id": id_, "displayName": view["displayName"], "spec": view["spec"]}
                for id_, view in self.views.items()
                if view["name"] == variables["viewName"]
            ]
            return {"project": {"allViews": {"edges": [{"node": node} for node in nodes]}}}
        return {}

    def _run(self, variables):
        name = variables["name"]
        if name not in self.rows:
            return None
        summary = {key: value for row in self.rows[name] for key, value in row.items()}
        return {
            "id": name,
            "name": name,
            "displayName": name,
            "summaryMetrics": json.dumps(summary),
            "historyLineCount": len(self.rows[name]),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in self.rows[name][-1:]]),
            "eventsTail": "[]",
            "config": "{}",
            "tags": [],
            "wandbConfig": '{"t": 1}',
        }


def _project(name):
    return {"id": "p", "name": name, "entity": {"id": "e", "name": ENTITY}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = json.loads(body) if self.path == "/graphql" else {}
        if call:
            self.server.asked.append(call["query"].split()[1].partition("(")[0])
        fault = self.server.fault
        if fault == "silent":
            time.sleep(3600)
        if fault == "gone":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if isinstance(fault, float):
            time.sleep(fault)
        if isinstance(fault, int):
            self._answer(fault, {"errors": [{"message": "refused"}]})
        elif call:
            data = self.server.graphql(call["query"], call.get("variables") or {})
            self._answer(200, {"data": data})
        else:
            self._take(body)
            self._answer(200, {"exitcode": None, "limits": {}})

    do_GET = do_POST = do_PUT = handle_request

    def _take(self, body):
        if not self.path.endswith("/file_stream"):
            return
        run_id = self.path.split("/")[-2]
        files = json.loads(body).get("files") or {}
        for line in files.get("wandb-history.jsonl", {}).get("content", []):
            self.server.rows.setdefault(run_id, []).append(json.loads(line))

    def _answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Print nothing."""


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def inspect(log, *arguments):
    """Return what wandb reads from one of its files."""
    command = [str(WANDB), "leet", "inspect", *arguments, "--json", str(log)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def records(log, kind):
    lines = map(json.loads, inspect(log).splitlines())
    return [record for record in lines if record.get("type") == kind]
