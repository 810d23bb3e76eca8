"""A small server on loopback that speaks what is documented of Elasticsearch and OpenSearch, and refuses the rest.

It takes the requests that the documentation of both describes, with the fields that it describes, and answers in its
shape. Words are compared as they are; how a real server ranks is not its business.
"""

from __future__ import annotations

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

__all__ = ["SearchServer"]

_SEARCH = {"query", "knn", "size", "_source", "timeout"}


class Refused(Exception):
    """An error as the servers tell it."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        one = {"type": kind, "reason": reason}
        self.status, self.body = status, {"root_cause": [one], **one}


class SearchServer:
    """`requests` are (method, path, body) as they came. `delay` is seconds before an answer; `fault` is put into each
    response of a search; `stumble` closes so many requests unanswered."""

    def __init__(self, kind: str) -> None:
        self.kind, self.indexes = kind, dict[str, dict[str, Any]]()
        self.requests: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.delay, self.stumble = 0.0, 0
        self.fault: dict[str, Any] = {}
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each answer waits for the 40 ms of a delayed ACK

            def answer(self) -> None:
                outer._answer(self)

            do_GET = do_POST = do_PUT = do_HEAD = answer

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # a client that hung up

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, http: BaseHTTPRequestHandler) -> None:
        raw = http.rfile.read(int(http.headers.get("content-length") or 0)).decode("utf-8")
        parts = urlsplit(http.path)
        lines = parts.path.endswith(("_bulk", "_msearch"))
        assert not lines or raw.endswith("\n")  # as both documentations demand
        body = [json.loads(line) for line in raw.splitlines()] if lines else json.loads(raw or "null")
        time.sleep(self.delay)
        with self._lock:
            self.requests.append((http.command, parts.path, body))
            self.headers.append({name.lower(): value for name, value in http.headers.items()})
            if self.stumble:
                self.stumble -= 1
                http.close_connection = True
                return
            try:
                status, found = 200, self._route(http.command, unquote(parts.path), body)
            except Refused as error:
                status, found = error.status, {"error": error.body, "status": error.status}
        answer = json.dumps(found).encode()
        http.send_response(status)
        if self.kind == "elasticsearch":
            http.send_header("X-Elastic-Product", "Elasticsearch")
        http.send_header("Content-Type", "application/json")
        http.send_header("Content-Length", str(len(answer)))
        http.end_headers()
        if http.command != "HEAD":
            http.wfile.write(answer)

    def _route(self, method: str, path: str, body: Any) -> Any:
        name, *rest = path.strip("/").split("/")
        if (method, rest) == ("HEAD", []):
            if name not in self.indexes:
                raise Refused(404, "index_not_found_exception", "")
            return {}
        if (method, rest) == ("PUT", []):
            return self._create(name, body)
        if name not in self.indexes:
            raise Refused(404, "index_not_found_exception", f"no such index [{name}]")
        index = self.indexes[name]
        if (method, rest) == ("GET", ["_mapping"]):
            return {name: {"mappings": index["mappings"]}}
        if (method, rest) == ("POST", ["_refresh"]):
            index["found"] = dict(index["documents"])
            return {"_shards": {"total": 2, "successful": 1, "failed": 0}}
        if rest == ["_bulk"]:
            return self._bulk(index, body)
        if rest == ["_mget"]:
            return {"docs": [self._got(index["documents"], name, **one) for one in body["docs"]]}
        if rest == ["_msearch"]:
            responses = [self._search(index, search) for _, search in zip(body[::2], body[1::2], strict=True)]
            return {"took": 1, "responses": responses}
        raise Refused(405, "method_not_allowed", f"{method} {path}")

    def _got(self, documents: dict[str, Any], name: str, _id: str, _source: list[str]) -> Any:
        answer: dict[str, Any] = {"_index": name, "_id": _id, "found": _id in documents}
        if _id in documents:
            answer["_source"] = {field: documents[_id][field] for field in _source}
        return answer

    def _create(self, name: str, body: Any) -> Any:
        if name in self.indexes:
            raise Refused(400, "resource_already_exists_exception", f"index [{name}] already exists")
        if re.search(r'[A-Z "*\\<|,>/?#:]', name) or name.startswith(("_", "-", "+")):
            raise Refused(400, "invalid_index_name_exception", f"Invalid index name [{name}]")
        known = {
            "elasticsearch": {"type": "dense_vector", "index": True, "similarity": "cosine"},
            "opensearch": {
                "type": "knn_vector",
                "method": {"name": "hnsw", "space_type": "cosinesimil", "engine": "lucene"},
            },
        }[self.kind]
        for field, mapping in body["mappings"]["properties"].items():
            mapping = dict(mapping)
            if mapping["type"] in ("text", "keyword"):
                continue
            mapping.pop("dims" if self.kind == "elasticsearch" else "dimension")
            if mapping != known:
                raise Refused(400, "mapper_parsing_exception", f"[{field}] is no field of {self.kind}")
            if self.kind == "opensearch" and body["settings"] != {"index": {"knn": True}}:
                raise Refused(400, "illegal_argument_exception", "index.knn is not set")
        self.indexes[name] = {"mappings": body["mappings"], "documents": {}, "found": {}}
        return {"acknowledged": True, "index": name}

    def _bulk(self, index: dict[str, Any], lines: list[Any]) -> Any:
        items: list[dict[str, Any]] = []
        for action, source in zip(lines[::2], lines[1::2], strict=True):
            (id,) = action["index"].values()
            error = None
            if not 0 < len(id.encode()) <= 512:
                error = {"type": "illegal_argument_exception", "reason": "id is too long"}
            for field, value in source.items():
                if isinstance(value, list) and len(value) != self._dimensions(index, field):
                    error = {"type": "document_parsing_exception", "reason": "wrong dimensions"}
            if error is None:
                index["documents"][id] = source
            items.append({"index": {"_id": id, "status": 200 if error is None else 400}})
            if error is not None:
                items[-1]["index"]["error"] = error
        return {"took": 1, "errors": any("error" in item["index"] for item in items), "items": items}

    def _dimensions(self, index: dict[str, Any], field: str) -> int:
        mapping = index["mappings"]["properties"].get(field, {})
        if mapping.get("type") != {"elasticsearch": "dense_vector", "opensearch": "knn_vector"}[self.kind]:
            raise Refused(400, "query_shard_exception", f"field [{field}] is no vector")
        return int(mapping.get("dims") or mapping["dimension"])

    def _search(self, index: dict[str, Any], search: dict[str, Any]) -> Any:
        try:
            if unknown := search.keys() - _SEARCH:
                raise Refused(400, "parsing_exception", f"unknown key {min(unknown)}")
            if not 0 <= search["size"] <= 10_000:
                raise Refused(400, "illegal_argument_exception", "Result window is too large")
            if not re.fullmatch(r"\d+ms", search["timeout"]):
                raise Refused(400, "parsing_exception", "timeout")
            scores = self._scores(index, search)
        except Refused as error:
            return {"error": error.body, "status": error.status}
        best = sorted((id for id in scores if scores[id] > 0), key=lambda id: -scores[id])[: search["size"]]
        wanted = {name.split(".")[0] for name in search["_source"]}
        hits = [
            {
                "_index": "i",
                "_id": id,
                "_score": scores[id],
                "_source": {field: value for field, value in index["found"][id].items() if field in wanted},
            }
            for id in best
        ]
        total = {"value": len(hits), "relation": "eq"}
        shards = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
        answer = {
            "took": 1,
            "timed_out": False,
            "_shards": shards,
            "hits": {"total": total, "hits": hits},
            "status": 200,
        }
        return answer | self.fault

    def _scores(self, index: dict[str, Any], search: dict[str, Any]) -> dict[str, float]:
        documents = index["found"]
        match search:
            case {"query": {"multi_match": {"query": str(text), "fields": fields, "type": "most_fields", **more}}}:
                assert not more
                words = set(_words(text))
                return {
                    id: float(sum(word in words for field in fields for word in set(_words(source.get(field) or ""))))
                    for id, source in documents.items()
                }
            case {"knn": {"field": field, "query_vector": row, "k": k, "num_candidates": wide, **more}}:
                if self.kind != "elasticsearch" or more or not k <= wide <= 10_000:
                    raise Refused(400, "parsing_exception", "knn")
            case {"query": {"knn": nearest}}:
                ((field, asked),) = nearest.items()
                if self.kind != "opensearch" or asked.keys() != {"vector", "k"}:
                    raise Refused(400, "parsing_exception", "knn")
                row, k = asked["vector"], asked["k"]
            case _:
                raise Refused(400, "parsing_exception", "unknown query")
        if len(row) != self._dimensions(index, field):
            raise Refused(400, "illegal_argument_exception", f"the query vector has a different dimension [{len(row)}]")
        rows = {id: np.array(source[field]) for id, source in documents.items() if source.get(field) is not None}
        scores = {
            id: float((1 + one @ row / np.linalg.norm(one) / np.linalg.norm(row)) / 2) for id, one in rows.items()
        }
        return {id: scores[id] for id in sorted(scores, key=lambda id: -scores[id])[:k]}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
