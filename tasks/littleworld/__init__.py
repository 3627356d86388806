"""The little world: a corpus that this project makes itself, so that every stage runs where no data hub is in reach.

`documents` is the text for base training, `tasks/littleworld/conversations.py` the conversations. Both come from seeded generators:
nothing is fetched, and the same seed gives the same bytes everywhere.
"""

VERSION = 15  # of the text and conversations made here; raise it when any of them changes
