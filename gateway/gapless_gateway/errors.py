"""Errors that a person can act on.

Everything that a user did, or that the machine around the gateway did, is a `UserError`: its
message is one sentence that names the thing and the remedy, and the command line prints it
without a traceback and leaves with status 2. Everything else that is raised is a bug of ours.
"""

from __future__ import annotations


class UserError(Exception):
    """A mistake or a fault whose message is one sentence: the thing, and what to do about it."""


class ConfigurationError(UserError):
    """The configuration file, a key in it, or a file that it names cannot be used as it is."""


class PortIsNoSerialLine(ConfigurationError):
    """A `[[port]]` path exists and is something else than a serial line; waiting heals nothing."""


class AddressInUse(UserError):
    """The web server's address is taken by another program or does not belong to this machine."""
