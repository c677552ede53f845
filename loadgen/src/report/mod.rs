//! What is told of a run, and to whom: people ([`table`], [`html`]), programs ([`json`], [`csv`]), and other tools' plots ([`hlog`],
//! [`hgrm`]).

pub mod comparison;
pub mod connects;
pub mod csv;
pub mod format;
pub mod hgrm;
pub mod hlog;
pub mod html;
pub mod json;
pub mod summary;
pub mod table;
