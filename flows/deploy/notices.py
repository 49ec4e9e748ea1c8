"""The automation that tells people of a regression that a deployment's watch found: by a notification or a webhook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.events.actions import ActionTypes, CallWebhook, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from cmrm.errors import UserError
from cmrm.untrusted.printable import show, show_names
from flows.watch.events import REGRESSED

SUBJECT = "{{ event.resource.name }} became less safe"
BODY = "{{ event.payload.verdict }} Run {{ event.payload.after.run }} in {{ event.payload.store }}."
# The JSON that a webhook is sent; the payload has the verdict, both runs and the changes of rates.
PAYLOAD = (
    '{"event": {{ event.event|tojson }}, "model": {{ event.resource.name|tojson }}, '
    '"id": "{{ event.id }}", "payload": {{ event.payload|tojson }}}'
)
WEBHOOK = "webhook"
NOTIFY = "notify"


def name_automation(deployment: str) -> str:
    """The name of the automation of the deployment FLOW/NAME."""
    return f"cmrm regression: {deployment}"


def find_automation(client: SyncPrefectClient, deployment: str) -> Automation | None:
    """Find the automation of a deployment by its name."""
    return next(iter(client.read_automations_by_name(name_automation(deployment))), None)


def find_blocks(client: SyncPrefectClient, names: Iterable[str]) -> list[BlockDocument]:
    """Find the blocks TYPE/NAME; raises `UserError` for one that is not there or cannot tell anyone."""
    return [_find_block(client, name) for name in names]


def make_automation(deployment: str, deployment_id: UUID, blocks: Sequence[BlockDocument]) -> AutomationCore:
    """Make the automation that tells each block of a regression that this deployment's watch found."""
    return AutomationCore(
        name=name_automation(deployment),
        description=f"Tells of a regression that {deployment} found. Written by cmrm deploy.",
        trigger=EventTrigger(
            expect={REGRESSED},
            match={"prefect.resource.id": "cmrm.model.*"},
            match_related={
                "prefect.resource.id": f"prefect.deployment.{deployment_id}",
                "prefect.resource.role": "deployment",
            },
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[_act(block) for block in blocks],
    )


def name_blocks(client: SyncPrefectClient, automation: AutomationCore) -> list[str]:
    """Name the blocks that an automation tells; one that was deleted is named by its id."""
    ids = [action.block_document_id for action in automation.actions if hasattr(action, "block_document_id")]
    return [_name_block(client, one) for one in ids]


def _act(block: BlockDocument) -> ActionTypes:
    if _slug(block) == WEBHOOK:
        return CallWebhook(block_document_id=block.id, payload=PAYLOAD)
    return SendNotification(block_document_id=block.id, subject=SUBJECT, body=BODY)


def _find_block(client: SyncPrefectClient, name: str) -> BlockDocument:
    slug, slash, own = name.partition("/")
    if not slash or not slug or not own:
        raise UserError(
            f"--notify: {show(name)} is no block; give TYPE/NAME, such as slack-webhook/on-call (prefect block ls)."
        )
    try:
        block = client.read_block_document_by_name(own, slug, include_secrets=False)
    except ObjectNotFound:
        known = [
            _describe(one) for one in client.read_block_documents(include_secrets=False) if _can_tell(one)
        ]
        raise UserError(
            f"--notify: there is no block {show(name)} on the Prefect server; blocks that can tell people: "
            f"{show_names(known) or 'none'}. Make one in Prefect's interface, or as docs/deploy.md shows."
        ) from None
    if not _can_tell(block):
        raise UserError(
            f"--notify: {show(name)} is a block of another kind; give one that notifies, such as slack-webhook or "
            "sendgrid-email, or a webhook."
        )
    return block


def _name_block(client: SyncPrefectClient, block_id: UUID) -> str:
    try:
        return _describe(client.read_block_document(block_id, include_secrets=False))
    except ObjectNotFound:
        return f"deleted block {block_id}"


def _describe(block: BlockDocument) -> str:
    return f"{_slug(block)}/{block.name}"


def _slug(block: BlockDocument) -> str:
    return "" if block.block_type is None else block.block_type.slug


def _can_tell(block: BlockDocument) -> bool:
    schema = block.block_schema
    return _slug(block) == WEBHOOK or (schema is not None and NOTIFY in schema.capabilities)
