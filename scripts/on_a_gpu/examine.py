"""The doctor: whether states, steering and batching obey the method's laws on this model and device."""

from __future__ import annotations

from cmrm.doctor import CHECKS, examine
from cmrm.doctor.estimate import estimate_seconds
from on_a_gpu.checks import Evidence, NotPossibleError, Table
from on_a_gpu.subject import Subject

# Its checks of media show the model videos, which the shapes' processors do not take.
OF_MEDIA = "media"


def run_doctor(subject: Subject) -> Evidence:
    """Run the doctor's checks; `NotPossibleError` where they would take more than is left."""
    vlm = subject.vlm
    needed = estimate_seconds(vlm, image_size=subject.shape.side)
    if needed > subject.budget.left:
        raise NotPossibleError(
            f"takes at most {needed:.0f} s, and {max(0.0, subject.budget.left):.0f} s are left"
        )
    seen = getattr(vlm.processor, "video_processor", None) is not None or subject.shape.kind != "qwen"
    checks = [check for check in CHECKS if seen or check.name != OF_MEDIA]
    findings = list(examine(vlm, image_size=subject.shape.side, checks=checks))
    failed = [finding for finding in findings if not finding.passed]
    left_out = "" if seen else "; media left out, since this shape's processor takes no video"
    return Evidence(
        line=f"{len(findings) - len(failed)} of {len(findings)} checks passed{left_out}",
        figures={
            "estimate_seconds": needed,
            "checks": [
                {"name": one.name, "passed": one.passed, "detail": one.detail, "seconds": one.seconds}
                for one in findings
            ],
        },
        tables=[
            Table(
                title="The doctor's checks",
                cells=[
                    ["check", "", "what it measured", "seconds"],
                    *(
                        [one.name, "passed" if one.passed else "failed", one.detail, f"{one.seconds:.2f}"]
                        for one in findings
                    ),
                ],
                right=(3,),
            )
        ],
        wrong=[f"{one.name}: {one.detail}" for one in failed],
    )
