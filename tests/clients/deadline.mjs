// Waiting for an event, never for a length of time: every wait has a deadline, and says what did not happen.

/** Ample on a loaded two-core machine, and still short enough to read the failure. */
export const DEADLINE_MS = 10_000;

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
