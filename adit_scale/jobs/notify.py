"""A message to a chat when a study ends or a point fails for good.

The address is in the environment variable ADIT_WEBHOOK_URL of whoever runs the jobs. It is a secret: it is
never written to a file, a log or an error, and not taken from settings, which are.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adit_scale.jobs.node import read_done

URL = "ADIT_WEBHOOK_URL"
TIMEOUT_S = 5.0
STUDY_ENDED, POINT_FAILED = "study ended", "point failed"


def notify(
    event: str,
    study: str,
    node: str = "",
    reason: str = "",
    *,
    log: Path | str = "",
    counts: Mapping[str, int] | None = None,
    headline: str = "",
    report: Path | str = "",
) -> bool:
    """POST the event as JSON to ADIT_WEBHOOK_URL; whether that was done.

    STUDY_ENDED takes counts (points by state, such as {"done": 3, "failed": 1}), the report's headline and
    its folder; POINT_FAILED the node's name, the reason in one line and its log. All are keys of the JSON,
    beside ``text``, which Slack and Mattermost show, and ``event``. Nothing is sent where the variable is
    empty; a receiver that refuses or hangs (5 s) costs a line on stderr and nothing else.
    """
    url = os.environ.get(URL, "").strip()
    if not url:
        return False
    facts = {"study": study, "node": node, "reason": reason, "headline": headline}
    facts |= {"log": str(log), "report": str(report)}
    body: dict[str, Any] = {"event": event, **{name: fact for name, fact in facts.items() if fact}}
    if counts is not None:
        body["counts"] = dict(counts)
    problem = _post(url, json.dumps({"text": message(body), **body}).encode())
    if problem:
        print(f"notification ({event}) not sent: {problem}; see {URL}", file=sys.stderr, flush=True)
    return not problem


def study_ended(study: str, report: Path) -> bool:
    """Tell of a finished report's counts and headline. report: its node's folder. Returns as notify."""
    done = read_done(report)
    points, total = (int(done["metrics"][f"points_{name}"]) for name in ("done", "total"))
    headline = done["table"].splitlines()[0].partition(" points. ")[2]
    counts = {"done": points, "not done": total - points}
    return notify(STUDY_ENDED, study, counts=counts, headline=headline, report=report / "report")


def message(body: Mapping[str, Any]) -> str:
    """One line for people.

    >>> message({"event": "study ended", "study": "s", "counts": {"done": 3, "failed": 1}, "headline": "L=2"})
    's ended: 3 of 4 points done, 1 failed. L=2'
    >>> message({"event": "point failed", "study": "s", "node": "diffusion dit_s", "reason": "no space left"})
    's: diffusion dit_s failed: no space left'
    """
    if body["event"] == POINT_FAILED:
        text = f"{body['study']}: {body.get('node', 'a job')} failed: {body.get('reason', 'see its log')}"
        return f"{text} ({body['log']})" if "log" in body else text
    text = f"{body['study']} ended"
    if counts := body.get("counts"):
        rest = "".join(f", {n} {state}" for state, n in counts.items() if n and state != "done")
        text += f": {counts.get('done', 0)} of {sum(counts.values())} points done{rest}"
    return f"{text}. {body['headline']}" if "headline" in body else text


def _post(url: str, body: bytes) -> str:
    """Why it was not taken, without the address; "" where it was."""
    if not url.startswith(("https://", "http://")):
        return "the address is no http or https address"
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"the receiver answered {error.code}"
    except urllib.error.URLError as error:
        reason = error.reason
        return getattr(reason, "strerror", None) or type(reason).__name__
    except (OSError, ValueError, http.client.HTTPException) as error:
        # Their texts may quote the address.
        return type(error).__name__
