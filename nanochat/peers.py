"""When a rank fails, dies or hangs: one message, which names it, and the end of all ranks.

A rank that fails leaves its exit code and its reason in torchrun's store and prints its sentence. The others only see
that a collective broke; they look the code up and end without a word. Where no code comes, a rank was killed: the ones
that are left sign the store, also those whose own collective waits for one that has noticed, and the first of them
names those that did not. When a collective takes too long, every rank prints where it is.

The store is torchrun's, or lives in rank 0 (TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, without which torchrun cannot
replace a lost node). So every rank reads in good time what it has to know, and rank 0 waits for that before it ends.
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

from nanochat.errors import leave_reason, sentence_of

PATIENCE = 5.0  # seconds that a rank waits for what others leave in the store, or read there
LOOK_EVERY = 1.0  # seconds between two looks whether a rank has failed, or reports a collective that hangs


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
    failure: tuple[int, str] | None = None  # exit code and reason that a rank has left, once this one has read them
    has_signed: bool = False  # that it needs the store no more; rank 0 may be gone then
    lock: threading.Lock = field(default_factory=threading.Lock)  # on the store, until that
    is_alone: bool = False  # whether the store is gone, and `store` one of this rank's own

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
        reason = sentence or traceback.format_exception_only(error)[-1].strip()
        if sentence is None:
            traceback.print_exception(error)
        elif self._is_first("reported"):
            print(f"error: {sentence}", file=sys.stderr)
        with suppress(RuntimeError):
            self.store.set("failure", f"{code} rank {self.rank} on {socket.gethostname()}: {reason}")
        leave_reason(reason)
        return code

    def _end(self, code: int) -> None:
        """os._exit, because threads of gloo and of the prefetcher may be running: tearing down C++ objects under them
        aborts the process, and that message would bury ours.
        """
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        self._leave_store()
        os._exit(code)

    def _leave_store(self) -> None:
        """Sign that this rank has read what it has to know; in the store's own process, wait until all have."""
        until = time.monotonic() + PATIENCE
        with suppress(RuntimeError), self.lock:
            if not self.has_signed:
                self._sign("read")
                self.has_signed = True
            while self._has_store and time.monotonic() < until:
                if self.store.check([f"read{n}" for n in range(self.world)]):
                    return
                time.sleep(0.05)

    def _sign(self, key: str) -> None:
        self.store.set(f"{key}{self.rank}", "")

    @property
    def _has_store(self) -> bool:
        """Whether the store lives in this process."""
        return self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"

    # ---- a rank that failed or died

    def _code_of_a_peer(self) -> int:
        """The exit code of the rank that failed; 1 if it was killed, and then the first of the others names it."""
        until = time.monotonic() + PATIENCE
        try:
            self.store.set("broken", "")
            self._sign_of_life()
            while time.monotonic() < until and not (self._has_read_failure() or self.store.check(["mourned"])):
                time.sleep(0.05)
        except RuntimeError:  # it died with the rank that it lived in; whoever asks it again makes torch print a page
            self.store, self.is_alone = dist.HashStore(), True
        if self.failure is not None:
            code, reason = self.failure
            leave_reason(reason)
            return code
        reason = f"{self._dead()} ended without an error message; start the run again to resume"
        leave_reason(reason)
        if self._is_first("mourned"):
            print(f"error: {reason}", file=sys.stderr)
        return 1

    def _sign_of_life(self) -> None:
        with self.lock:
            if not self.has_signed:
                self._sign("lives")

    def _has_read_failure(self) -> bool:
        """Read the exit code and the reason that another rank has left; False if none has."""
        with self.lock:
            if self.failure is None and self.store.check(["failure"]):
                code, _, reason = self.store.get("failure").decode().partition(" ")
                self.failure = int(code), reason
                self._sign("read")
                self.has_signed = True
        return self.failure is not None

    def _dead(self) -> str:
        """The ranks that have not signed, with their hosts."""
        if self.is_alone:
            return f"rank 0 on {os.environ['MASTER_ADDR']}"
        with suppress(RuntimeError):
            dead = [n for n in range(self.world) if not self.store.check([f"lives{n}"])]
            hosts = [self.store.get(f"host{n}").decode() for n in dead]
            if dead:
                return " and ".join(f"rank {n} on {host}" for n, host in zip(dead, hosts, strict=True))
        return "another rank"

    def _is_first(self, key: str) -> bool:
        """Whether no other rank has asked this before. Without the store: whether this is the first one of its node.

        On the first node that is its second one, since the store died with its first.
        """
        if not self.is_alone:
            with suppress(RuntimeError):
                return self.store.add(key, 1) == 1
        return os.environ.get("LOCAL_RANK", "0") == ("1" if os.environ.get("GROUP_RANK", "0") == "0" else "0")

    # ---- a collective that hangs

    def _report_hang(self, error: BaseException) -> int:
        minutes = self.longest.total_seconds() / 60
        sentence = f"rank {self.rank} waited {minutes:.3g} minutes for the others (--collective_minutes)"
        with suppress(RuntimeError):
            self.store.set("hangs", sentence)
        leave_reason(sentence)
        if self._is_first("reported"):
            print(f"error: {sentence}; the place of each follows; start the run again to resume", file=sys.stderr)
        self._print_place(traceback.format_tb(error.__traceback__))
        return 1

    def _print_place(self, stack: list[str]) -> None:
        place = f"rank {self.rank} on {socket.gethostname()} is here:\n" + "".join(stack)
        print(place, file=sys.stderr, flush=True)

    def _watch(self) -> None:
        """Read how a rank failed while the store is there, and say that this one lives when others ask; print its stack
        and end it where others hang."""
        while not self.over.wait(LOOK_EVERY):
            with suppress(RuntimeError):
                if self.store.check(["hangs"]) and not self.over.is_set():
                    leave_reason(self.store.get("hangs").decode())
                    main = sys._current_frames().get(threading.main_thread().ident or 0)
                    self._print_place(traceback.format_stack(main))
                    self._end(1)
                if self.store.check(["broken"]):
                    self._sign_of_life()
                if self._has_read_failure():
                    return


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
