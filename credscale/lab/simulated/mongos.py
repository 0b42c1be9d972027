"""The simulated mongos: speaks to drivers as a MongoDB 5.0 mongos does, and balances like the config server.

A rehearsal stage, not a database: one process routes and balances for shards that are SecantusDB processes.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from pymongo.errors import PyMongoError

from credscale.lab.simulated.backends import connect
from credscale.lab.simulated.balancer import Balancer
from credscale.lab.simulated.cluster import Cluster
from credscale.lab.simulated.commands import Commands
from credscale.lab.simulated.faults import Faults
from credscale.lab.simulated.migration import recover
from credscale.lab.simulated.replies import CommandFailed
from credscale.lab.simulated.wire import Server

if TYPE_CHECKING:
    from types import FrameType

_RECOVERY_SECONDS = 60.0

log = logging.getLogger(__name__)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Run the lab's simulated mongos.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--config", required=True, metavar="HOST:PORT", help="the simulated config server")
    parser.add_argument("--config-set", default="configReplSet")
    parser.add_argument("--faults", type=Path, help="a JSON file of ordered faults, read on every use")
    parser.add_argument("--round-seconds", type=float, default=0.3, help="the pause between balancer rounds")
    parser.add_argument("--time-zone", type=ZoneInfo, help="where activeWindow is read, instead of this machine's")
    return parser.parse_args()


def recover_patiently(cluster: Cluster) -> None:
    """Mend interrupted migrations, waiting for shards that start at the same time."""
    deadline = time.monotonic() + _RECOVERY_SECONDS
    while True:
        try:
            recover(cluster)
        except (CommandFailed, PyMongoError) as error:
            if time.monotonic() > deadline:
                raise
            log.warning("cannot mend interrupted migrations yet: %s", error)
            time.sleep(0.2)
        else:
            return


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    arguments = parse_arguments()
    config = connect("config", f"{arguments.config_set}/{arguments.config}")
    cluster = Cluster(config, Faults(arguments.faults))
    cluster.catalog.prepare(f"127.0.0.1:{arguments.port}")
    recover_patiently(cluster)
    balancer = Balancer(cluster, arguments.round_seconds, arguments.time_zone)
    server = Server(arguments.port, Commands(cluster, balancer).answer)

    def stop(_number: int, _frame: FrameType | None) -> None:
        cluster.stopping.set()
        # shutdown() waits for the loop that this handler interrupts.
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    balancing = threading.Thread(target=balancer.run, daemon=True)
    balancing.start()
    server.serve_forever(poll_interval=0.1)
    # A migration under way gets the time to end; what is left of it after that is mended by the next start.
    balancing.join(timeout=5)
    server.server_close()


if __name__ == "__main__":
    main()
