"""fedct-coordinator renew: a new certificate for the server."""

from __future__ import annotations

from common.clock import now
from common.console import say
from server.cli.options import HERE, FolderOption, PassphraseOption, passphrase


def renew(folder: FolderOption = HERE, passphrase_file: PassphraseOption = None) -> None:
    """Make a new certificate for the server, under the same authority; sites notice nothing."""
    from server import ca
    from server.coordinator import open_coordinator

    opened = open_coordinator(folder)
    made = ca.renew(opened, passphrase(passphrase_file, new=False), now())
    say(f"The server's certificate lasts until {made.ends:%Y-%m-%d} ({made.days} days); start the SuperLink again")
