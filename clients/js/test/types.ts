// Compiled by the tests, not run: the declarations allow what the README shows.
import { AttestationError, type AttestationCode, type Kms, connect, parsePins, verify } from 'cvm-kms';
import { verify as offline, TCB_STATUSES } from 'cvm-kms/verify';

export async function use(document: Uint8Array): Promise<string> {
  const kms: Kms = await connect('https://kms.example.com:8000', { app_id: ['00'] }, { tcbStatuses: TCB_STATUSES });
  const other = await connect('owner/repo', { base: 'https://mirror.example.com', pins: { mr_aggregated: '00' } });
  await other.fetch('/x', { method: 'POST', body: new Uint8Array() });
  other.close();
  try {
    const { statement } = await verify(document, parsePins(document), { now: 1 });
    await offline('{}', {}, { maxAge: null });
    // @ts-expect-error: there is no pin of this name
    await verify(document, { root: '00' });
    // @ts-expect-error: what was proved does not change
    kms.attestation.statement.sealed = true;
    return statement.root.ca_spki_sha256;
  } catch (error) {
    const code: AttestationCode | undefined = error instanceof AttestationError ? error.code : undefined;
    return code ?? (await kms.call('GetMeta')).name;
  }
}
