//! What is done with the files that runs have left, without a server.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::ab::gates;
use crate::cli::CompareArgs;
use crate::compare::Comparison;
use crate::compare::stored::Stored;
use crate::report::comparison;
use crate::run::{Failure, write_error};

/// `loadgen compare`: reads the files of both sides, and writes how they compare; gives the exit code.
///
/// # Errors
/// One line: a file is no result, or the runs must not be compared.
pub fn compare(args: &CompareArgs, out: &mut impl Write) -> Result<u8, Failure> {
    let read = |paths: &[PathBuf]| -> Result<Vec<Stored>, Failure> {
        paths.iter().map(|path| Stored::read(path).map_err(Failure::Usage)).collect()
    };
    let (a, b) = args.sides().map_err(Failure::Usage)?;
    let (a, b) = (read(a)?, read(b)?);
    let gates = gates(&args.gate).map_err(Failure::Usage)?;
    let it = Comparison::new(&a, &b, &gates).map_err(Failure::Usage)?;
    comparison::write(out, &it).map_err(|error| Failure::Broken(format!("standard output: {error}")))?;
    if let Some(path) = &args.json {
        write("--json", path, &format!("{:#}\n", comparison::value(&it)))?;
    }
    Ok(comparison::exit_code(it.outcome(), args.strict))
}

fn write(flag: &str, path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| write_error(flag, path, &error))
}
