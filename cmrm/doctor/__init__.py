"""The doctor: checks that reading and steering do on a loaded model what `DESIGN.md` §2 says they do."""

from __future__ import annotations

from cmrm.doctor.examination import CHECKS, Check, Finding, examine, run_checks

__all__ = ["CHECKS", "Check", "Finding", "examine", "run_checks"]
