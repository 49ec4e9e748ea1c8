"""`cmrm verify-serving`: tell by a canary whether a server steers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from cmrm.errors import UserError
from cmrm.untrusted.printable import first_line


def verify_serving(
    target: str,
    /,
    *,
    canary: Path,
    served_model: str = "",
    key_variable: str = "",
    request_fields: Path | None = None,
    timeout: Annotated[float, Parameter(validator=validators.Number(gt=0))] = 120.0,
    device: str = "auto",
) -> None:
    """Tell by an export's canary.json whether a server, or a folder, steers.

    Sends the canary's prompts at temperature 0. Exit status: 0 if every answer begins as the steered model's, 1 if
    every one begins as the unsteered model's, 2 otherwise, also if it cannot be asked.

    Parameters
    ----------
    target
        URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1, or a model folder for transformers.
    canary
        The canary.json of the export.
    served_model
        Name under which the server serves. Default: the only one that it lists.
    key_variable
        Environment variable with the API key. Default: no key is sent.
    request_fields
        A JSON file of fields to add to each request, such as an export's request-fields.json.
    timeout
        Seconds for each answer.
    device
        Where a folder is loaded: auto, cpu, cuda, or one GPU such as cuda:1.
    """
    from flows.export.verify import verify_serving as ask_and_print

    try:
        status = ask_and_print(
            target,
            canary=canary,
            model=served_model,
            key_variable=key_variable,
            request_fields=request_fields,
            timeout=timeout,
            device=device,
        )
    except UserError:
        raise
    except Exception as error:
        # A traceback would end with status 1, which says that the shift was dropped.
        raise UserError(
            f"verify-serving: cannot be asked: {type(error).__name__}: {first_line(error)}; --debug shows where."
        ) from error
    if status:
        sys.exit(status)
