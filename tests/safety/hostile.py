"""What the tests of this folder share with `campaign.security`."""

from campaign.hostile import BELL, CANARY, Ran, holding, hostile_dask, safe_recipe, unseen, watched_run

__all__ = ["BELL", "CANARY", "Ran", "holding", "hostile_dask", "safe_recipe", "unseen", "watched_run"]
