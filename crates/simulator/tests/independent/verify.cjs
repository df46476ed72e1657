// Verifies quotes with @phala/dcap-qvl: {root, cases} as JSON on stdin, a list of results as JSON on stdout.
'use strict';

const { QuoteVerifier, getCollateral } = require('@phala/dcap-qvl');

const hex = (bytes) => Buffer.from(bytes).toString('hex');

async function answer(root, { quote, collateral, pccs, now }) {
  try {
    const bytes = Buffer.from(quote, 'hex');
    const parts = collateral ?? (await getCollateral(pccs, bytes));
    const verified = new QuoteVerifier(Buffer.from(root, 'hex')).verify(bytes, parts, now);
    const report = verified.report.asTd10();
    return {
      status: verified.status,
      advisories: verified.advisory_ids,
      body: verified.report.type,
      mr_td: hex(report.mrTd),
      rt_mr3: hex(report.rtMr3),
      mr_config_id: hex(report.mrConfigId),
      report_data: hex(report.reportData),
    };
  } catch (error) {
    return { error: error.message };
  }
}

async function main() {
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  const { cases } = JSON.parse(Buffer.concat(chunks));
  const answers = [];
  for (const one of cases) answers.push(await answer(one.root, one));
  process.stdout.write(JSON.stringify(answers));
}

main();
