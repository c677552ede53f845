//! What is done with the files that runs have left, without a server.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::ab::gates;
use crate::cli::CompareArgs;
use crate::compare::Comparison;
use crate::compare::stored::Stored;
use crate::merge;
use crate::report::hlog::Hlog;
use crate::report::{comparison, html};
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
    if let Some(path) = &args.html {
        let labels = [list(&a), list(&b)];
        write("--html", path, &html::comparison(&it, &a, &b, [&labels[0], &labels[1]]))?;
    }
    Ok(comparison::exit_code(it.outcome(), args.strict))
}

fn list(side: &[Stored]) -> String {
    side.iter().map(|run| run.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// `loadgen report`: a page from a log.
///
/// # Errors
/// The log is none, or the page cannot be written.
pub fn report(file: &Path, page: &Path) -> Result<u8, Failure> {
    let (log, result) = read_log(file).map_err(Failure::Usage)?;
    write("--html", page, &html::run(&result, &log.tags, &log.by_second))?;
    Ok(0)
}

/// `loadgen merge`: the log of several generators that ran side by side against one server, written to `to`; the
/// table goes to `out`.
///
/// # Errors
/// A log is none, or they cannot belong together.
pub fn merge(files: &[PathBuf], to: &Path, out: &mut impl Write) -> Result<u8, Failure> {
    let logs: Result<Vec<(Hlog, Value)>, String> = files.iter().map(|file| read_log(file)).collect();
    let (logs, results): (Vec<Hlog>, Vec<Value>) = logs.map_err(Failure::Usage)?.into_iter().unzip();
    let sum = merge::sum(logs, &results).map_err(Failure::Usage)?;
    write("--out", to, &sum.log().map_err(|error| Failure::Broken(error.to_string()))?)?;
    sum.table(out).map_err(|error| Failure::Broken(format!("standard output: {error}")))?;
    Ok(0)
}

fn read_log(file: &Path) -> Result<(Hlog, Value), String> {
    let name = file.display();
    let bytes = fs::read(file).map_err(|error| format!("{name}: {error}"))?;
    let mut log = Hlog::parse(&bytes)
        .map_err(|problem| format!("{name}: {problem}: give a .hlog that --hlog wrote"))?;
    let result = log.result.take();
    let result = result
        .ok_or_else(|| format!("{name}: it has no result: the run did not end, or another tool wrote it"))?;
    Ok((log, result))
}

fn write(flag: &str, path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| write_error(flag, path, &error))
}
