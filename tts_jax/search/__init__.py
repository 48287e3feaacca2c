"""Test-time search: one loop, and a short preset per published algorithm."""

from tts_jax.search.ledger import Cost, Ledger
from tts_jax.search.loop import Search, SearchResult, Video
from tts_jax.search.presets import PRESETS, load_rounds
from tts_jax.search.rounds import Round, RoundPlan, SearchConfigError, plan
from tts_jax.search.selection import Selection, best_per_parent, median, top_k
from tts_jax.search.tree import Node

__all__ = [
    "PRESETS",
    "Cost",
    "Ledger",
    "Node",
    "Round",
    "RoundPlan",
    "Search",
    "SearchConfigError",
    "SearchResult",
    "Selection",
    "Video",
    "best_per_parent",
    "load_rounds",
    "median",
    "plan",
    "top_k",
]
