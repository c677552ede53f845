//! What the user typed. What it means, and whether it makes sense, is [`config`](crate::config)'s business; this
//! is the only place that names clap.

mod run;
mod values;

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

pub use self::run::{Mode, OnOff, RunArgs};
pub use self::values::duration;
use self::values::whole;
use crate::sources::SourceIps;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "loadgen",
    version,
    about = "Loads a WebSocket server and measures what its users would feel",
    after_help = "Exit codes: 0 the run is VALID or SUSPECT, 1 could not connect or write a file, 2 bad usage or \
                  a plan that cannot work here, 96 inconclusive (with --strict), 97 the run is INVALID, \
                  98 regression, \
                  99 a threshold was broken.",
    args_conflicts_with_subcommands = true,
    max_term_width = 80
)]
pub struct Cli {
    /// Other things than a run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// A run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Other things than a run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compare two servers, in pairs of runs with fresh processes
    Ab(Box<AbArgs>),
    /// Compare runs that were stored with --hlog or --json
    Compare(CompareArgs),
    /// Say what of this machine will limit so many connections, and the remedy
    Doctor {
        /// Connections
        #[arg(short, long, default_value = "50000", value_name = "N", value_parser = whole)]
        conns: u32,
        /// Where connections come from: addresses, networks such as 127.1.0.0/28, or auto
        #[arg(long, default_value = "auto", value_name = "LIST", value_parser = SourceIps::parse)]
        source_ip: SourceIps,
    },
    /// Make a page of a run that was stored with --hlog
    Report {
        /// The .hlog of the run
        file: PathBuf,
        /// Where the page goes
        #[arg(long, value_name = "FILE")]
        html: PathBuf,
    },
    /// Put the logs of generators together that ran side by side
    Merge {
        /// The .hlog of each generator
        #[arg(required = true, num_args = 2.., value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Where the sum goes
        #[arg(short, long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// The flags of `ab`.
#[derive(Debug, Args)]
pub struct AbArgs {
    /// The command that starts server A; {port} stands for its port, or it prints its address
    #[arg(long, value_name = "CMD", help_heading = "Comparison")]
    pub a: String,
    /// The command that starts server B
    #[arg(long, value_name = "CMD", help_heading = "Comparison")]
    pub b: Option<String>,
    /// Compare A with itself: the noise of this machine
    #[arg(long, help_heading = "Comparison")]
    pub aa: bool,
    /// Pairs of runs
    #[arg(long, default_value = "10", value_name = "N", value_parser = whole, help_heading = "Comparison")]
    pub pairs: u32,
    /// What decides, at most three, with the rise that is let pass: response.p50=3%,cpu
    #[arg(long, value_name = "METRIC[=PERCENT]", value_delimiter = ',', help_heading = "Comparison")]
    pub gate: Vec<String>,
    /// Exit with 96 where nothing is certain
    #[arg(long, help_heading = "Comparison")]
    pub strict: bool,
    /// Write the files of all runs, and the comparison, to this directory
    #[arg(long, value_name = "DIR", help_heading = "Comparison")]
    pub out: Option<PathBuf>,
    /// Each run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The flags of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// A file of each side: A, then B
    #[arg(value_name = "FILE", num_args = 2, conflicts_with_all = ["a", "b"])]
    pub files: Vec<PathBuf>,
    /// Several files of side A, in the order of the pairs
    #[arg(long, value_name = "FILES", num_args = 1.., requires = "b")]
    pub a: Vec<PathBuf>,
    /// As many files of side B
    #[arg(long, value_name = "FILES", num_args = 1.., requires = "a")]
    pub b: Vec<PathBuf>,
    /// What decides, at most three, with the rise that is let pass: response.p50=3%,cpu
    #[arg(long, value_name = "METRIC[=PERCENT]", value_delimiter = ',')]
    pub gate: Vec<String>,
    /// Exit with 96 where nothing is certain
    #[arg(long)]
    pub strict: bool,
    /// Write the comparison as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the comparison as a page with pictures
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl CompareArgs {
    /// The files of A and those of B.
    ///
    /// # Errors
    /// There are none.
    pub fn sides(&self) -> Result<(&[PathBuf], &[PathBuf]), String> {
        match (&self.files[..], &self.a[..], &self.b[..]) {
            ([a, b], [], []) => Ok((std::slice::from_ref(a), std::slice::from_ref(b))),
            ([], [_, ..], [_, ..]) => Ok((&self.a, &self.b)),
            _ => Err("compare: give two files, or --a FILES --b FILES".to_owned()),
        }
    }
}

/// Reads the command line.
///
/// # Errors
/// The text to print and the exit code: help and version on code 0, one line on code 2.
pub fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Cli, (String, u8)> {
    Cli::try_parse_from(args).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => (error.render().to_string(), 0),
        _ => (one_line(&error.render().to_string()), 2),
    })
}

/// clap explains in paragraphs; here, what is wrong and its tip go on one line.
fn one_line(text: &str) -> String {
    let said = text.split("\n\nUsage:").next().unwrap_or(text).split("\n\nFor more").next().unwrap_or(text);
    let said = said.trim().strip_prefix("error: ").unwrap_or(said);
    let parts: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    format!("{} (loadgen --help lists the flags)", parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_parse(line: &str) -> Result<Cli, (String, u8)> {
        parse(std::iter::once("loadgen").chain(line.split_whitespace()).map(Into::into))
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn mistakes_are_one_line_that_names_the_flag() {
        for (line, flag) in [
            ("--conns many", "--conns"),
            ("--mode shout", "--mode"),
            ("--rate 1 --closed-loop 2", "--closed-loop"),
            ("--find-max cpu<5us --json x", "--find-max"),
            ("--text --binary", "--binary"),
            ("--stage 5s", "TIME:RATE"),
            ("--stage 5s:1 --duration 5s", "--duration"),
            ("--stage 5s:1 --rate 5", "--rate"),
            ("--stage 5s:1 --find-max cpu<5us", "--find-max"),
            ("--cons 5", "--conns"),
            ("--duration", "--duration"),
            ("--size 90..80", "--size"),
            ("--size 64:50%,65:40%", "100%"),
            ("--rate 5 --rate-per-conn 1", "--rate-per-conn"),
            ("--source-ip 10.0.0.300", "--source-ip"),
            ("doctor --source-ip nowhere", "--source-ip"),
            ("-H nonsense", "Name: value"),
            ("-H a\u{7f}b:c", "no header name"),
            ("compare a.hlog", "2 values"),
        ] {
            let (text, code) = try_parse(line).expect_err(line);
            assert_eq!(code, 2, "{line}");
            assert!(text.contains(flag) && !text.contains('\n'), "{text}");
        }
        assert_eq!(try_parse("--help").expect_err("help").1, 0);
    }

    #[test]
    fn runs_and_subcommands() {
        let run = try_parse("ws://h:1/x --conns 50k -R 5k --mode broadcast").expect("sound").run;
        assert_eq!(
            (run.url.as_str(), run.conns, run.rate, run.mode),
            ("ws://h:1/x", 50_000, Some(5e3), Mode::Broadcast)
        );
        assert!(matches!(try_parse("compare a b").expect("sound").command, Some(Command::Compare(_))));
    }
}
