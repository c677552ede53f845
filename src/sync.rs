//! The locks and atomics of everything that several threads decide something with.
//!
//! They are those of the standard library. With `--cfg loom` they are loom's, under which the models in `models.rs`
//! walk through the orders in which threads can meet in the very code that is shipped. What is only counted, asked for
//! a hint or said once needs no model, and takes its atomics from the standard library.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize},
};
