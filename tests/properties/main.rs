//! What must hold for every input, checked with generated ones. A case that fails is made small and printed; what it
//! shows becomes a test with literal bytes. `PROPTEST_CASES=10000 cargo test --release --test properties` looks longer.

mod codec;
mod conn;
mod deflate;
mod handshake;
mod hub;
mod outbox;
mod text;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any};
use proptest::sample::Index;

/// So many cases, unless the environment asks for another number.
fn cases(count: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { count };
    ProptestConfig { cases, failure_persistence: None, ..default }
}

/// Where a stream is cut, whatever its length.
fn any_cuts() -> impl Strategy<Value = Vec<Index>> {
    vec(any::<Index>(), 0..8)
}

/// `bytes` in pieces, none of them empty.
fn pieces<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.push(bytes.len());
    places.sort_unstable();
    let mut from = 0;
    let cut_at = |to| &bytes[std::mem::replace(&mut from, to)..to];
    places.into_iter().map(cut_at).filter(|piece| !piece.is_empty()).collect()
}

/// `bytes` with some of them changed, inserted or removed: mostly sound, and wrong somewhere.
fn mutated(bytes: Vec<u8>, mutations: &[(Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = bytes;
    for &(at, kind, value) in mutations {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        match kind % 4 {
            0 => bytes[at] ^= 1 << (value % 8),
            1 => bytes[at] = value,
            2 => bytes.insert(at, value),
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}

fn any_mutations() -> impl Strategy<Value = Vec<(Index, u8, u8)>> {
    vec(any::<(Index, u8, u8)>(), 0..4)
}
