//! What workers say to each other, and the wake-up that goes with it.
//!
//! Wake-ups are coalesced: the sender puts its mail in, then sets a flag, and writes to the event descriptor only
//! where the flag was clear; the receiver clears the flag *before* it takes the mail out. Mail that arrives in
//! between finds the flag clear and wakes once too often, never once too little.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::inspect::Inspection;
use super::tls::ServerConfig;
use super::worker::Settings;
use crate::hub::batch::Batch;
use crate::sync::{AtomicBool, AtomicUsize, Mutex, MutexGuard};

/// A message to a worker.
#[derive(Debug)]
pub(crate) enum Mail {
    /// To be delivered to the topic's members there.
    Publish { topic: Arc<str>, batch: Batch },
    /// Look at the connections, and tell what is there.
    Inspect(Inspection),
    /// Let the connections go, bit by bit, and end.
    Drain,
    /// Keep to these limits from now on.
    Settings(Arc<Settings>),
    /// Accept with these certificates from now on.
    Certificates(ServerConfig),
    /// Stop accepting, close every connection, and end.
    Shutdown,
    /// Nothing but a turn of the loop, as a sign of life.
    Nudge,
}

/// Ends the receiver's poll, or the next one where none is under way. A poll reports it once, however often it was
/// called since the last.
pub(crate) trait Wake {
    fn wake(&self);
}

/// An event descriptor in an edge-triggered poll. It is opened before any thread has a table of its own, and closed
/// after all of them have ended, so its number is the same in every table.
#[derive(Debug)]
pub(crate) struct Event(OwnedFd);

impl Wake for Event {
    fn wake(&self) {
        // The counter is never read, so the write fails only after 2^64 of them. Each one is an edge. The mailbox's
        // flag is set, so nobody would make up for a wake-up that is lost to a signal.
        let _ = rustix::io::retry_on_intr(|| rustix::io::write(&self.0, &1u64.to_ne_bytes()));
    }
}

/// One worker's mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox<W = Event> {
    mail: Mutex<Vec<Mail>>,
    notified: AtomicBool,
    /// Nobody takes mail out any more. Set under the lock of the mail.
    closed: AtomicBool,
    /// What batches count for that the worker has yet to fan out, its own and those of others.
    backlog: AtomicUsize,
    event: W,
}

impl Mailbox {
    pub(crate) fn new() -> io::Result<Self> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Event)
            .map(Self::waking)
            .map_err(Into::into)
    }
}

impl<W: Wake> Mailbox<W> {
    /// Empty; `event` wakes its owner.
    pub(crate) fn waking(event: W) -> Self {
        Self {
            mail: Mutex::default(),
            notified: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            backlog: AtomicUsize::new(0),
            event,
        }
    }

    pub(crate) fn post(&self, mail: Mail) {
        {
            let mut waiting = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
            if self.closed.load(Ordering::Relaxed) {
                return;
            }
            waiting.push(mail);
        }
        if !self.notified.swap(true, Ordering::SeqCst) {
            self.event.wake();
        }
    }

    /// Posts what was published to a topic. The worker has it in its books before it has it, or what it takes off them
    /// could be more than is there.
    pub(crate) fn publish(&self, topic: Arc<str>, batch: Batch) {
        self.add_backlog(batch.backlog_bytes());
        self.post(Mail::Publish { topic, batch });
    }

    /// Takes out all mail, oldest first.
    pub(crate) fn take(&self, into: &mut Vec<Mail>) {
        // Whoever puts mail in sets the flag behind it, and wakes us if it was clear.
        if !self.notified.load(Ordering::SeqCst) {
            return;
        }
        // What a store would do, by the same instruction on x86; but of a store beside a swap loom believes that later
        // swaps may miss it (tokio-rs/loom, issue 254).
        self.notified.swap(false, Ordering::SeqCst);
        into.append(&mut self.mail.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Its owner has ended: whoever goes on publishing must not fill the memory, or make the others wait.
    pub(crate) fn close(&self) {
        let mut waiting = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Relaxed);
        *waiting = Vec::new();
    }

    /// What its owner has yet to fan out, as batches count it; nothing once it is closed.
    pub(crate) fn backlog(&self) -> usize {
        if self.closed.load(Ordering::Relaxed) { 0 } else { self.backlog.load(Ordering::Relaxed) }
    }

    pub(crate) fn add_backlog(&self, bytes: usize) {
        self.backlog.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sub_backlog(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.backlog.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl AsRawFd for Mailbox {
    fn as_raw_fd(&self) -> RawFd {
        self.event.0.as_raw_fd()
    }
}

/// Tells all workers of what `locked` guards. Whoever else changes it does so, and tells, before or after: two changes
/// reach every worker in the same order, and what they heard last is what is in force.
pub(crate) fn post_to_all<T, W: Wake>(
    mailboxes: &[Mailbox<W>],
    locked: &MutexGuard<'_, T>,
    mail: impl Fn() -> Mail,
) {
    let _ = locked;
    mailboxes.iter().for_each(|mailbox| mailbox.post(mail()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wakes(mailbox: &Mailbox) -> u64 {
        let mut bytes = [0; 8];
        match rustix::io::read(&mailbox.event.0, &mut bytes) {
            Ok(_) => u64::from_ne_bytes(bytes),
            Err(_) => 0,
        }
    }

    #[test]
    fn one_wake_for_any_amount_of_mail_until_it_is_taken() {
        let mailbox = Mailbox::new().expect("a descriptor");
        for _ in 0..10 {
            mailbox.post(Mail::Shutdown);
        }
        assert_eq!(wakes(&mailbox), 1);
        let mut mail = Vec::new();
        mailbox.take(&mut mail);
        assert_eq!(mail.len(), 10);
        mailbox.post(Mail::Shutdown);
        assert_eq!(wakes(&mailbox), 1);
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let mailbox = Arc::new(Mailbox::new().expect("a descriptor"));
        let senders: Vec<_> = (0..4)
            .map(|_| {
                let mailbox = Arc::clone(&mailbox);
                std::thread::spawn(move || (0..1_000).for_each(|_| mailbox.post(Mail::Shutdown)))
            })
            .collect();
        let mut mail = Vec::new();
        while mail.len() < 4_000 {
            let mut fds = [rustix::event::PollFd::new(&mailbox.event.0, rustix::event::PollFlags::IN)];
            let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
            assert_ne!(rustix::event::poll(&mut fds, Some(&limit)), Ok(0), "mail without a wake-up");
            let _ = wakes(&mailbox);
            mailbox.take(&mut mail);
        }
        senders.into_iter().for_each(|sender| sender.join().expect("no panic"));
        assert_eq!(mail.len(), 4_000);
    }
}
