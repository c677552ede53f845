//! How long connections live that come and go: an open loop, like that of messages. When a life ends follows from the
//! seed alone, and not from how the server takes it; the next life of the same client begins where the last one ends.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::time::Duration;

use crate::cli::duration;

/// A life that is shorter has no time to begin.
const LIFETIME_MIN: Duration = Duration::from_millis(10);

/// How long connections live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetime {
    text: String,
    min: Duration,
    max: Duration,
}

impl Lifetime {
    /// Reads `5s`, or `1s..10s`: any time between the two.
    ///
    /// # Errors
    /// One line that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        let (min, max) = (duration(min)?, duration(max)?);
        if min < LIFETIME_MIN || max < min {
            let least = LIFETIME_MIN.as_millis();
            return Err(format!("give a time of {least}ms or more, or a range such as 1s..10s"));
        }
        Ok(Self { text: text.to_owned(), min, max })
    }

    /// The mean.
    pub fn mean(&self) -> Duration {
        (self.min + self.max) / 2
    }

    fn draw_ns(&self, rng: &mut fastrand::Rng) -> u64 {
        rng.u64(self.min.as_nanos() as u64..=self.max.as_nanos() as u64)
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The ends of the lives of one thread's connections.
#[derive(Debug)]
pub struct Lives {
    lifetime: Lifetime,
    end_ns: u64,
    /// (when, whose), the earliest first.
    ends: BinaryHeap<Reverse<(u64, u32)>>,
    rng: fastrand::Rng,
}

impl Lives {
    /// For `conns` connections that are open at `start_ns`, somewhere in the middle of their lives; nobody's life ends
    /// at or after `end_ns`.
    pub fn new(lifetime: Lifetime, conns: u32, start_ns: u64, end_ns: u64, mut rng: fastrand::Rng) -> Self {
        let ends = (0..conns).map(|conn| {
            let rest = lifetime.draw_ns(&mut rng) as f64 * rng.f64();
            Reverse((start_ns + rest as u64, conn))
        });
        let ends = ends.collect();
        Self { lifetime, end_ns, ends, rng }
    }

    /// The next life that has ended, and when it was to end.
    pub fn next(&mut self, now_ns: u64) -> Option<(u32, u64)> {
        let Reverse((due_ns, conn)) = *self.ends.peek().filter(|Reverse((due_ns, _))| *due_ns <= now_ns)?;
        if due_ns >= self.end_ns {
            self.stop();
            return None;
        }
        self.ends.pop();
        let next_ns = due_ns + self.lifetime.draw_ns(&mut self.rng);
        self.ends.push(Reverse((next_ns, conn)));
        Some((conn, due_ns))
    }

    /// When to look again.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.ends.peek().map(|Reverse((due_ns, _))| *due_ns)
    }

    /// Lets everybody live on.
    pub fn stop(&mut self) {
        self.ends.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND_NS;

    fn ends(text: &str, conns: u32, seconds: u64) -> Vec<(u32, u64)> {
        let rng = fastrand::Rng::with_seed(4);
        let lifetime = Lifetime::parse(text).expect(text);
        let mut lives = Lives::new(lifetime, conns, 7, 7 + seconds * SECOND_NS, rng);
        let mut out = Vec::new();
        while let Some(deadline_ns) = lives.deadline_ns() {
            assert!(lives.next(deadline_ns - 1).is_none(), "not before its time");
            out.extend(lives.next(deadline_ns));
        }
        out
    }

    /// A lifetime of 2 s over 10 s: each client's life ends five times, and the ends are spread evenly.
    #[test]
    fn a_fixed_lifetime_gives_an_exact_count() {
        let ends = ends("2s", 200, 10);
        assert_eq!(ends.len(), 1_000);
        assert!(ends.is_sorted_by_key(|(_, at)| *at));
        for second in 0..10 {
            let within = ends.iter().filter(|(_, at)| (*at - 7) / SECOND_NS == second).count();
            assert!((70..=130).contains(&within), "100, give or take four times 7: {within}");
        }
        let mine: Vec<u64> = ends.iter().filter(|(conn, _)| *conn == 3).map(|(_, at)| *at).collect();
        assert!(mine.windows(2).all(|pair| pair[1] - pair[0] == 2 * SECOND_NS));
    }

    #[test]
    fn a_range_has_its_mean() {
        let ends = ends("1s..3s", 500, 40);
        // 500 clients and a mean of 2 s: 250 ends per second; the first, cut short, adds a few.
        assert!((9_700..10_400).contains(&ends.len()), "{}", ends.len());
        let mine: Vec<u64> = ends.iter().filter(|(conn, _)| *conn == 3).map(|(_, at)| *at).collect();
        assert!(mine.windows(2).all(|pair| (SECOND_NS..=3 * SECOND_NS).contains(&(pair[1] - pair[0]))));
        assert_eq!(Lifetime::parse("1s..3s").expect("sound").mean(), Duration::from_secs(2));
    }

    #[test]
    fn lifetimes_as_typed() {
        assert_eq!(Lifetime::parse("1s..10s").expect("sound").to_string(), "1s..10s");
        assert!(Lifetime::parse("10ms").is_ok());
        for bad in ["9ms", "", "x", "3s..1s", "0s", "1s.."] {
            assert!(!Lifetime::parse(bad).expect_err(bad).contains('\n'));
        }
    }
}
