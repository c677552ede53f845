//! What is kept of a connection only where a setting asks for it: its client's address, its age, its allowance of
//! messages. A server without such settings keeps nothing: connections pay for them with a row beside the slab.

use std::net::IpAddr;
use std::sync::Arc;

use super::addresses::Addresses;
use crate::config::{Limits, Proxies};
use crate::id::Millis;
use crate::rate::Rate;

/// The rows of one worker's connections, by slot.
#[derive(Debug)]
pub(super) struct Quotas {
    rows: Vec<Row>,
    is_on: bool,
    proxies: Arc<Proxies>,
    addresses: Arc<Addresses>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    client: Client,
    expires_at: Millis,
    /// When the allowance of messages is whole again, as a [`Rate`] has it.
    paid: u64,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// Nobody asked.
    Unasked,
    /// This address, which has given a place to it.
    Known(IpAddr),
    /// A trusted proxy's, which has yet to say for whom it is.
    Awaited(IpAddr),
    /// An address that had no place left, as its proxy said.
    OneTooMany,
}

const NOTHING: Row = Row { client: Client::Unasked, expires_at: Millis::NEVER, paid: 0 };

impl Quotas {
    /// `limits`: of each route.
    pub(super) fn new(limits: &[Limits], proxies: &Arc<Proxies>, addresses: &Arc<Addresses>) -> Self {
        Self {
            rows: Vec::new(),
            is_on: ask_for_rows(limits) || addresses.are_limited() || !proxies.trusted.is_empty(),
            proxies: Arc::clone(proxies),
            addresses: Arc::clone(addresses),
        }
    }

    /// Other limits: their age holds for connections that come from now on, their rate of messages for all.
    pub(super) fn renew(&mut self, limits: &[Limits]) {
        self.is_on |= ask_for_rows(limits);
    }

    /// Whose a new connection is, with its place taken; `None` where the address has no place left.
    pub(super) fn claim(&self, peer: IpAddr) -> Option<Client> {
        if !self.is_on {
            Some(Client::Unasked)
        } else if self.proxies.trusts(peer) {
            Some(Client::Awaited(peer))
        } else {
            self.addresses.claim(peer).then_some(Client::Known(peer))
        }
    }

    /// Begins a connection's row.
    pub(super) fn admit(&mut self, slot: u32, client: Client) {
        if self.is_on {
            *self.row(slot) = Row { client, ..NOTHING };
        }
    }

    /// The connection is open, and its age counts from now on. `jitter` spreads the ends of connections that began
    /// together.
    pub(super) fn open(&mut self, slot: u32, now: Millis, jitter: u8, limits: &Limits) {
        if !limits.max_age.is_zero()
            && let Some(row) = self.rows.get_mut(slot as usize)
        {
            row.expires_at = now.after_times(0.9 + 0.1 * f64::from(jitter) / 255.0, limits.max_age);
        }
    }

    /// A connection is over: its address gets the place back.
    pub(super) fn bury(&mut self, slot: u32) {
        if let Some(row) = self.rows.get_mut(slot as usize) {
            let client = std::mem::replace(row, NOTHING).client;
            self.forgo(client);
        }
    }

    /// A connection that was promised a place never came to be.
    pub(super) fn forgo(&self, client: Client) {
        if let Client::Known(address) = client {
            self.addresses.release(address);
        }
    }

    pub(super) fn client(&self, slot: u32) -> Client {
        self.rows.get(slot as usize).map_or(Client::Unasked, |row| row.client)
    }

    /// The address of the client, where a setting asks for it.
    pub(super) fn known_client(&self, slot: u32) -> Option<IpAddr> {
        match self.client(slot) {
            Client::Known(client) => Some(client),
            Client::Unasked | Client::Awaited(_) | Client::OneTooMany => None,
        }
    }

    /// Whom the PROXY header of a connection names; `None` where the proxy speaks for itself. Where that is a trusted
    /// proxy too, the request has yet to say for whom.
    pub(super) fn introduce(&mut self, slot: u32, named: Option<IpAddr>) {
        match named {
            Some(proxy) if self.proxies.trusts(proxy) => self.row(slot).client = Client::Awaited(proxy),
            _ => self.identify(slot, named),
        }
    }

    /// The client of a proxy's connection is known now; `None` where the proxy speaks for itself.
    pub(super) fn identify(&mut self, slot: u32, client: Option<IpAddr>) {
        let Some(row) = self.rows.get_mut(slot as usize) else { return };
        row.client = match client {
            None => Client::Unasked,
            Some(client) if self.addresses.claim(client) => Client::Known(client),
            Some(_) => Client::OneTooMany,
        };
    }

    /// When the connection is to be closed because of its age.
    pub(super) fn expires_at(&self, slot: u32) -> Millis {
        self.rows.get(slot as usize).map_or(Millis::NEVER, |row| row.expires_at)
    }

    /// Pays for a message. False where the connection's allowance is used up.
    pub(super) fn pay(&mut self, slot: u32, now: Millis, limits: &Limits) -> bool {
        let rate = Rate::new(limits.message_rate, 1);
        if !rate.is_limited() {
            return true;
        }
        // Connections may be older than the rate. They have their rows when they have something to pay.
        let row = self.row(slot);
        rate.pay(row.paid, now).map(|paid| row.paid = paid).is_ok()
    }

    /// The row of a slot, which may have none yet.
    fn row(&mut self, slot: u32) -> &mut Row {
        if self.rows.len() <= slot as usize {
            self.rows.resize(slot as usize + 1, NOTHING);
        }
        &mut self.rows[slot as usize]
    }

    pub(super) fn proxies(&self) -> &Proxies {
        &self.proxies
    }
}

/// Whether any of these limits is held with what a row keeps.
fn ask_for_rows(limits: &[Limits]) -> bool {
    limits.iter().any(|limits| !limits.max_age.is_zero() || limits.message_rate > 0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// One route with these limits, and one with none.
    fn quotas(limits: &Limits, max_per_address: u32) -> Quotas {
        let limits = [limits.clone(), Limits::default()];
        Quotas::new(&limits, &Arc::default(), &Arc::new(Addresses::new(max_per_address)))
    }

    #[test]
    fn a_second_of_messages_at_once_and_then_the_rate() {
        for rate in [1, 3, 100, 5_000] {
            let limits = Limits { message_rate: rate, ..Limits::default() };
            let mut quotas = quotas(&limits, 0);
            quotas.admit(2, Client::Unasked);
            let mut pay = |slot, now| quotas.pay(slot, Millis(now), &limits);
            let at_once = (0..2 * rate).filter(|_| pay(2, 10_000)).count();
            assert_eq!(at_once as u32, rate);
            let second = (10_001..=11_000).map(|now| (0..50).filter(|_| pay(2, now)).count());
            assert_eq!(second.sum::<usize>() as u32, rate);
            assert!(quotas.pay(2, Millis(10_000), &Limits::default()), "another route has no such limit");
        }
    }

    #[test]
    fn a_rate_holds_for_those_who_came_before_it() {
        let mut quotas = quotas(&Limits::default(), 0);
        quotas.admit(7, Client::Unasked);
        assert!(quotas.pay(7, Millis(10_000), &Limits::default()));
        assert_eq!(quotas.rows.len(), 0, "nobody asks for rows");
        let limits = Limits { message_rate: 3, ..Limits::default() };
        quotas.renew(std::slice::from_ref(&limits));
        assert_eq!(quotas.rows.len(), 0, "nobody has said anything");
        for slot in [7, 2] {
            let at_once = (0..9).filter(|_| quotas.pay(slot, Millis(10_000), &limits)).count();
            assert_eq!(at_once, 3, "slot {slot}");
        }
        quotas.bury(7);
        assert!(quotas.pay(7, Millis(10_000), &limits), "the next one in that slot begins anew");
    }

    #[test]
    fn connections_that_began_together_do_not_end_together() {
        let limits = Limits { max_age: Duration::from_secs(100), ..Limits::default() };
        let mut quotas = quotas(&limits, 0);
        for (slot, jitter, ends) in [(0, 0, 91_000), (1, 255, 101_000), (2, 128, 96_019)] {
            quotas.admit(slot, Client::Unasked);
            assert_eq!(quotas.expires_at(slot), Millis::NEVER, "it has no route yet");
            quotas.open(slot, Millis(1_000), jitter, &limits);
            assert_eq!(quotas.expires_at(slot), Millis(ends));
        }
        quotas.bury(1);
        assert_eq!(quotas.expires_at(1), Millis::NEVER);
        quotas.admit(1, Client::Unasked);
        quotas.open(1, Millis(1_000), 0, &Limits::default());
        assert_eq!(quotas.expires_at(1), Millis::NEVER, "another route has no such limit");
        for jitter in [0, 255] {
            let ever = Limits { max_age: Duration::MAX, ..Limits::default() };
            quotas.open(1, Millis(1_000), jitter, &ever);
            assert_eq!(quotas.expires_at(1), Millis::NEVER);
        }
    }

    #[test]
    fn places_come_back_and_nothing_is_kept_unasked() {
        let peer: IpAddr = "192.0.2.1".parse().expect("an address");
        let mut on = quotas(&Limits::default(), 1);
        let client = on.claim(peer).expect("the first");
        on.admit(0, client);
        assert_eq!((client, on.claim(peer)), (Client::Known(peer), None));
        on.bury(0);
        on.bury(0);
        assert_eq!(on.claim(peer), Some(Client::Known(peer)));

        let mut off = quotas(&Limits::default(), 0);
        off.admit(5, Client::Unasked);
        assert_eq!((off.claim(peer), off.rows.len()), (Some(Client::Unasked), 0));
    }

    #[test]
    fn behind_a_proxy_the_client_counts_and_not_the_proxy() {
        let (proxy, client): (IpAddr, IpAddr) =
            ("10.0.0.1".parse().expect("an address"), "192.0.2.1".parse().expect("an address"));
        let proxies = Proxies { trusted: vec!["10.0.0.0/8".parse().expect("a network")], protocol: false };
        let mut quotas = Quotas::new(&[Limits::default()], &Arc::new(proxies), &Arc::new(Addresses::new(1)));
        for slot in 0..3 {
            assert_eq!(quotas.claim(proxy), Some(Client::Awaited(proxy)));
            quotas.admit(slot, Client::Awaited(proxy));
        }
        quotas.identify(0, Some(client));
        quotas.identify(1, Some(client));
        assert_eq!([quotas.client(0), quotas.client(1)], [Client::Known(client), Client::OneTooMany]);
        quotas.bury(1);
        quotas.bury(0);
        quotas.identify(2, Some(client));
        assert_eq!(quotas.client(2), Client::Known(client));
        quotas.identify(2, None);
    }
}
