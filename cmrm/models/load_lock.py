"""The lock under which models are made and loaded, one at a time in a process.

While transformers loads a model, it replaces `PreTrainedModel.tie_weights`, and how weights begin, process-wide. A
model that another thread makes meanwhile is not tied; and of two threads that load at once, the one that ends last
puts back what it found: the replacement. From then on no model of the process has its embeddings and its head tied.
"""

from __future__ import annotations

from threading import RLock

# One for the process, as what it guards is.
LOADING = RLock()
