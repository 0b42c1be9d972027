"""The invoke namespace: runbooks at the top, steps and tools in collections."""

from __future__ import annotations

from credscale.frontends import catalogue, cli, tools
from credscale.frontends.schedule.tasks import schedule

cli.answer_usage_errors_with_2()

ns = cli.namespace(catalogue.entries(), tools.check, tools.lab, tools.report, tools.notebooks, tools.docs, schedule)
