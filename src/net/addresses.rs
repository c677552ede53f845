//! How many connections each client address holds, on all workers together.
//!
//! Asked only where there is a limit; a lock for each sixteenth of the addresses, twice in the life of a connection.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::PoisonError;

use crate::sync::Mutex;

/// In a model everybody meets in one.
const SHARDS: usize = if cfg!(loom) { 1 } else { 16 };

/// An IPv4 address, or the 64 bits of an IPv6 address that name a network: within it, everybody has as many
/// addresses as they like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Block(u128);

impl Block {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            // As `::ffff:a.b.c.d`, which is nobody's network.
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => Self(v6.to_bits() >> 64 << 64),
        }
    }
}

/// The places that are taken, by address.
#[derive(Debug)]
pub(crate) struct Addresses {
    /// Connections for each; 0: no limit, and nothing is counted.
    max: u32,
    shards: [Mutex<HashMap<Block, u32>>; SHARDS],
    hasher: RandomState,
}

impl Addresses {
    pub(crate) fn new(max: u32) -> Self {
        Self { max, shards: Default::default(), hasher: RandomState::new() }
    }

    /// Whether there is a limit at all.
    pub(crate) fn are_limited(&self) -> bool {
        self.max > 0
    }

    /// Takes a place, if the address has one left.
    pub(crate) fn claim(&self, address: IpAddr) -> bool {
        if !self.are_limited() {
            return true;
        }
        let block = Block::of(address);
        let mut shard = self.shard(block).lock().unwrap_or_else(PoisonError::into_inner);
        let held = shard.entry(block).or_insert(0);
        if *held >= self.max {
            return false;
        }
        *held += 1;
        true
    }

    /// Gives a place back.
    pub(crate) fn release(&self, address: IpAddr) {
        if !self.are_limited() {
            return;
        }
        let block = Block::of(address);
        let mut shard = self.shard(block).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = shard.get_mut(&block) {
            *held -= 1;
            if *held == 0 {
                shard.remove(&block);
            }
        }
    }

    /// Which shard is not for clients to choose.
    fn shard(&self, block: Block) -> &Mutex<HashMap<Block, u32>> {
        &self.shards[self.hasher.hash_one(block) as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_so_many_places_and_no_more() {
        let addresses = Addresses::new(2);
        for _ in 0..3 {
            assert!(addresses.claim(ip("192.0.2.1")) && addresses.claim(ip("::ffff:192.0.2.1")));
            assert!(!addresses.claim(ip("192.0.2.1")), "two are all");
            assert!(addresses.claim(ip("192.0.2.2")), "another address has its own");
            addresses.release(ip("192.0.2.2"));
            addresses.release(ip("192.0.2.1"));
            assert!(addresses.claim(ip("192.0.2.1")));
            addresses.release(ip("192.0.2.1"));
            addresses.release(ip("192.0.2.1"));
        }
        assert!(
            addresses.shards.iter().all(|shard| shard.lock().expect("sound").is_empty()),
            "nothing stays"
        );
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_client() {
        let addresses = Addresses::new(1);
        assert!(addresses.claim(ip("2001:db8::1")));
        assert!(!addresses.claim(ip("2001:db8::ffff:1")));
        assert!(addresses.claim(ip("2001:db8:0:1::1")));
    }

    #[test]
    fn without_a_limit_nothing_is_kept() {
        let addresses = Addresses::new(0);
        assert!((0..100).all(|_| addresses.claim(ip("192.0.2.1"))));
        addresses.release(ip("192.0.2.1"));
    }
}
