// Waiting for an event, never for a length of time: every wait has a deadline, and says what did not happen.

/** Ample where two cores have ten times as much to do as they can, and nobody waits for it unless something fails. */
export const DEADLINE_MS = 30_000;

/** `promise`, or an error `no <what> within ...` after `ms`; `detail()` is appended to the error. */
export async function within(promise, what, { ms = DEADLINE_MS, detail = () => '' } = {}) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${ms} ms${detail()}`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
