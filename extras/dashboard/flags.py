"""The flags of scripts that serve the dashboard, and the folders it may look into. Nothing heavy is imported here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nanochat.errors import UserError
from nanochat.paths import base_dir
from nanochat.web.http.flags import NetworkFlags, find_api_key, is_local

MOST_MEGABYTES = 1 << 20


@dataclass
class DashboardFlags:
    """What the dashboard shows, and what its visitors may do."""

    # --- dashboard
    allow_training: bool = False
    """let the page start, stop and delete runs, and take uploads; for other machines this needs an API key"""
    out_dir: list[Path] = field(default_factory=list)
    """show the runs of scripts.train in these folders, and let new ones be written below; default: <base>/out"""
    folder: list[Path] = field(default_factory=list)
    """let training read text, conversations and models below this folder, too; repeat it for several"""
    max_upload: int = 512
    """largest upload in megabytes"""

    def check_dashboard(self, network: NetworkFlags, host: str) -> None:
        """Report mistakes that can be seen before anything is loaded."""
        if not 1 <= self.max_upload <= MOST_MEGABYTES:
            raise UserError(f"--max_upload is {self.max_upload}; expected 1 to {MOST_MEGABYTES} megabytes")
        for name in ("out_dir", "folder"):
            for path in getattr(self, name):
                if path.exists() and not path.is_dir() or name == "folder" and not path.exists():
                    found = "is not a folder" if path.exists() else "does not exist"
                    raise UserError(f"--{name} {path} {found}; name a folder, or leave it out")
        if not self.allow_training or find_api_key(network.api_key):
            return
        # Without a key it is the address, the Host and the Origin of a request that tell friend from foe.
        if not is_local(host):
            raise UserError(
                f"--allow_training on {host} would let everybody who reaches it train here; add --api_key with a secret"
            )
        for name in ("cors_origin", "allowed_host"):
            if anybody := {"*", "null"} & {*getattr(network, name)}:
                raise UserError(
                    f"--allow_training with --{name} {min(anybody)!r} would let any web site train here; add --api_key "
                    "with a secret"
                )

    def places(self, served: Callable[[], Sequence[str]] = tuple) -> "Places":
        """The folders that these flags name. served: ids of the models that the server has loaded."""
        base = base_dir()
        return Places(
            base=base,
            out_dirs=tuple(self.out_dir) or (base / "out",),
            folders=tuple(self.folder),
            training=self.allow_training,
            served=served,
        )


@dataclass(frozen=True)
class Places:
    """Where the dashboard looks, and what it may do there."""

    base: Path
    out_dirs: tuple[Path, ...]
    """folders that are the out_dir of a run of scripts.train, or hold several; new ones may be written below"""
    folders: tuple[Path, ...]
    """where training may read, beside the uploads"""
    training: bool = False
    served: Callable[[], Sequence[str]] = tuple
    """ids of the models that the server has loaded"""
    running: Callable[[], Mapping[str, str]] = dict
    """run id -> id of the job that trains it"""

    @property
    def uploads(self) -> Path:
        return self.base / "uploads"

    @property
    def watched(self) -> list[Path]:
        """The out_dirs, and what scripts.train leaves in the current folder: out and out-*."""
        here = [path for path in sorted(Path().glob("out*")) if path.is_dir() and path.name[:4] in ("out", "out-")]
        return [*self.out_dirs, *here]
