"""A message to a web address, in the form that Slack, Mattermost, Rocket.Chat and others take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.request import Request, urlopen

SECONDS = 20.0


def send(text: str, environment: Mapping[str, str]) -> str:
    """Post {"text": text} to DRTUNE_WEBHOOK_URL, if it is set; what went wrong, in a line without the address.

    The address is a secret: who knows it can write there.
    """
    address = environment.get("DRTUNE_WEBHOOK_URL")
    if not address:
        return ""
    try:
        request = Request(address, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"})
        if request.type not in ("http", "https"):
            return "the webhook was not told: DRTUNE_WEBHOOK_URL begins neither with http:// nor with https://"
        with urlopen(request, timeout=SECONDS):
            return ""
    except ValueError:
        return "the webhook was not told: DRTUNE_WEBHOOK_URL is no web address"
    except OSError as error:
        return f"the webhook was not told: {getattr(error, 'reason', None) or type(error).__name__}"
