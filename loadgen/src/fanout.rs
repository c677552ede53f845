//! First and last receiver of each broadcast message.
//!
//! Every thread keeps, for each message, the time of its own first and last delivery and their number
//! ([`recent`](crate::recent) does while they come), and hands that over when its last receiver has it; [`Merger`]
//! puts the parts of the threads together. Nothing is shared while messages arrive.

use std::collections::{HashMap, HashSet, VecDeque};

/// What one thread's receivers saw of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Who sent the message.
    pub sender: u32,
    /// Which of the sender's messages it is.
    pub sequence: u32,
    /// When it was to be sent.
    pub intended_ns: u64,
    /// When the first receiver had it.
    pub first_ns: u64,
    /// When the last receiver had it.
    pub last_ns: u64,
    /// How many receivers have it.
    pub count: u32,
}

impl Part {
    fn merge(&mut self, other: &Self) {
        self.first_ns = self.first_ns.min(other.first_ns);
        self.last_ns = self.last_ns.max(other.last_ns);
        self.count += other.count;
    }
}

/// One thread's table of messages under way.
#[derive(Debug)]
pub struct Table {
    receivers: u32,
    /// Senders among them, where a server leaves the sender of a message out.
    left_out: HashSet<u32>,
    /// Per sender, its messages in ascending order; a handful at a time.
    under_way: Vec<VecDeque<Part>>,
    done: Vec<Part>,
}

impl Table {
    /// For a thread with `receivers` connections that hear `senders` senders.
    pub fn new(receivers: u32, senders: u32) -> Self {
        let under_way = vec![VecDeque::new(); senders as usize];
        Self { receivers, left_out: HashSet::new(), under_way, done: Vec::new() }
    }

    /// The same where the server does not send to the sender itself: `own` are the senders among this thread's
    /// receivers.
    #[must_use]
    pub fn without_senders(self, own: impl IntoIterator<Item = u32>) -> Self {
        Self { left_out: own.into_iter().collect(), ..self }
    }

    /// Senders in the whole run.
    pub const fn senders(&self) -> u32 {
        self.under_way.len() as u32
    }

    /// Adds deliveries of one message, each the first to its receiver.
    ///
    /// # Panics
    /// Where there is no such sender.
    pub fn add(&mut self, part: Part) {
        let left_out = !self.left_out.is_empty() && self.left_out.contains(&part.sender);
        let receivers = self.receivers - u32::from(left_out);
        let list = &mut self.under_way[part.sender as usize];
        let at = match list.back() {
            Some(last) if last.sequence == part.sequence => list.len() - 1,
            Some(last) if last.sequence < part.sequence => list.len(),
            None => 0,
            Some(_) => list.partition_point(|known| known.sequence < part.sequence),
        };
        match list.get_mut(at) {
            Some(known) if known.sequence == part.sequence => known.merge(&part),
            _ => list.insert(at, part),
        }
        if list[at].count == receivers {
            self.done.extend(list.remove(at));
        }
    }

    /// The messages that all receivers of this thread have, and those older than `before_ns` that some still
    /// lack.
    pub fn take(&mut self, before_ns: u64) -> Vec<Part> {
        for list in &mut self.under_way {
            while list.front().is_some_and(|part| part.intended_ns < before_ns) {
                self.done.extend(list.pop_front());
            }
        }
        std::mem::take(&mut self.done)
    }
}

/// Puts the threads' parts together.
#[derive(Debug)]
pub struct Merger {
    receivers: u64,
    under_way: HashMap<(u32, u32), Part>,
}

impl Merger {
    /// For a run with `receivers` connections.
    pub fn new(receivers: u64) -> Self {
        Self { receivers, under_way: HashMap::new() }
    }

    /// Adds a part, and gives the whole message when this was the last of it.
    pub fn add(&mut self, part: Part) -> Option<Part> {
        let key = (part.sender, part.sequence);
        let whole = self.under_way.entry(key).and_modify(|known| known.merge(&part)).or_insert(part);
        if u64::from(whole.count) < self.receivers {
            return None;
        }
        self.under_way.remove(&key)
    }

    /// Gives up on messages older than `before_ns` that did not reach everybody.
    pub fn expire(&mut self, before_ns: u64) -> Vec<Part> {
        self.under_way.extract_if(|_, part| part.intended_ns < before_ns).map(|(_, part)| part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One delivery.
    fn note(table: &mut Table, sender: u32, sequence: u32, intended_ns: u64, now_ns: u64) {
        table.add(Part { sender, sequence, intended_ns, first_ns: now_ns, last_ns: now_ns, count: 1 });
    }

    #[test]
    fn two_threads_make_one_message() {
        let (mut a, mut b) = (Table::new(2, 2), Table::new(1, 2));
        note(&mut a, 1, 0, 100, 150);
        assert!(a.take(0).is_empty(), "one of two receivers");
        note(&mut a, 1, 0, 100, 190);
        note(&mut b, 1, 0, 100, 120);
        let mut merger = Merger::new(3);
        let [from_a] = a.take(0)[..] else { panic!("one message") };
        let [from_b] = b.take(0)[..] else { panic!("one message") };
        assert_eq!(merger.add(from_a), None);
        let whole = Part { sender: 1, sequence: 0, intended_ns: 100, first_ns: 120, last_ns: 190, count: 3 };
        assert_eq!(merger.add(from_b), Some(whole));
        assert!(merger.expire(u64::MAX).is_empty());
    }

    #[test]
    fn messages_overlap_and_may_come_in_any_order() {
        let mut table = Table::new(2, 1);
        for (sequence, now) in [(1, 11), (0, 12), (2, 13), (1, 14), (0, 15)] {
            note(&mut table, 0, sequence, u64::from(sequence), now);
        }
        let done: Vec<_> = table.take(0).iter().map(|it| (it.sequence, it.first_ns, it.last_ns)).collect();
        assert_eq!(done, [(1, 11, 14), (0, 12, 15)]);
        let given_up: Vec<_> = table.take(3).iter().map(|it| (it.sequence, it.count)).collect();
        assert_eq!(given_up, [(2, 1)]);
    }

    #[test]
    fn what_did_not_reach_everybody_is_given_up() {
        let mut merger = Merger::new(3);
        let part = Part { sender: 0, sequence: 4, intended_ns: 10, first_ns: 20, last_ns: 30, count: 2 };
        assert_eq!(merger.add(part), None);
        assert!(merger.expire(10).is_empty());
        assert_eq!(merger.expire(11), [part]);
    }
}
