"""A stand-in of the Hugging Face hub on loopback, for the real client."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_token_of_the_stand_in"
NOT_FOUND = {"repo": "RepoNotFound", "revision": "RevisionNotFound", "file": "EntryNotFound"}


class Hub(ThreadingHTTPServer):
    """Holds repositories of models."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        """Files by the commit's id, the newest last, by the repository's name."""
        self.asked: list[tuple[str, str]] = []
        """Method and path of each request."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, name, files):
        """Add files to a repository, and return the commit's id."""
        commits = self.repositories.setdefault(name, {})
        now = {**self.files(name), **files}
        content = json.dumps([name, len(commits), sorted(now)]).encode()
        commits[found := hashlib.sha1(content).hexdigest()] = now
        return found

    def files(self, name):
        """Return the newest files of a repository by their paths."""
        return [{}, *self.repositories[name].values()][-1]

    def downloads(self):
        """Return the paths of the files that were downloaded."""
        paths = [path for method, path in self.asked if method == "GET" and "/resolve/" in path]
        return [path.partition("/resolve/")[2].partition("/")[2] for path in paths]


class _Missing(Exception):
    pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path))
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self._post if self.command == "POST" else self._get
        try:
            if self.command == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._send(401, {"error": "Invalid user token."})
            else:
                answer(path.strip("/").split("/"))
        except _Missing as error:
            code = NOT_FOUND[str(error)]
            self._send(404, {"error": str(error)}, {"X-Error-Code": code})

    do_HEAD = do_POST = do_GET

    def _send(self, status, content=b"", headers=()):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if not isinstance(content, bytes):
            self.send_header("Content-Type", "application/json")
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _commit(self, name, revision):
        commits = self.server.repositories.get(name)
        if commits is None:
            raise _Missing("repo")
        if revision == "main" and commits:
            return list(commits)[-1]
        if revision not in commits:
            raise _Missing("revision")
        return revision

    def _post(self, parts):
        match parts:
            case ["api", "repos", "create"]:
                asked = json.loads(self.body)
                name = f"{asked['organization']}/{asked['name']}"
                known = name in self.server.repositories
                self.server.repositories.setdefault(name, {})
                self._send(409 if known else 200, {"url": f"{self.server.url}/{name}", "id": name})
            case ["api", "validate-yaml"]:
                self._send(200, {"errors": [], "warnings": []})
            case ["api", "models", owner, name, "preupload", _]:
                how = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                files = [{"path": file["path"], **how} for file in json.loads(self.body)["files"]]
                self._send(200, {"files": files})
            case ["api", "models", owner, name, "commit", _]:
                entries = [json.loads(line) for line in self.body.splitlines()]
                values = [entry["value"] for entry in entries if entry["key"] == "file"]
                files = {value["path"]: base64.b64decode(value["content"]) for value in values}
                oid = self.server.commit(f"{owner}/{name}", files)
                url = f"{self.server.url}/{owner}/{name}/commit/{oid}"
                self._send(200, {"commitUrl": url, "commitOid": oid, "success": True})
            case _:
                raise _Missing("file")

    def _get(self, parts):
        match parts:
            case ["api", "models", owner, name, *rest]:
                commit = self._commit(f"{owner}/{name}", (["main"] if len(rest) < 2 else rest)[-1])
                files = self.server.repositories[f"{owner}/{name}"][commit]
                if rest[:1] == ["tree"]:
                    entry = {"type": "file", "oid": commit}
                    sizes = {path: len(data) for path, data in files.items()}
                    self._send(200, [entry | {"path": p, "size": n} for p, n in sizes.items()])
                else:
                    siblings = [{"rfilename": path} for path in files]
                    found = {"id": f"{owner}/{name}", "sha": commit, "siblings": siblings}
                    self._send(200, found)
            case [owner, name, "resolve", revision, *path]:
                commit = self._commit(f"{owner}/{name}", revision)
                data = self.server.repositories[f"{owner}/{name}"][commit].get("/".join(path))
                if data is None:
                    raise _Missing("file")
                etag = hashlib.sha256(data).hexdigest()
                self._send(200, data, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'})
            case _:
                raise _Missing("file")


@contextmanager
def serving() -> Iterator[Hub]:
    """Run a hub."""
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
