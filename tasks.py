"""The invoke namespace: runbooks at the top, steps and tools in collections."""

from __future__ import annotations

from invoke import Collection

import runbooks
from credscale.frontends import cli, tools
from credscale.mongo import STEPS

cli.answer_usage_errors_with_2()

ns = Collection(*(cli.task_of(runbook) for runbook in cli.runbooks_in(runbooks)), tools.check)
ns.add_collection(cli.steps_collection("mongo", STEPS))
ns.add_collection(tools.lab)
ns.add_collection(tools.report)
ns.add_collection(tools.notebooks)
ns.add_collection(tools.docs)
