//! Connections that have said Close, in numbered places, each with a deadline; a queue of limited length.

use std::collections::VecDeque;

/// Connections of a thread that may be leaving at a time; beyond that, the one that has waited longest is cut off.
pub const LEAVING_MAX: u32 = 1_024;

/// What is kept of those who leave.
#[derive(Debug)]
pub(super) struct Leaving<T> {
    places: Vec<Option<Leaver<T>>>,
    free: Vec<u32>,
    /// (deadline, place), in the order of leaving; places that are settled stay until their turn.
    order: VecDeque<(u64, u32)>,
    unanswered: u32,
}

/// One that leaves.
#[derive(Debug)]
pub(super) struct Leaver<T> {
    /// The connection.
    pub(super) link: T,
    /// When its life ended.
    pub(super) due_ns: u64,
    /// Whether the server has answered the Close.
    pub(super) answered: bool,
    deadline_ns: u64,
}

impl<T> Default for Leaving<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new(), order: VecDeque::new(), unanswered: 0 }
    }
}

impl<T> Leaving<T> {
    /// Puts a connection aside, and gives its place. There must be [room](Self::is_full).
    pub(super) fn insert(&mut self, link: T, due_ns: u64, deadline_ns: u64, answered: bool) -> u32 {
        debug_assert!(!self.is_full(), "the caller makes room");
        self.unanswered += u32::from(!answered);
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() as u32 - 1
        });
        self.order.push_back((deadline_ns, place));
        self.places[place as usize] = Some(Leaver { link, due_ns, answered, deadline_ns });
        place
    }

    /// Who is in a place.
    pub(super) fn get(&mut self, place: u32) -> Option<&mut Leaver<T>> {
        self.places.get_mut(place as usize)?.as_mut()
    }

    /// The Close of the one in a place has been answered; true for the first answer.
    pub(super) fn answered(&mut self, place: u32) -> bool {
        let Some(leaver) = self.get(place) else { return false };
        let first = !std::mem::replace(&mut leaver.answered, true);
        self.unanswered -= u32::from(first);
        first
    }

    /// Takes the one in a place out.
    pub(super) fn remove(&mut self, place: u32) -> Option<Leaver<T>> {
        let leaver = self.places.get_mut(place as usize)?.take()?;
        self.unanswered -= u32::from(!leaver.answered);
        self.free.push(place);
        Some(leaver)
    }

    /// The place of the one that has waited longest, and how long it may.
    pub(super) fn oldest(&mut self) -> Option<(u64, u32)> {
        while let Some(&(deadline_ns, place)) = self.order.front() {
            if self.get(place).is_some_and(|leaver| leaver.deadline_ns == deadline_ns) {
                return Some((deadline_ns, place));
            }
            self.order.pop_front();
        }
        None
    }

    /// When to look for the oldest again.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        self.order.front().map(|(deadline_ns, _)| *deadline_ns)
    }

    /// Whether somebody has to go before another comes.
    pub(super) const fn is_full(&self) -> bool {
        self.places.len() - self.free.len() >= LEAVING_MAX as usize
    }

    /// Whether the answer to a Close is awaited.
    pub(super) const fn is_waiting(&self) -> bool {
        self.unanswered > 0
    }

    /// All places that there have been.
    pub(super) const fn places(&self) -> u32 {
        self.places.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_deadlines_are_their_own() {
        let mut leaving = Leaving::default();
        assert_eq!((leaving.insert('a', 1, 10, false), leaving.insert('b', 2, 11, false)), (0, 1));
        assert!(leaving.answered(0) && !leaving.answered(0) && leaving.is_waiting());
        assert!(leaving.remove(0).is_some_and(|it| it.link == 'a' && it.answered));
        assert!(leaving.remove(0).is_none() && leaving.get(0).is_none() && !leaving.answered(7));
        assert_eq!(leaving.insert('c', 3, 12, true), 0);
        assert_eq!(leaving.oldest(), Some((11, 1)), "the deadline of 'a' is not that of 'c'");
        assert!(leaving.remove(1).is_some_and(|it| !it.answered));
        assert_eq!((leaving.oldest(), leaving.is_waiting(), leaving.places()), (Some((12, 0)), false, 2));
    }

    #[test]
    fn full_at_its_limit() {
        let mut leaving = Leaving::default();
        for number in 0..LEAVING_MAX {
            assert!(!leaving.is_full());
            leaving.insert(number, 0, u64::from(number), false);
        }
        assert!(leaving.is_full());
        assert_eq!(leaving.oldest(), Some((0, 0)));
        assert!(leaving.remove(0).is_some() && !leaving.is_full());
        assert_eq!(leaving.oldest(), Some((1, 1)));
    }
}
