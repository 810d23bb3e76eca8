"""A server whose engine can be broken while it runs, for bench/faults.py: python bench/faults_broken.py PORT [MODEL].

Lines of its standard input say what each batch does from then on: `raise`; `hang`, until another line comes; `one`, one
batch hangs, none of a probe's, and the others run; `die` ends a scorer's thread; anything else: work. All else is as
`secondpass serve` has it, but for probes each 2 seconds.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from dataclasses import replace

import uvicorn

from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.batching import Batch
from secondpass.scoring.engines import Logits
from secondpass.serving import logs
from secondpass.serving.app import application
from secondpass.serving.models import Served
from secondpass.serving.server import Server

PROBE_EVERY = 2.0  # seconds


class Breaker:
    """What batches do now."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._mode, self._hung = "", False

    def listen(self) -> None:
        while line := os.read(0, 100):  # not by sys.stdin, whose lock a forked child would wait for
            with self._changed:
                self._mode, self._hung = line.decode().strip(), False
                self._changed.notify_all()
            if self._mode == "die":
                worker = next(one for one in threading.enumerate() if one.name.startswith("secondpass_"))
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(worker.ident or 0), ctypes.py_object(SystemExit)
                )

    def batch(self, rows: int) -> None:
        with self._changed:
            if self._mode == "raise":
                raise RuntimeError("the engine broke")
            if self._mode == "hang" or (self._mode == "one" and rows > 1 and not self._hung):
                self._hung = True
                mode = self._mode
                self._changed.wait_for(lambda: self._mode != mode)


def opened(model: str, breaker: Breaker) -> CrossEncoder:
    encoder = CrossEncoder(model) if model else CrossEncoder()
    engine = encoder.scorer.engine

    def infer(batch: Batch) -> Logits:
        breaker.batch(len(batch.ids))
        return engine.infer(batch)

    encoder.scorer.engine = replace(engine, infer=infer)
    return encoder


def main() -> None:
    """Serve until a signal comes."""
    port, model = int(sys.argv[1]), sys.argv[2]
    breaker = Breaker()
    threading.Thread(target=breaker.listen, daemon=True).start()
    server = Server([Served("broken", lambda: opened(model, breaker))], probe_every=PROBE_EVERY)
    logs.set_up(sys.stderr)
    uvicorn.run(application(server), port=port, log_config=None, access_log=False, timeout_graceful_shutdown=5)


if __name__ == "__main__":
    main()
