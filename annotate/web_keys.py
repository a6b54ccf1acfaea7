"""Names under which the application keeps what its routes need."""

from __future__ import annotations

from aiohttp import web

from fewscope.annotate.learning import Learning
from fewscope.annotate.results import Tables
from fewscope.annotate.round_log import RoundLog
from fewscope.annotate.runs import Runs
from fewscope.annotate.session import Session
from fewscope.annotate.switching import Resolution

SESSION: web.AppKey[Session] = web.AppKey("session", Session)
LEARNING: web.AppKey[Learning] = web.AppKey("learning", Learning)
RUNS: web.AppKey[Runs] = web.AppKey("runs", Runs)
TABLES: web.AppKey[Tables] = web.AppKey("tables", Tables)
ROUNDS: web.AppKey[RoundLog] = web.AppKey("rounds", RoundLog)
RESOLUTION: web.AppKey[Resolution] = web.AppKey("resolution", Resolution)
