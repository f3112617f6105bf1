"""A small Hub on 127.0.0.1 that speaks the protocol as huggingface_hub's client does, for tests without a network.

It knows one user, keeps repositories (models, datasets, spaces) with branches, tags and commits in memory, and notes
every request. Large files go through LFS, in one piece or in parts, and are checked against their sha256; they are
read through a redirect, as from the Hub's CDN. Faults can be asked for by path.
"""

from tests.hub_server.cards import card_problems
from tests.hub_server.faults import Fault
from tests.hub_server.repos import TOKEN, USER, Repo
from tests.hub_server.server import HubServer, Request, hub_server

__all__ = ["TOKEN", "USER", "Fault", "HubServer", "Repo", "Request", "card_problems", "hub_server"]
