//! Calling code that is not ours, and may panic.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What it gives; `None` where it panicked. What it changed is its own affair, as behind a mutex that is not poisoned.
pub(crate) fn call<T>(theirs: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(theirs)) {
        Ok(value) => Some(value),
        Err(payload) => {
            // What it panicked with is its own, too, and to drop it may panic. What comes of that is not looked at.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(payload))).map_err(mem::forget);
            None
        }
    }
}
