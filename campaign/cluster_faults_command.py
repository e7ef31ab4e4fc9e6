"""`curate`, with another time to live for workers that show no sign of life: for a campaign that freezes them and does not want to wait."""

import os

from campaign.cluster_faults_ground import TTL


def main() -> None:
    from curate.__main__ import main as curate
    from curate.clusters.settled import SETTINGS

    if ttl := os.environ.get(TTL):
        SETTINGS["distributed.scheduler.worker-ttl"] = ttl
    curate()


if __name__ == "__main__":
    main()
