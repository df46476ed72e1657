// @phala/dcap-qvl on the quote inside the certificate of a KMS, with collateral from a collateral service, under a given
// root.
'use strict';

const crypto = require('node:crypto');
const tls = require('node:tls');
const { json } = require('node:stream/consumers');
const { decode } = require('@msgpack/msgpack');
const { AsnConvert, OctetString } = require('@peculiar/asn1-schema');
const { Certificate } = require('@peculiar/asn1-x509');
const { Quote, QuoteVerifier, getCollateral } = require('@phala/dcap-qvl');

const ARC = '1.3.6.1.4.1.62397.1';

/** The certificate that a server shows, whoever issued it: DER. */
function serverCertificate(host, port) {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ host, port, servername: 'localhost', rejectUnauthorized: false }, () => {
      resolve(socket.getPeerX509Certificate().raw);
      socket.destroy();
    });
    socket.setTimeout(30_000, () => socket.destroy(new Error('no certificate in time')));
    socket.on('error', reject);
  });
}

/** The content of a private extension. */
function extension(certificate, number) {
  const found = certificate.tbsCertificate.extensions.find(({ extnID }) => extnID === `${ARC}.${number}`);
  return Buffer.from(AsnConvert.parse(found.extnValue.buffer, OctetString).buffer);
}

/** The TDX quote inside versioned evidence: SCALE behind two zero bytes, or MessagePack. */
function quoteOf(evidence) {
  if (evidence.readUInt16LE() === 0) {
    const size = 1 << (evidence[2] & 3);
    const length = evidence.readUIntLE(2, size) >>> 2;
    return evidence.subarray(2 + size, 2 + size + length);
  }
  const { version, platform } = decode(evidence);
  if (version !== 1 || platform.kind !== 'tdx') throw new Error(`evidence of ${platform.kind}`);
  return Buffer.from(platform.data.quote);
}

async function main() {
  const { host, port, pccs, root, flips } = await json(process.stdin);
  const der = await serverCertificate(host, port);
  const certificate = AsnConvert.parse(der, Certificate);
  const quote = quoteOf(extension(certificate, 8));
  const key = Buffer.from(AsnConvert.serialize(certificate.tbsCertificate.subjectPublicKeyInfo));
  const bound = crypto.createHash('sha512').update('ratls-cert:').update(key).digest();

  const collateral = await getCollateral(pccs, quote);
  const now = Math.floor(Date.now() / 1000);
  const verdict = (bytes, verifier) => {
    try {
      return verifier.verify(bytes, collateral, now).status;
    } catch (error) {
      return `refused: ${error.message}`;
    }
  };
  const simulated = new QuoteVerifier(Buffer.from(root, 'hex'));
  const flipped = {};
  for (const offset of flips) {
    const altered = Buffer.from(quote);
    altered[offset] ^= 1;
    flipped[offset] = verdict(altered, simulated);
  }
  const report = Quote.parse(quote).report.asTd10();
  process.stdout.write(
    JSON.stringify({
      status: verdict(quote, simulated),
      usage: extension(certificate, 4).toString(),
      binds_the_key: bound.equals(Buffer.from(report.reportData)),
      rt_mr3: Buffer.from(report.rtMr3).toString('hex'),
      flipped,
      under_intels_root: verdict(quote, QuoteVerifier.newProd()),
    }),
  );
}

main();
