"""dstack-sdk's client of the guest agent, on the socket given as argument: the result of each call."""

import json
import sys

from dstack_sdk import DstackClient

client = DstackClient(sys.argv[1])
before = client.info()
quote = client.get_quote(b"by dstack-sdk")
attestation = client.attest(b"by dstack-sdk").decode_attestation()
client.emit_event("from-python", b"\x00\xff")
after = client.info()
again = client.get_quote("text")
try:
    client.get_quote(b"x" * 65)
    refused = None
except ValueError as error:
    refused = str(error)
try:
    client.get_key("path")
    no_key = None
except Exception as error:
    no_key = type(error).__name__
json.dump(
    {
        "reachable": client.is_reachable(),
        "version": client.version().version,
        "app_id": before.app_id,
        "instance_id": before.instance_id,
        "vm_config": before.vm_config,
        "mr_aggregated": before.tcb_info.mr_aggregated,
        "before": [before.tcb_info.rtmr0, before.tcb_info.rtmr1, before.tcb_info.rtmr2, before.tcb_info.rtmr3],
        "replayed": [quote.replay_rtmrs()[index] for index in range(4)],
        "after": after.tcb_info.rtmr3,
        "replayed_after": again.replay_rtmrs()[3],
        "last_event": [after.tcb_info.event_log[-1].event, after.tcb_info.event_log[-1].event_payload],
        "quote": quote.decode_quote().hex(),
        "report_data": quote.report_data,
        "attestation": attestation.hex(),
        "too_long": refused,
        "no_key": no_key,
    },
    sys.stdout,
)
