"""PostgreSQL: full text, pgvector, or both in one query, over a table that people have or one that is filled here.

Knows: the statements. Refuses to know: connections (postgres_connections), and how a text becomes a vector.

    mine = Postgres("postgresql://me@host/shop", table="articles", id="sku", text="body", words="tsv")
    ours = Postgres("postgresql://me@host/docs", encoder=open_encoder())
    ours.fill(documents)

Scores, higher better, for the order within one query: `words` ts_rank of any word of the query, divided by 1 + log of
the length (it does not know which words are rare); `vectors` the cosine, or minus the distance that is asked for;
`hybrid` the reciprocal ranks of the two, Σ weight / (rrf_k + rank), as fusion.reciprocal_rank gives them.

The one statement finds, fuses and brings the texts. It goes out together with its settings, which hold for it alone
(statement_timeout, hnsw.ef_search), so a query is one round trip, also behind a pooler.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from secondpass.embedding import Encoder
from secondpass.errors import InputError
from secondpass.retrievers.dense import Vectors
from secondpass.retrievers.filling import Filled, Vector, fill
from secondpass.retrievers.postgres_connections import Connections
from secondpass.retrievers.ranked import check_question
from secondpass.retrievers.rows import DIGEST, REST, Found, Row, plain, quoted, ranking_of
from secondpass.types import Document, Ranking

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Distance", "Mode", "Postgres"]

Mode = Literal["words", "vectors", "hybrid"]
Distance = Literal["cosine", "inner", "l2"]

_FILLING = 120.0  # seconds that a statement may take which fills
_LONGEST = 200_000  # characters of a text that are indexed by words: a tsvector holds 1 MB
_EF = 1000  # hnsw.ef_search at most
_LOCK = 0x5EC0DF57  # the advisory lock under which a table is made
_WORDS, _VECTOR = "secondpass_words", "secondpass_vector"  # columns of ours
_SCORE = {"cosine": ("1 - ({})", "<=>"), "inner": ("-({})", "<#>"), "l2": ("-({})", "<->")}

# What is in braces are names and values of ours, quoted; %(…)s are parameters.

_ASKED = r"""SELECT
    string_agg('''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''', ' | ')::tsquery AS query
    FROM unnest(to_tsvector({language}::regconfig, %(query)s))"""

_BY_WORDS = """SELECT key, score, row_number() OVER (ORDER BY score DESC, key) AS place FROM (
    SELECT {id} AS key, ts_rank({words}, asked.query, 1)::float8 AS score FROM {table}, asked
    WHERE {words} @@ asked.query ORDER BY score DESC, key LIMIT {limit}) AS found"""

# by the distance alone within: an approximate index knows no other order
_BY_VECTORS = """SELECT key, score, row_number() OVER (ORDER BY score DESC, key) AS place FROM (
    SELECT {id} AS key, {score} AS score FROM {table}
    WHERE {vector} IS NOT NULL ORDER BY {distance} LIMIT {limit}) AS found WHERE score <> 'NaN'"""

_FUSED = """SELECT coalesce(w.key, v.key) AS key,
        coalesce(%(weight)s::float8 * (1.0::float8 / (%(rrf_k)s::float8 + w.place)), 0)
        + coalesce(%(vectors_weight)s::float8 * (1.0::float8 / (%(rrf_k)s::float8 + v.place)), 0) AS score,
        least(CASE WHEN w.place IS NOT NULL THEN ARRAY[(%(weight)s::float8 = 0)::int, w.place, 0] END,
              CASE WHEN v.place IS NOT NULL THEN ARRAY[(%(vectors_weight)s::float8 = 0)::int, v.place, 1] END) AS place
    FROM by_words AS w FULL JOIN by_vectors AS v ON w.key = v.key
    ORDER BY score DESC, place LIMIT %(k)s"""

_BEST = {
    "words": f"asked AS ({_ASKED}), best AS ({_BY_WORDS})",
    "vectors": f"best AS ({_BY_VECTORS})",
    "hybrid": f"asked AS ({_ASKED}), by_words AS ({_BY_WORDS}), by_vectors AS ({_BY_VECTORS}), best AS ({_FUSED})",
}
_TEXTS = """SELECT kept.{id}, {title}, kept.{text}, {rest}, best.score{metadata}
    FROM best JOIN {table} AS kept ON kept.{id} = best.key ORDER BY best.score DESC, best.place"""

_TABLE = """CREATE TABLE {table} ({id} text PRIMARY KEY, {title} text NOT NULL, {text} text NOT NULL,
    {rest} text NOT NULL, {digest} text NOT NULL, {vector}{words} tsvector GENERATED ALWAYS AS
    (to_tsvector({language}::regconfig, left({title} || ' ' || {text}, {longest}))) STORED)"""


class Postgres:
    """Finds in `table` (of `schema`, None: where the search path leads) of the database at `dsn`, a URL or key=value.

    `mode` is words, vectors or hybrid (None: hybrid with an `encoder`, else words). `id` (unique), `title` (None: there
    is none), `text` and the names of `metadata` are columns. `words` is a tsvector column (None: it is computed for
    every row, which is slow), `vector` one of pgvector. In a table that was made here, these two have names of their
    own, and its language and encoder are kept with it.

    `language` is a text search configuration. `distance` has to be the one that an index on the vectors was made for.
    Of hybrid's two rankings the first `depth` (or k) count, with `weights` for words and vectors. A query takes at most
    `timeout_s` seconds, with at least two more to connect where that is necessary.

    Raises InputError for a dsn that cannot be read (it is not shown), and for settings that do not fit each other;
    MissingExtraError without the extra `postgres`.
    """

    def __init__(
        self,
        dsn: str,
        *,
        table: str = "secondpass_documents",
        schema: str | None = None,
        encoder: Encoder | None = None,
        mode: Mode | None = None,
        id: str = "id",
        title: str | None = "title",
        text: str = "text",
        metadata: Sequence[str] = (),
        words: str | None = None,
        vector: str | None = None,
        language: str = "english",
        distance: Distance = "cosine",
        depth: int = 100,
        weights: Sequence[float] = (1.0, 1.0),
        rrf_k: float = 60,
        timeout_s: float = 5.0,
    ) -> None:
        self.mode: Mode = mode or ("words" if encoder is None else "hybrid")
        if self.mode not in get_args(Mode):
            raise InputError(f"mode is {mode!r}; known are {', '.join(get_args(Mode))}")
        if self.mode != "words" and encoder is None:
            raise InputError(f"mode {self.mode!r} needs an encoder, which makes the query a vector")
        if distance not in _SCORE:
            raise InputError(f"distance is {distance!r}; known are {', '.join(_SCORE)}")
        if not isinstance(depth, int) or depth < 1:
            raise InputError(f"depth is {depth!r}; give the number of candidates of each ranking, from 1 up")
        if len(weights) != 2 or not all(0 <= one < math.inf for one in weights) or not any(weights):
            raise InputError(f"weights is {weights!r}; give two numbers from 0 up, for words and for vectors")
        if not 0 <= rrf_k < math.inf:
            raise InputError(f"rrf_k is {rrf_k!r}; give a number from 0 up (60 is usual)")
        self.table, self.metadata, self.depth = table, tuple(metadata), depth
        self._encoder, self._distance, self._language = encoder, distance, language
        self._weights, self._rrf_k = tuple(map(float, weights)), float(rrf_k)
        self._unquoted = quoted(table) if schema is None else f"{quoted(schema)}.{quoted(table)}"
        self._title, self._words, self._vector = title, words, vector
        self._names = {"table": self._unquoted.replace("%", "%%"), "id": _name(id), "text": _name(text)}
        self._names |= {"rest": REST, "digest": DIGEST, "vector": _name(vector or _VECTOR)}
        self._names |= {"words": _name(words or _WORDS), "title": "''" if title is None else _name(title)}
        self._names["metadata"] = "".join(f", kept.{_name(one)}" for one in self.metadata)
        self._layout: tuple[str, Vectors | None] | None = None  # known once the table was looked at
        self._connections = Connections(dsn, timeout_s)

    @staticmethod
    def wants_encoder(options: Mapping[str, Any]) -> bool:
        """Whether settings with these options need one."""
        return options.get("mode") != "words"

    def __repr__(self) -> str:
        return f"Postgres({self._connections.where!r}, {self.table!r}, {self.mode})"

    def close(self) -> None:
        """Close the connections that are kept; a later query opens new ones."""
        self._connections.close()

    def retrieve(self, query: str, k: int) -> Ranking:
        """The k best, or all that share a word with the query (`words`) or have a vector (`vectors`). Ties by id.

        Raises InputError for a query that is no string, a k below 1, or a table that has not what the mode needs;
        IndexFolderError where a table that was made here has vectors of another encoder; RetrieverError where there is
        no connection, no such table or column, or no answer in time.
        """
        check_question(query, k)
        begun = time.perf_counter()
        if self._layout is None:
            self._layout = self._look()
        statement, vectors = self._layout
        k, depth = min(k, 2**31), min(max(k, self.depth), 2**31)
        asked: dict[str, Any] = {"query": plain(query), "k": k, "depth": depth, "rrf_k": self._rrf_k}
        asked["weight"], asked["vectors_weight"] = self._weights
        unknown, settings = False, {}
        if vectors is not None:
            (row,) = vectors.encode([query], query=True).tolist()
            unknown = not any(row)
            asked["vector"] = None if unknown else str(row)
            settings["hnsw.ef_search"] = str(min(max(k if self.mode == "vectors" else depth, 40), _EF))
        found = [
            Found(id, title, text, rest, dict(zip(self.metadata, values, strict=True)), score)
            for id, title, text, rest, score, *values in self._connections.ask(statement, asked, settings)
        ]
        detail = {"table": self.table, "mode": self.mode, "unknown_query": unknown}
        if self.mode == "hybrid":
            detail |= {"method": "reciprocal rank", "weights": self._weights, "k": self._rrf_k, "depth": depth}
        return ranking_of("postgres", query, found, begun, detail)

    def fill(
        self, documents: Iterable[Document], *, batch: int = 256, on_progress: Callable[[int], None] | None = None
    ) -> Filled:
        """Put `documents` into the table, which is made where there is none: see `filling.fill`. What is there of
        another id stays. Without an encoder it has no vectors. `cut` counts texts of more than 200,000 characters, of
        which no more can be found by words.

        Raises InputError as `filling.fill` does and for a table that was not made here, IndexFolderError for one with
        vectors of another encoder, RetrieverError as `retrieve` does.
        """
        names = ("id", "title", "text", "rest", "digest", "vector")
        with self._connections.one(_FILLING) as connection:
            vectors = self._prepared(connection)
            columns = [self._names[name] for name in names[: 5 if vectors is None else 6]]
            marks, changes = ["%s"] * len(columns), [f"{one} = excluded.{one}" for one in columns[1:]]
            insert = (
                f"INSERT INTO {self._names['table']} ({', '.join(columns)}) VALUES ({', '.join(marks)}) "
                f"ON CONFLICT ({columns[0]}) DO UPDATE SET {', '.join(changes)}"
            )
            look = self._sql("SELECT {id}, {digest} FROM {table} WHERE {id} = ANY(%s)")

            def known(ids: Sequence[str]) -> dict[str, str]:
                return dict(connection.execute(look, [list(ids)]).fetchall())

            def write(rows: Sequence[tuple[Row, Vector | None]]) -> None:
                values = [
                    (row.id, row.title, row.text, row.rest, row.digest, None if vector is None else str(vector))
                    for row, vector in rows
                ]
                with connection.transaction():
                    connection.cursor().executemany(insert, [row[: len(columns)] for row in values])

            how: dict[str, Any] = {"batch": batch, "longest": _LONGEST, "on_progress": on_progress}
            return fill(documents, known, write, vectors=vectors, **how)

    # What the table is

    def _look(self) -> tuple[str, Vectors | None]:
        """The statement that finds, and what makes the query a vector where that is needed."""
        kept = _kept(self._connections.ask("SELECT obj_description(to_regclass(%s), 'pg_class')", [self._unquoted], {}))
        vectors = None if self.mode == "words" else self._vectors(kept)
        rest = "NULL" if kept is None else f"kept.{REST}"
        words = self._names["words"]
        if kept is None and self._words is None:
            searched = [self._names[name] for name in ("title", "text")]
            text = " || ' ' || ".join(f"coalesce({one}, '')" for one in searched)
            words = f"to_tsvector({_value(self._language)}::regconfig, {text})"
        title = self._names["title"] if self._title is None else f"kept.{self._names['title']}"
        score, operator = _SCORE[self._distance]
        distance = f"{self._names['vector']} {operator} %(vector)s"
        best = self._sql(
            _BEST[self.mode],
            language=_value(self._language if kept is None else kept["language"]),
            words=words,
            distance=distance,
            score=score.format(distance),
            limit="%(depth)s" if self.mode == "hybrid" else "%(k)s",
        )
        return f"WITH {best} {self._sql(_TEXTS, rest=rest, title=title)}", vectors

    def _vectors(self, kept: Mapping[str, Any] | None) -> Vectors | None:
        """What encodes for a table, of which this was kept where it is ours; None where nothing does."""
        if kept is None:
            return None if self._encoder is None else Vectors(self._encoder)
        if "digest" not in kept and self.mode != "words":
            raise InputError(
                f"the table {self.table!r} was made without an encoder, so mode {self.mode!r} finds nothing; fill "
                "another one with an encoder, or take the mode 'words'"
            )
        if "digest" not in kept:
            return None
        if self._encoder is None:
            raise InputError(f"the table {self.table!r} has vectors; fill it with the encoder {kept['encoder']!r}")
        vectors = Vectors.from_settings(kept)
        vectors.use(self._encoder)
        return vectors

    def _prepared(self, connection: Connection[Any]) -> Vectors | None:
        """What encodes for the table, which is there, and ours, from now on."""
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            there = connection.execute("SELECT to_regclass(%s)::text", [self._unquoted]).fetchall()
            if there == [(None,)]:
                return self._make(connection)
            comment = connection.execute("SELECT obj_description(to_regclass(%s), 'pg_class')", [self._unquoted])
            kept = _kept(comment.fetchall())
        if kept is None:
            raise InputError(
                f"{self._connections.where} has a table {self.table!r} that was not made here, so nothing is written "
                "into it; name another one"
            )
        return self._vectors(kept)

    def _make(self, connection: Connection[Any]) -> Vectors | None:
        if self._title is None:
            raise InputError("a table that is made here has a title; name its column")
        vectors = None if self._encoder is None else Vectors(self._encoder)
        kept = {"language": self._language} | ({} if vectors is None else vectors.settings())
        column = "" if vectors is None else f"{self._names['vector']} vector({int(kept['dimensions'])}), "
        if vectors is not None and not connection.execute("SELECT FROM pg_extension WHERE extname = 'vector'").rowcount:
            connection.execute("CREATE EXTENSION vector")
        made = self._sql(_TABLE, vector=column, language=_value(self._language), longest=str(_LONGEST))
        for statement in (made, self._sql("CREATE INDEX ON {table} USING gin ({words})")):
            connection.execute(statement, [])
        comment = _value(json.dumps({"secondpass": kept}))
        connection.execute(self._sql("COMMENT ON TABLE {table} IS {comment}", comment=comment), [])
        return vectors

    def _sql(self, statement: str, **more: str) -> str:
        """A statement with its names; it goes out with parameters, if only none, so that %% is read as %."""
        return statement.format(**{**self._names, **more})


def _name(name: str) -> str:
    """A name in a statement with parameters."""
    return quoted(name).replace("%", "%%")


def _value(text: str) -> str:
    """A value where PostgreSQL takes no parameter."""
    return "'" + plain(text).replace("'", "''").replace("%", "%%") + "'"


def _kept(rows: Sequence[tuple[str | None]]) -> dict[str, Any] | None:
    """What the comment of a table that was made here says; None for people's own, and where there is none."""
    try:
        kept = json.loads(rows[0][0] or "null")["secondpass"]
    except (ValueError, KeyError, TypeError):
        return None
    return kept if isinstance(kept, dict) else None
