"""A stand-in for the Hugging Face hub: the part of its HTTP interface that
huggingface_hub uses to make a repository, commit to a branch of it and fetch it, kept
in memory.

Repositories have branches, commits and large files (git LFS) as the hub's have, private
ones are not found without a token, and every request is kept in `asked`. Written from
what the client sends, not from the hub's source.
"""

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKENS = {"hf_me": ("me", True), "hf_reader": ("me", False), "hf_other": ("you", True)}
LARGE = ".safetensors"  # what the hub stores outside of git


class Refused(Exception):
    """An answer that is an error: status, the hub's code for it, words."""


class Hub:
    """What the server remembers. `large` says whether weights go through LFS."""

    def __init__(self):
        self.repos = {}
        self.objects = {}
        self.asked = []
        self.large = True

    def files(self, name, revision="main"):
        """{path: bytes} of a revision of a repository."""
        return self.commit(name, revision)[1]

    def commit(self, name, revision):
        """(id, {path: bytes}) of a branch's last commit, or of a commit."""
        repo = self.repos[name]
        sha = repo["branches"].get(revision, revision)
        if sha not in repo["commits"]:
            raise Refused(404, "RevisionNotFound", f"no revision {revision}")
        return sha, repo["commits"][sha]["files"]

    def add(self, name, branch, files, title):
        """A commit with `files` on top of a branch; gives its id."""
        repo = self.repos[name]
        if branch not in repo["branches"]:
            raise Refused(404, "RevisionNotFound", f"no branch {branch}")
        whole = {**self.files(name, branch), **files}
        text = json.dumps([title, len(repo["commits"]), sorted(whole)])
        sha = hashlib.sha1(text.encode()).hexdigest()
        repo["commits"][sha] = {"files": whole, "title": title}
        repo["branches"][branch] = sha
        return sha

    def make(self, name, private=False):
        """An empty repository, whose first commit has no file of ours."""
        sha = hashlib.sha1(name.encode()).hexdigest()
        self.repos[name] = {
            "private": private,
            "branches": {"main": sha},
            "commits": {sha: {"files": {".gitattributes": b""}, "title": "initial"}},
        }


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self):
        return self.server.hub

    def do_GET(self):
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_):
        """Nothing on stderr."""

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = urllib.parse.urlsplit(self.path).path
        self.hub.asked.append((self.command, path))
        try:
            for verbs, pattern, method in ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in verbs:
                    words = map(urllib.parse.unquote, found.groups())
                    return method(self, body, *words)
            raise Refused(404, "", f"no such page: {self.command} {path}")
        except Refused as error:
            status, code, words = error.args
            said = {"X-Error-Code": code, "X-Error-Message": words}
            self.send(status, {"error": words}, {k: v for k, v in said.items() if v})

    def send(self, status, content=b"", headers=()):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(data)), **dict(headers)}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def user(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return TOKENS.get(token, (None, False))

    def may_read(self, name):
        """As on the hub, what is private is not there for others."""
        repo = self.hub.repos.get(name)
        if repo is None or repo["private"] and self.user()[0] != name.split("/")[0]:
            status = 404 if self.user()[0] else 401
            raise Refused(status, "RepoNotFound", "Repository not found")

    def may_write(self, name):
        user, writes = self.user()
        if user is None:
            raise Refused(401, "", "Invalid username or password.")
        if not writes or user != name.split("/")[0]:
            raise Refused(403, "", f"You don't have the rights to write to {name}")

    def create(self, body):
        asked = json.loads(body)
        name = f"{asked.get('organization') or self.user()[0]}/{asked['name']}"
        self.may_write(name)
        url = f"{self.server.url}/{name}"
        if name in self.hub.repos:
            return self.send(409, {"error": "You already created it", "url": url})
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.make(name, private)
        return self.send(200, {"url": url})

    def branch(self, body, name, branch):
        self.may_write(name)
        branches = self.hub.repos[name]["branches"]
        if branch in branches:
            return self.send(409, {"error": "Reference already exists"})
        branches[branch] = branches["main"]
        return self.send(200, b"")

    def check_card(self, body):
        text = json.loads(body)["content"]
        good = text.startswith("---\n") and "\n---\n" in text
        wrong = [] if good else [{"message": "no metadata"}]
        self.send(200 if good else 400, {"errors": wrong, "warnings": []})

    def preupload(self, body, name, revision):
        self.may_write(name)
        self.hub.commit(name, revision)
        mode = lambda path: (
            "lfs" if self.hub.large and path.endswith(LARGE) else "regular"
        )
        files = [
            {"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False}
            for f in json.loads(body)["files"]
        ]
        self.send(200, {"files": files})

    def batch(self, body, name):
        self.may_write(name)
        base = self.server.url
        objects = []
        for one in json.loads(body)["objects"]:
            actions = {
                "upload": {"href": f"{base}/lfs/{one['oid']}"},
                "verify": {"href": f"{base}/lfs-verify"},
            }
            there = one["oid"] in self.hub.objects
            objects.append(one if there else {**one, "actions": actions})
        self.send(200, {"transfer": "basic", "objects": objects})

    def put(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "", "not the bytes that were announced")
        self.hub.objects[oid] = body
        self.send(200)

    def verify(self, body):
        said = json.loads(body)
        whole = len(self.hub.objects.get(said["oid"], b"")) == said["size"]
        self.send(200 if whole else 404, {})

    def commit(self, body, name, branch):
        self.may_write(name)
        title = ""
        files = {}
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                title = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        sha = self.hub.add(name, branch, files, title)
        url = f"{self.server.url}/{name}/commit/{sha}"
        self.send(200, {"success": True, "commitUrl": url, "commitOid": sha})

    def about(self, body, name, revision="main"):
        self.may_read(name)
        sha, files = self.hub.commit(name, revision)
        siblings = [{"rfilename": path} for path in files]
        private = self.hub.repos[name]["private"]
        about = {"id": name, "sha": sha, "private": private, "tags": []}
        self.send(200, {**about, "siblings": siblings})

    def tree(self, body, name, revision):
        self.may_read(name)
        rows = []
        for path, content in self.hub.files(name, revision).items():
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            row = {"type": "file", "path": path, "size": len(content), "oid": git}
            if self.hub.large and path.endswith(LARGE):
                sha = hashlib.sha256(content).hexdigest()
                row["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 130}
            rows.append(row)
        self.send(200, rows)

    def file(self, body, name, revision, path):
        self.may_read(name)
        sha, files = self.hub.commit(name, revision)
        head = {"X-Repo-Commit": sha}
        if path not in files:
            raise Refused(404, "EntryNotFound", f"no file {path}")
        content = files[path]
        if not (self.hub.large and path.endswith(LARGE)):
            etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            return self.send(200, content, {**head, "ETag": f'"{etag}"'})
        oid = hashlib.sha256(content).hexdigest()
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{oid}"'}
        there = {"Location": f"{self.server.elsewhere}/lfs/{oid}"}
        return self.send(302, b"", {**head, **linked, **there})

    def get(self, body, oid):
        self.send(200, self.hub.objects[oid], {"ETag": f'"{oid}"'})


NAME = "([^/]+/[^/]+)"
ROUTES = [
    (("POST",), "/api/repos/create", Handler.create),
    (("POST",), "/api/validate-yaml", Handler.check_card),
    (("POST",), f"/api/models/{NAME}/branch/(.+)", Handler.branch),
    (("POST",), f"/api/models/{NAME}/preupload/(.+)", Handler.preupload),
    (("POST",), f"/api/models/{NAME}/commit/(.+)", Handler.commit),
    (("POST",), f"/{NAME}.git/info/lfs/objects/batch", Handler.batch),
    (("PUT",), "/lfs/([0-9a-f]{64})", Handler.put),
    (("GET", "HEAD"), "/lfs/([0-9a-f]{64})", Handler.get),
    (("POST",), "/lfs-verify", Handler.verify),
    (("GET",), f"/api/models/{NAME}", Handler.about),
    (("GET",), f"/api/models/{NAME}/revision/(.+)", Handler.about),
    (("GET",), f"/api/models/{NAME}/tree/([^/]+)", Handler.tree),
    (("GET", "HEAD"), f"/{NAME}/resolve/([^/]+)/(.+)", Handler.file),
]


class Server(ThreadingHTTPServer):
    """The server on a free port, in a thread of its own while a `with` lasts."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = Hub()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        # the client takes what lies on another host for the file itself
        self.elsewhere = f"http://localhost:{self.server_address[1]}"
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()
