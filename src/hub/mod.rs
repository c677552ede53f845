//! Topics, their members, and fan-out: pure data, which knows no socket.
//!
//! Each worker has one hub and shares nothing with the others but encoded frames. What is published in one turn
//! of the loop is gathered by topic ([`batch`]), sealed at its end, and handed out member by member as resumable
//! work: a topic with 50,000 members does not hold the loop.
//!
//! A member is a slot number; whoever gives it out must call [`Hub::leave_all`] before it is used again.

pub mod audience;
pub mod batch;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use slab::Slab;

use audience::Audience;
use batch::{Batch, Pending, Stamp};

/// Nobody: the mark of a place in a topic whose member has left while a fan-out was under way, and the end of
/// a list.
const NONE: u32 = u32::MAX;

/// The topics of one worker.
#[derive(Debug, Default)]
pub struct Hub {
    names: HashMap<Arc<str>, u32>,
    topics: Slab<Topic>,
    nodes: Slab<Node>,
    /// By slot: the member's first membership.
    heads: Vec<u32>,
    /// Topics that were published to in this turn.
    dirty: Vec<u32>,
    jobs: VecDeque<Job>,
    /// Fan-outs so far.
    begun: u64,
    /// Messages due to members that left before their turn came.
    missed: u64,
    /// Bytes published in this turn.
    pending_bytes: usize,
    /// What batches that are done with counted for.
    finished_bytes: usize,
    /// The stamps of batches that the last member has just had.
    finished: Vec<Stamp>,
    /// Whether some members may have agreed on compression.
    deflates: bool,
    /// Where other workers see which topics have members here.
    audience: Arc<Audience>,
    worker: usize,
}

#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    members: Vec<Place>,
    /// Places that are taken.
    live: u32,
    /// Fan-outs under way: while there are any, no member changes its place.
    jobs: u32,
    pending: Pending,
}

/// How far fan-outs have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// So many there were so far.
    pub begun: u64,
    /// Of those, from the first on, so many are over.
    pub done: u64,
}

/// A place in a topic: 8 bytes for each membership.
#[derive(Clone, Copy, Debug)]
struct Place {
    slot: u32,
    node: u32,
}

/// The other end of a membership: from a member to its places.
#[derive(Clone, Copy, Debug)]
struct Node {
    topic: u32,
    index: u32,
    next: u32,
}

/// A fan-out under way: a batch on its way through the members that the topic had when it was sealed.
#[derive(Debug)]
struct Job {
    /// How many there were before it.
    number: u64,
    topic: u32,
    batch: Batch,
    cursor: u32,
    end: u32,
}

impl Hub {
    /// The hub of a worker, without topics. `deflates` is whether connections may agree on compression.
    pub fn new(worker: usize, audience: Arc<Audience>, deflates: bool) -> Self {
        Self { worker, audience, deflates, ..Self::default() }
    }

    /// Makes `slot` a member. Returns false where it was one already.
    pub fn subscribe(&mut self, slot: u32, topic: &str) -> bool {
        let id = self.topic_or_new(topic);
        if self.membership(slot, id).is_some() {
            return false;
        }
        if self.heads.len() <= slot as usize {
            self.heads.resize(slot as usize + 1, NONE);
        }
        let topic = &mut self.topics[id as usize];
        let index = topic.members.len() as u32;
        let next = std::mem::replace(&mut self.heads[slot as usize], self.nodes.vacant_key() as u32);
        let node = self.nodes.insert(Node { topic: id, index, next }) as u32;
        topic.members.push(Place { slot, node });
        topic.live += 1;
        if topic.live == 1 {
            self.audience.add(self.worker, &topic.name);
        }
        true
    }

    /// Ends a membership. Returns false where there was none.
    pub fn unsubscribe(&mut self, slot: u32, topic: &str) -> bool {
        let Some(&id) = self.names.get(topic) else { return false };
        let Some(node) = self.membership(slot, id) else { return false };
        let next = self.nodes[node as usize].next;
        if self.heads[slot as usize] == node {
            self.heads[slot as usize] = next;
        } else {
            let mut before = self.heads[slot as usize];
            while self.nodes[before as usize].next != node {
                before = self.nodes[before as usize].next;
            }
            self.nodes[before as usize].next = next;
        }
        self.vacate(slot, node);
        true
    }

    /// Ends all memberships of `slot`.
    pub fn leave_all(&mut self, slot: u32) {
        let Some(head) = self.heads.get_mut(slot as usize) else { return };
        let mut node = std::mem::replace(head, NONE);
        while node != NONE {
            let next = self.nodes[node as usize].next;
            self.vacate(slot, node);
            node = next;
        }
    }

    /// How many members a topic has on this worker.
    pub fn member_count(&self, topic: &str) -> usize {
        self.names.get(topic).map_or(0, |&id| self.topics[id as usize].live as usize)
    }

    /// How many topics there are on this worker: those with members, and for a moment those that were published to.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// How many memberships there are, over all topics and members.
    pub fn membership_count(&self) -> usize {
        self.nodes.len()
    }

    /// Adds a message, as one encoded frame, to what `topic` gets in this turn; all but `except`.
    pub fn publish(&mut self, topic: &str, frame: batch::FrameRef<'_>, except: Option<u32>, stamp: Stamp) {
        let id = self.topic_or_new(topic);
        let topic = &mut self.topics[id as usize];
        if topic.pending.is_empty() {
            self.dirty.push(id);
            topic.pending.stamp(stamp);
        }
        self.pending_bytes += frame.wire_len();
        topic.pending.push(frame, except);
    }

    /// Ends the turn: what was published becomes fan-out work, and `remote` gets each topic's batch to pass to
    /// the other workers.
    pub fn seal(&mut self, mut remote: impl FnMut(&Arc<str>, &Batch)) {
        if self.dirty.is_empty() {
            return;
        }
        self.pending_bytes = 0;
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            let topic = &mut self.topics[id as usize];
            let batch = topic.pending.seal(self.deflates);
            remote(&topic.name, &batch);
            self.start(id, batch);
            self.drop_if_unused(id);
        }
        self.dirty = dirty;
    }

    /// Starts the fan-out of a batch from another worker to the members here.
    pub fn receive(&mut self, topic: &str, batch: Batch) {
        match self.names.get(topic) {
            Some(&id) => self.start(id, batch),
            None => self.finished_bytes += batch.backlog_bytes(),
        }
    }

    /// Whether fan-out is under way, or is to begin: what is published after the turn's [`seal`](Self::seal), because
    /// somebody is closed at its end, is the next one's.
    pub fn has_work(&self) -> bool {
        !self.jobs.is_empty() || !self.dirty.is_empty()
    }

    /// How far fan-outs are: all that is under way now has been handed out when as many are done as have begun by now.
    pub fn progress(&self) -> Progress {
        Progress { begun: self.begun, done: self.jobs.front().map_or(self.begun, |job| job.number) }
    }

    /// The next deliveries, at most `max`: the members go to `slots`, which is emptied first, and all get the batch.
    /// Until the next call nobody of them may leave but by [`leave_all`](Self::leave_all) after its own delivery.
    ///
    /// Batches are done in the order in which they were sealed, so that each member gets one sender's messages in
    /// order; those that wait one behind the other for the same members go out as one.
    pub fn next_deliveries(&mut self, max: usize, slots: &mut Vec<u32>) -> Option<Batch> {
        slots.clear();
        loop {
            if self.jobs.front()?.cursor == 0 {
                self.join_waiting();
            }
            let job = self.jobs.front_mut()?;
            let members = &self.topics[job.topic as usize].members;
            while job.cursor < job.end && slots.len() < max {
                let end = job.end.min(job.cursor.saturating_add((max - slots.len()) as u32));
                let some = &members[job.cursor as usize..end as usize];
                slots.extend(some.iter().map(|member| member.slot).filter(|&slot| slot != NONE));
                job.cursor = end;
            }
            if !slots.is_empty() {
                return Some(job.batch.clone());
            }
            let topic = job.topic;
            self.finished_bytes += job.batch.backlog_bytes();
            self.finished.push(job.batch.stamp());
            self.jobs.pop_front();
            self.topics[topic as usize].jobs -= 1;
            self.compact(topic);
            self.drop_if_unused(topic);
        }
    }

    /// Messages due to members that had left when their turn came, since the last call.
    pub fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    /// Bytes published in this turn, not sealed yet.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Of batches that every member here has had, since the last call: what they counted for
    /// ([`Batch::backlog_bytes`]).
    pub fn take_finished_bytes(&mut self) -> usize {
        std::mem::take(&mut self.finished_bytes)
    }

    /// The batches that the last member here has had since the last call; those without members are not among them.
    pub fn drain_finished(&mut self) -> impl Iterator<Item = Stamp> + '_ {
        self.finished.drain(..)
    }

    /// Queues the fan-out of a batch to the members of now.
    fn start(&mut self, id: u32, batch: Batch) {
        let topic = &mut self.topics[id as usize];
        if topic.live == 0 {
            self.finished_bytes += batch.backlog_bytes();
            return;
        }
        topic.jobs += 1;
        let end = topic.members.len() as u32;
        self.jobs.push_back(Job { number: self.begun, topic: id, batch, cursor: 0, end });
        self.begun += 1;
    }

    /// Makes the first job, which has not begun, and those behind it one job, as far as they are for the same members.
    fn join_waiting(&mut self) {
        let Some(&Job { number, topic, end, .. }) = self.jobs.front() else { return };
        // Who came between two batches gets the second alone.
        let same = self.jobs.iter().take_while(|job| job.topic == topic && job.end == end);
        let count = Batch::joinable(same.map(|job| &job.batch));
        if count == 1 {
            return;
        }
        let batch = Batch::join(self.jobs.iter().take(count).map(|job| &job.batch));
        self.jobs.drain(..count);
        self.jobs.push_front(Job { number, topic, batch, cursor: 0, end });
        self.topics[topic as usize].jobs -= count as u32 - 1;
    }

    fn topic_or_new(&mut self, name: &str) -> u32 {
        if let Some(&id) = self.names.get(name) {
            return id;
        }
        let name: Arc<str> = Arc::from(name);
        let topic = Topic {
            name: Arc::clone(&name),
            members: Vec::new(),
            live: 0,
            jobs: 0,
            pending: Pending::default(),
        };
        let id = self.topics.insert(topic) as u32;
        self.names.insert(name, id);
        id
    }

    /// The node of `slot`'s membership in a topic. Members are in few topics: the list is short.
    fn membership(&self, slot: u32, topic: u32) -> Option<u32> {
        let mut node = *self.heads.get(slot as usize)?;
        while node != NONE {
            let Node { topic: other, next, .. } = self.nodes[node as usize];
            if other == topic {
                return Some(node);
            }
            node = next;
        }
        None
    }

    /// Frees a membership's node, which is in no list any more, and its place.
    fn vacate(&mut self, slot: u32, node: u32) {
        let Node { topic: id, index, .. } = self.nodes.remove(node as usize);
        let topic = &mut self.topics[id as usize];
        topic.live -= 1;
        if topic.live == 0 {
            self.audience.remove(self.worker, &topic.name);
        }
        if topic.jobs == 0 {
            topic.members.swap_remove(index as usize);
            if let Some(moved) = topic.members.get(index as usize) {
                self.nodes[moved.node as usize].index = index;
            }
            self.drop_if_unused(id);
            return;
        }
        // A cursor is somewhere in the list: leave a gap rather than move a member across it.
        topic.members[index as usize].slot = NONE;
        let jobs = self.jobs.iter().filter(|job| job.topic == id).take(topic.jobs as usize);
        for job in jobs.filter(|job| (job.cursor..job.end).contains(&index)) {
            self.missed += u64::from(job.batch.messages_for(slot));
        }
    }

    /// Closes the gaps once no cursor is in the list.
    fn compact(&mut self, id: u32) {
        let topic = &mut self.topics[id as usize];
        if topic.jobs > 0 || topic.live as usize == topic.members.len() {
            return;
        }
        topic.members.retain(|place| place.slot != NONE);
        for (index, place) in topic.members.iter().enumerate() {
            self.nodes[place.node as usize].index = index as u32;
        }
    }

    fn drop_if_unused(&mut self, id: u32) {
        let topic = &self.topics[id as usize];
        if topic.live == 0 && topic.jobs == 0 && topic.pending.is_empty() {
            let topic = self.topics.remove(id as usize);
            self.names.remove(&topic.name);
        }
    }
}

const _: () = assert!(size_of::<Place>() == 8 && size_of::<Node>() == 12, "every membership pays for this");

#[cfg(test)]
mod tests;
