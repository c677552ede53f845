//! The threads and their strings: polls and wakers are made here, before any thread has a descriptor table of its
//! own; connections are made there, after it.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;

use mio::{Poll, Waker};

use crate::net::control::{Board, Command, Report};
use crate::net::worker::{Assignment, WAKER, Worker};

/// All threads of a run.
#[derive(Debug)]
pub struct Crew {
    threads: Vec<Thread>,
    reports: Receiver<Report>,
    board: Board,
}

#[derive(Debug)]
struct Thread {
    commands: Sender<Command>,
    waker: Waker,
    handle: JoinHandle<()>,
}

impl Crew {
    /// Starts one thread per assignment; they begin to connect at once.
    ///
    /// # Errors
    /// The system gives no poll or thread.
    pub fn start(assignments: Vec<Assignment>) -> io::Result<Self> {
        let board = Board::new(assignments.len() as u32);
        let (sender, reports) = mpsc::channel();
        // Nobody opens a descriptor before everybody has a table: a copy would keep it open.
        let barrier = Arc::new(Barrier::new(assignments.len()));
        let polls = assignments.iter().map(|_| Poll::new()).collect::<io::Result<Vec<_>>>()?;
        let wakers =
            polls.iter().map(|poll| Waker::new(poll.registry(), WAKER)).collect::<io::Result<Vec<_>>>()?;
        let mut threads = Vec::with_capacity(assignments.len());
        for ((assignment, poll), waker) in assignments.into_iter().zip(polls).zip(wakers) {
            let (commands, inbox) = mpsc::channel();
            let (sender, board, barrier) = (sender.clone(), board.clone(), Arc::clone(&barrier));
            let name = format!("loadgen-{}", assignment.thread);
            let handle = std::thread::Builder::new().name(name).spawn(move || {
                // Where it is refused the plan has counted with one table for all.
                let _ = wsd::net::fdtable::unshare();
                barrier.wait();
                let failed = sender.clone();
                let worker = Worker::new(assignment, poll, inbox, sender, board);
                if let Err(error) = worker.and_then(Worker::run) {
                    let _ = failed.send(Report::Broken(error));
                }
            })?;
            threads.push(Thread { commands, waker, handle });
        }
        Ok(Self { threads, reports, board })
    }

    /// How many threads there are.
    pub fn threads(&self) -> u32 {
        self.threads.len() as u32
    }

    /// Where their reports come in.
    pub const fn reports(&self) -> &Receiver<Report> {
        &self.reports
    }

    /// Their running counts.
    pub const fn board(&self) -> &Board {
        &self.board
    }

    /// How many threads have ended.
    pub fn ended(&self) -> usize {
        self.threads.iter().filter(|thread| thread.handle.is_finished()).count()
    }

    /// Gives one thread a command.
    pub fn tell(&self, thread: usize, command: Command) {
        // A thread that has ended shows in `ended`.
        let thread = &self.threads[thread];
        let _ = thread.commands.send(command);
        let _ = thread.waker.wake();
    }

    /// Gives all threads a command.
    pub fn tell_all(&self, command: impl Fn() -> Command) {
        (0..self.threads.len()).for_each(|thread| self.tell(thread, command()));
    }

    /// Waits until all have closed their connections.
    pub fn join(self) {
        for thread in self.threads {
            let _ = thread.handle.join();
        }
    }
}
