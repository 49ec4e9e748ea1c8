"""Model diagnostics (`cmrm doctor`): whether hidden states, steering and batching obey the method's laws on a model.

The laws stand in `DESIGN.md` §2. Imports `cmrm.decoding` and what that imports.
"""

from __future__ import annotations

from cmrm.doctor.examination import CHECKS, Check, Finding, examine, run_checks

__all__ = ["CHECKS", "Check", "Finding", "examine", "run_checks"]
