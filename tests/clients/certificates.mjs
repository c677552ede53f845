// A certificate for localhost that an authority of the test's own has signed, made by openssl when it is needed.

import { execFileSync } from 'node:child_process';
import { X509Certificate, createHash } from 'node:crypto';
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

/**
 * The files `cert`, `key` and `ca`, which go when test `t` ends, and `pin`: what Chromium calls the key (`--ignore-certificate-errors-spki-list`).
 */
export function certificates(t) {
  const folder = mkdtempSync(join(tmpdir(), 'wsd-tls-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const [ca, caKey, cert, key, request, names] = ['ca.pem', 'ca.key', 'cert.pem', 'cert.key', 'cert.csr', 'names'].map((file) => join(folder, file));
  const openssl = (...args) => execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  openssl('req', '-x509', ...KEY, '-keyout', caKey, '-out', ca, '-days', '2', '-subj', '/CN=test authority', '-addext', 'basicConstraints=critical,CA:TRUE');
  openssl('req', ...KEY, '-keyout', key, '-out', request, '-subj', '/CN=localhost');
  writeFileSync(names, 'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\n');
  openssl('x509', '-req', '-in', request, '-CA', ca, '-CAkey', caKey, '-CAcreateserial', '-out', cert, '-days', '2', '-extfile', names);
  // Chromium looks for the pin among what the server sends.
  appendFileSync(cert, readFileSync(ca));
  const publicKey = new X509Certificate(readFileSync(ca)).publicKey.export({ type: 'spki', format: 'der' });
  return { ca, cert, key, pin: createHash('sha256').update(publicKey).digest('base64') };
}
