"""nanochat's name for a mixture: `from tasks.common import TaskMixture`."""

from tasks.mixture import Mixture as TaskMixture

__all__ = ["TaskMixture"]
