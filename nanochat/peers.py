"""When a rank fails, dies or hangs: one message, which names it, and the end of all ranks.

A rank that fails leaves its exit code in torchrun's store and prints its sentence. The others only see that a
collective broke; they look the code up and end without a word. Where no code comes, a rank was killed: the ones that
are left sign the store, and the first of them names those that did not. When a collective takes too long, every rank
prints where it is.
"""

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import torch.distributed as dist

from nanochat.errors import sentence_of

PATIENCE = 5.0  # seconds that a rank waits for what others leave in the store
LOOK_EVERY = 1.0  # seconds between two looks whether a rank reports a collective that hangs


class PeerFailed(Exception):
    """This rank cannot continue because another one failed, which prints the reason."""


@dataclass
class Peers:
    """The ranks of a run, as one of them sees them. longest: what a collective may take."""

    store: dist.Store
    rank: int
    world: int
    longest: timedelta
    over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def reported(self) -> Iterator[None]:
        """End this rank with a message when an error leaves the context, or when any rank's collective hangs."""
        self.store.set(f"host{self.rank}", socket.gethostname())
        watching = threading.Thread(target=self._watch, name="peers", daemon=True)
        watching.start()
        try:
            yield
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.over.set()
            self._end(self._code_after(error))
            raise  # not reached
        finally:
            self.over.set()
            watching.join()  # it uses the store, which ends with the process group

    def _code_after(self, error: BaseException) -> int:
        """Print what this rank has to say about an error. Returns its exit code."""
        if _is_timeout(error):
            return self._report_hang(error)
        if _is_of_a_peer(error):
            return self._code_of_a_peer()
        sentence = sentence_of(error)
        code = 1 if sentence is None else 2
        if sentence is None:
            traceback.print_exception(error)
        elif self._is_first("reported"):
            print(f"error: {sentence}", file=sys.stderr)
        with suppress(RuntimeError):
            self.store.set("code", str(code))
        return code

    def _end(self, code: int) -> None:
        """os._exit, because threads of gloo and of the prefetcher may be running: tearing down C++ objects under them
        aborts the process, and that message would bury ours.
        """
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    # ---- a rank that failed or died

    def _code_of_a_peer(self) -> int:
        """The exit code of the rank that failed; 1 if it was killed, and then the first of the others names it."""
        with suppress(RuntimeError):
            self.store.set(f"lives{self.rank}", "")
        until = time.monotonic() + PATIENCE
        with suppress(RuntimeError):
            while time.monotonic() < until:
                if self.store.check(["code"]):
                    return int(self.store.get("code"))
                time.sleep(0.05)
        if self._is_first("mourned"):
            print(f"error: {self._dead()} ended without an error message; start the run again to resume",
                  file=sys.stderr)  # fmt: skip
        return 1

    def _dead(self) -> str:
        """The ranks that have not signed, with their hosts."""
        with suppress(RuntimeError):
            dead = [n for n in range(self.world) if not self.store.check([f"lives{n}"])]
            hosts = [self.store.get(f"host{n}").decode() for n in dead]
            if dead:
                return " and ".join(f"rank {n} on {host}" for n, host in zip(dead, hosts, strict=True))
        return "another rank"  # the one that hosts the store, perhaps

    def _is_first(self, key: str) -> bool:
        """Whether no other rank has asked this before."""
        try:
            return self.store.add(key, 1) == 1
        except RuntimeError:  # the store died with the rank that hosts it
            return True

    # ---- a collective that hangs

    def _report_hang(self, error: BaseException) -> int:
        with suppress(RuntimeError):
            self.store.set("hangs", "")
        if self._is_first("reported"):
            minutes = self.longest.total_seconds() / 60
            print(f"error: rank {self.rank} waited {minutes:.3g} minutes for the others (--collective_minutes); the "
                  "place of each follows; start the run again to resume", file=sys.stderr)  # fmt: skip
        self._print_place(traceback.format_tb(error.__traceback__))
        return 1

    def _print_place(self, stack: list[str]) -> None:
        place = f"rank {self.rank} on {socket.gethostname()} is here:\n" + "".join(stack)
        print(place, file=sys.stderr, flush=True)

    def _watch(self) -> None:
        """Print this rank's stack and end it, once another one reports that a collective hangs."""
        while not self.over.wait(LOOK_EVERY):
            with suppress(RuntimeError):
                if self.store.check(["hangs"]) and not self.over.is_set():
                    main = sys._current_frames().get(threading.main_thread().ident or 0)
                    self._print_place(traceback.format_stack(main))
                    self._end(1)


def _is_timeout(error: BaseException) -> bool:
    """Whether a collective took too long; gloo raises plain RuntimeErrors."""
    return isinstance(error, RuntimeError) and "timed out waiting" in str(error).lower()


def _is_of_a_peer(error: BaseException) -> bool:
    """Whether an error only reports a lost connection to another rank; gloo raises plain RuntimeErrors."""
    return isinstance(error, (PeerFailed, dist.DistError)) or isinstance(error, RuntimeError) and "gloo" in str(error)


@contextmanager
def with_parent() -> Iterator[None]:
    """Send this process a SIGTERM, on which training saves and exits, once its parent is gone.

    A killed launcher cannot stop its ranks, and a second run would find them still working in its folder.
    """
    parent, done = os.getppid(), threading.Event()

    def watch() -> None:
        while not done.wait(1):
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, name="parent", daemon=True).start()
    try:
        yield
    finally:
        done.set()
