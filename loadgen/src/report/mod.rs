//! What is told of a run, and to whom: people ([`table`], [`html`]), programs ([`json`], [`csv`]), and other tools' plots ([`hlog`],
//! [`hgrm`]).

pub mod comparison;
pub mod connects;
pub mod csv;
pub mod encoded;
pub mod format;
pub mod hgrm;
pub mod hlog;
pub mod html;
pub mod json;
pub mod summary;
pub mod table;

/// What somebody writes, as text.
#[cfg(test)]
fn text(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).expect("memory takes it");
    String::from_utf8(out).expect("text")
}
