"""Test-time search: one loop, and a short preset per published algorithm."""

from tts_jax.search.budget import Budget
from tts_jax.search.engine import Search
from tts_jax.search.ledger import Cost, Ledger
from tts_jax.search.loop import drive
from tts_jax.search.models import SearchFault, encode_prompts, outline_of
from tts_jax.search.paths import Move, Path
from tts_jax.search.plan import Plan, RoundPlan, plan
from tts_jax.search.presets import PRESETS, load_preset
from tts_jax.search.results import Saved, SearchResult, Store, Video
from tts_jax.search.rounds import Neighbour, Outline, Renoise, Round, SearchConfigError
from tts_jax.search.tree import ROOT, Node

__all__ = [
    "PRESETS",
    "ROOT",
    "Budget",
    "Cost",
    "Ledger",
    "Move",
    "Neighbour",
    "Node",
    "Outline",
    "Path",
    "Plan",
    "Renoise",
    "Round",
    "RoundPlan",
    "Saved",
    "Search",
    "SearchConfigError",
    "SearchFault",
    "SearchResult",
    "Store",
    "Video",
    "drive",
    "encode_prompts",
    "load_preset",
    "outline_of",
    "plan",
]
