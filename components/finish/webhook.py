"""A message to a web address, in the form that Slack, Mattermost, Rocket.Chat and others take."""

from __future__ import annotations

from collections.abc import Mapping

from drtune.files.webhook import post


def send(text: str, environment: Mapping[str, str]) -> str:
    """Post {"text": text} to DRTUNE_WEBHOOK_URL, if it is set; what went wrong, in a line without the address."""
    address = environment.get("DRTUNE_WEBHOOK_URL")
    if not address:
        return ""
    if not address.startswith(("http://", "https://")):
        return "the webhook was not told: DRTUNE_WEBHOOK_URL begins neither with http:// nor with https://"
    problem = post(address, {"text": text})
    return problem and f"the webhook was not told: {problem}"
