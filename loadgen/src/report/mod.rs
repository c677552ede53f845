//! What is told of a run, and to whom: people ([`table`]), programs ([`json`]), and other tools' plots ([`hlog`],
//! [`hgrm`]).

pub mod comparison;
pub mod format;
pub mod hgrm;
pub mod hlog;
pub mod json;
pub mod summary;
pub mod table;
