"""How ranks find each other, on one node or several, at the first attempt or after torchrun has started them again."""

import fcntl
import os
import socket
import struct
import sys

import torch.distributed as dist

SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of a network interface
UNSHARED = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


def store() -> dist.Store:
    """The ranks' store, without what earlier attempts have left in it.

    On one node torchrun keeps a store for all its attempts, whose keys would be taken for those of this one. On several
    nodes only a store that is not torchrun's is new each time, and without that torchrun cannot replace a node: the new
    one waits for an address that is announced once only (github.com/pytorch/pytorch/issues/135712).
    """
    found, _, _ = next(dist.rendezvous("env://"))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return found
    if _nodes() == 1:
        return dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", found)
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0" and os.environ["RANK"] == "0":
        print(f"torchrun can replace a lost node only with {UNSHARED}=1 in the environment of every node",
              file=sys.stderr)  # fmt: skip
    return found


def use_interface() -> None:
    """Let Gloo use the network interface that leads to rank 0, unless the user has named one.

    It would look its own host name up, which in many networks has no address, or only that of the machine itself.
    """
    if _nodes() == 1 or "GLOO_SOCKET_IFNAME" in os.environ or sys.platform != "linux":
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))  # sends nothing
        except OSError:  # an IPv6 address, or a name without one, which connecting to the store will report
            return
        address = probe.getsockname()[0]
        names = [name for _, name in socket.if_nameindex() if _address(probe, name) == address]
    if names and not address.startswith("127."):
        os.environ["GLOO_SOCKET_IFNAME"] = names[0]


def _nodes() -> int:
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))


def _address(probe: socket.socket, name: str) -> str | None:
    """The IPv4 address of an interface; None if it has none."""
    try:
        answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
    except OSError:
        return None
    return socket.inet_ntoa(answer[20:24])
