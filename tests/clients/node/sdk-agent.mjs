// @phala/dstack-sdk's client of the guest agent, on the socket given as argument: the result of each call.

import { DstackClient } from '@phala/dstack-sdk';

const client = new DstackClient(process.argv[2]);
const before = await client.info();
const quote = await client.getQuote('by dstack-sdk');
const { attestation } = await client.attest('by dstack-sdk');
await client.emitEvent('from-node', Buffer.from([0, 255]));
const after = await client.info();
const again = await client.getQuote(Buffer.from('text'));
const refused = await client.getQuote(Buffer.alloc(65)).then(() => null, (error) => error.message);
const noKey = await client.getKey('path').then(() => null, (error) => error.name);
const { tcb_info: tcb } = before;
const last = after.tcb_info.event_log.at(-1);
process.stdout.write(
  JSON.stringify({
    reachable: await client.isReachable(),
    version: (await client.version()).version,
    app_id: before.app_id,
    instance_id: before.instance_id,
    vm_config: before.vm_config,
    mr_aggregated: tcb.mr_aggregated,
    before: [tcb.rtmr0, tcb.rtmr1, tcb.rtmr2, tcb.rtmr3],
    replayed: quote.replayRtmrs(),
    after: after.tcb_info.rtmr3,
    replayed_after: again.replayRtmrs()[3],
    last_event: [last.event, last.event_payload],
    quote: quote.quote,
    report_data: quote.report_data,
    attestation,
    too_long: refused,
    no_key: noKey,
  }),
);
