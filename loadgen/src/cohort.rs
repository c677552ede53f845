//! Connections that do not read as fast as the server sends: they neither send nor count as receivers, so that what
//! they do to the healthy ones shows in the figures of those.

/// Who reads how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cohorts {
    /// Connections in all.
    pub conns: u32,
    /// How many of them read slowly.
    pub slow: u32,
    /// Bytes per second that each of those reads.
    pub slow_bytes_per_second: u32,
    /// How many read nothing once they are connected.
    pub never: u32,
}

/// How one connection reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Everything at once.
    Healthy,
    /// So many bytes per second.
    Slow(u32),
    /// Nothing.
    Never,
}

impl Cohorts {
    /// How connection `number` of the run reads: the last ones do not, those before them do it slowly.
    pub const fn of(&self, number: u32) -> Reading {
        let from_end = self.conns.saturating_sub(number);
        if from_end <= self.never {
            Reading::Never
        } else if from_end <= self.never + self.slow {
            Reading::Slow(self.slow_bytes_per_second)
        } else {
            Reading::Healthy
        }
    }

    /// How many do not read as they should.
    pub const fn lazy(&self) -> u32 {
        self.slow + self.never
    }
}

/// Slow readers as typed: a number or a share of the connections, and a speed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowReaders {
    /// A number of connections, or their share.
    pub count: Count,
    /// Bytes per second.
    pub bytes_per_second: u32,
}

/// A number of connections, or their share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Count {
    /// So many.
    Number(u32),
    /// Of all: 0.01 is 1 %.
    Share(f64),
}

impl SlowReaders {
    /// Reads `1%:1KiB/s` or `20:500B/s`.
    ///
    /// # Errors
    /// One line that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "give how many and how fast, such as 1%:1KiB/s or 20:500B/s".to_owned();
        let (count, speed) = text.split_once(':').ok_or_else(wrong)?;
        let count = match count.strip_suffix('%') {
            Some(percent) => Count::Share(percent.parse::<f64>().map_err(|_| wrong())? / 100.0),
            None => Count::Number(count.parse().map_err(|_| wrong())?),
        };
        if matches!(count, Count::Share(share) if !(share > 0.0 && share <= 1.0)) {
            return Err(wrong());
        }
        let speed = speed.strip_suffix("/s").ok_or_else(wrong)?;
        let units = [("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
        let (digits, unit) = units
            .iter()
            .find_map(|(name, unit)| Some((speed.strip_suffix(name)?, unit)))
            .ok_or_else(wrong)?;
        let bytes = digits.parse::<u32>().ok().and_then(|it| it.checked_mul(*unit)).filter(|it| *it >= 10);
        Ok(Self { count, bytes_per_second: bytes.ok_or_else(wrong)? })
    }

    /// How many that are of `conns`; a share is at least one.
    pub fn of(&self, conns: u32) -> u32 {
        match self.count {
            Count::Number(number) => number,
            Count::Share(share) => ((share * f64::from(conns)).round() as u32).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_do_not_read() {
        let it = Cohorts { conns: 10, slow: 3, slow_bytes_per_second: 99, never: 2 };
        let all: Vec<Reading> = (0..10).map(|number| it.of(number)).collect();
        assert!(all[..5].iter().all(|reading| *reading == Reading::Healthy));
        assert!(all[5..8].iter().all(|reading| *reading == Reading::Slow(99)));
        assert!(all[8..].iter().all(|reading| *reading == Reading::Never));
        assert_eq!((it.lazy(), Cohorts { conns: 10, ..Cohorts::default() }.of(9)), (5, Reading::Healthy));
    }

    #[test]
    fn slow_readers_as_typed() {
        let read = |text: &str| SlowReaders::parse(text).map(|it| (it.of(1_000), it.bytes_per_second));
        assert_eq!((read("1%:1KiB/s"), read("20:500B/s")), (Ok((10, 1_024)), Ok((20, 500))));
        assert_eq!(read("0.01%:2MiB/s"), Ok((1, 2 << 20)));
        for bad in
            ["", "1%", "1%:5", "0%:1KiB/s", "101%:1KiB/s", "x:1B/s", "5:0B/s", "5:1KB/s", "5:9999MiB/s"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
