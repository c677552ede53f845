//! `loadgen ab`: two servers against each other, in pairs of runs, each with a fresh server process.
//!
//! The order is A B, B A, A B, ...: whatever drifts on the machine meanwhile hits both sides alike. The number of
//! pairs is fixed beforehand, because looking until the result pleases finds something in any noise.

use std::fs;
use std::io::{IsTerminal as _, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::AbArgs;
use crate::compare::metric::{Gate, Metric};
use crate::compare::stored::Stored;
use crate::compare::{Comparison, GATES_MAX};
use crate::config::Config;
use crate::launch::Launched;
use crate::report::{comparison, html};
use crate::run::{self, Failure, write_error};
use crate::verdict::Verdict;

/// Pairs that may be repeated in one session because the generator could not keep up.
const REPEATS_MAX: u32 = 3;

/// What a session has to do.
#[derive(Clone, Debug)]
pub struct Session {
    /// The command of each side; the same twice with `--aa`.
    pub commands: [String; 2],
    /// Both sides are the same.
    pub aa: bool,
    /// Pairs of runs.
    pub pairs: u32,
    /// The metrics that decide; those of the mode where there are none.
    pub gates: Vec<Gate>,
    /// Whether an uncertain result counts as a failure.
    pub strict: bool,
    /// Where the files of each run go.
    pub out: Option<std::path::PathBuf>,
    /// One run.
    pub config: Config,
}

impl Session {
    /// Makes sense of the flags.
    ///
    /// # Errors
    /// One line that names the flag and what to do.
    pub fn new(args: AbArgs, fresh_seed: u64) -> Result<Self, String> {
        let b = match (args.b, args.aa) {
            (Some(_), true) => return Err("--aa: compares A with itself; leave --b out".to_owned()),
            (Some(b), false) => b,
            (None, true) => args.a.clone(),
            (None, false) => return Err("--b: give the other server's command, or --aa".to_owned()),
        };
        if args.pairs < 2 {
            return Err("--pairs 1: the spread between runs needs two pairs, and ten are good".to_owned());
        }
        for (flag, given) in [
            ("--server-pid", args.run.server_pid.is_some()),
            ("--server-cmd", args.run.server_cmd.is_some()),
            ("--find-max", args.run.find_max.is_some()),
            ("--threshold", !args.run.threshold.is_empty()),
            ("--hlog", args.run.hlog.is_some()),
            ("--hgrm", args.run.hgrm.is_some()),
            ("--csv", args.run.csv.is_some()),
        ] {
            if given {
                return Err(format!(
                    "{flag}: each run has its own; give --out DIR for the files of all runs"
                ));
            }
        }
        Ok(Self {
            commands: [args.a, b],
            aa: args.aa,
            pairs: args.pairs,
            gates: gates(&args.gate)?,
            strict: args.strict,
            out: args.out,
            config: Config::new(args.run, fresh_seed)?,
        })
    }

    /// Which side goes first in a pair (0 is A): turn by turn, the first one by chance.
    pub fn first(&self, pair: u32) -> usize {
        let start = fastrand::Rng::with_seed(self.config.seed).usize(..2);
        (start + pair as usize) % 2
    }
}

/// Reads `--gate`.
///
/// # Errors
/// One line.
pub fn gates(texts: &[String]) -> Result<Vec<Gate>, String> {
    if texts.len() > GATES_MAX {
        return Err(format!("--gate: {GATES_MAX} at most, because each adds its own false alarms"));
    }
    texts.iter().map(|text| Gate::parse(text).map_err(|problem| format!("--gate {problem}"))).collect()
}

/// Runs all pairs and writes the comparison; gives the exit code.
///
/// # Errors
/// A server or a run failed, or the runs cannot be compared.
pub fn run(session: &Session, interrupted: &AtomicBool, out: &mut impl Write) -> Result<u8, Failure> {
    if let Some(dir) = &session.out {
        fs::create_dir_all(dir)
            .map_err(|error| Failure::Usage(format!("--out {}: {error}", dir.display())))?;
    }
    print(out, &heading(session))?;
    let mut sides: [Vec<Stored>; 2] = [Vec::new(), Vec::new()];
    let mut repeats = 0;
    let mut pair = 0;
    while pair < session.pairs {
        let first = session.first(pair);
        let mut runs = [None, None];
        for side in [first, 1 - first] {
            if interrupted.load(Ordering::Relaxed) {
                return Err(Failure::Broken("interrupted: no verdict without all pairs".to_owned()));
            }
            runs[side] = Some(one_run(session, pair, side, interrupted)?);
        }
        let [Some(a), Some(b)] = runs else { unreachable!("both sides ran") };
        print(out, &pair_line(session, pair, &a, &b))?;
        if let Some(bad) = [&a, &b].into_iter().find(|run| run.verdict() == "INVALID") {
            // Both runs of the pair go, whichever it was, and the rule looks at nothing that the server did.
            repeats += 1;
            print(out, &format!("repeat  pair {}: {} is INVALID: {}\n", pair + 1, bad.name, reasons(bad)))?;
            if repeats > REPEATS_MAX {
                return Err(Failure::Invalid(
                    "too many INVALID runs: lower the rate, or use a quieter machine".to_owned(),
                ));
            }
            continue;
        }
        sides[0].push(a);
        sides[1].push(b);
        pair += 1;
    }
    let [a, b] = &sides;
    let it = Comparison::new(a, b, &session.gates).map_err(Failure::Usage)?;
    let table = |out: &mut dyn Write| -> std::io::Result<()> {
        let mut text = Vec::new();
        writeln!(text)?;
        comparison::write(&mut text, &it)?;
        if session.aa {
            comparison::noise(&mut text, &it)?;
        }
        out.write_all(&text)
    };
    table(out).map_err(|error| Failure::Broken(format!("standard output: {error}")))?;
    let labels = [session.commands[0].as_str(), if session.aa { "the same" } else { &session.commands[1] }];
    write_files(session, &it, [a, b], labels)?;
    Ok(comparison::exit_code(it.outcome(), session.strict))
}

fn write_files(
    session: &Session,
    it: &Comparison,
    [a, b]: [&[Stored]; 2],
    labels: [&str; 2],
) -> Result<(), Failure> {
    let named = |name: &str| session.out.as_ref().map(|dir| dir.join(name));
    let mut value = comparison::value(it);
    value["commands"] = labels.into();
    value["config"] = crate::report::json::config(&session.config);
    for (flag, path) in [("--json", session.config.json.clone()), ("--out", named("comparison.json"))] {
        if let Some(path) = path {
            fs::write(&path, format!("{value:#}\n")).map_err(|error| write_error(flag, &path, &error))?;
        }
    }
    for (flag, path) in [("--html", session.config.html.clone()), ("--out", named("comparison.html"))] {
        if let Some(path) = path {
            let page = html::comparison(it, a, b, labels);
            fs::write(&path, page).map_err(|error| write_error(flag, &path, &error))?;
        }
    }
    Ok(())
}

fn one_run(session: &Session, pair: u32, side: usize, interrupted: &AtomicBool) -> Result<Stored, Failure> {
    let server =
        Launched::start(&session.commands[side], IpAddr::V4(Ipv4Addr::LOCALHOST)).map_err(Failure::Broken)?;
    let name = format!("{:02}-{}", pair + 1, ["a", "b"][side]);
    let mut config = session.config.clone();
    // A log gets a line for each pair, which is enough.
    config.progress &= std::io::stderr().is_terminal();
    config.target.set_address(server.address());
    config.server_pid = Some(server.pid());
    // The same schedule for both, another one for each pair.
    config.seed = session.config.seed + u64::from(pair);
    let file = |ending: &str| {
        session.out.as_ref().map(|dir: &std::path::PathBuf| dir.join(format!("{name}.{ending}")))
    };
    (config.json, config.hlog, config.html) = (file("json"), file("hlog"), file("html"));
    let summary = run::execute(&config, interrupted, &mut std::io::sink())
        .map_err(|failure| failure.map(|line| format!("run {name}: {line}")))?;
    server.stop();
    if summary.verdict != Verdict::Invalid && interrupted.load(Ordering::Relaxed) {
        return Err(Failure::Broken("interrupted: no verdict without all pairs".to_owned()));
    }
    Ok(Stored::of(name, &summary))
}

fn heading(session: &Session) -> String {
    let Session { config, pairs, .. } = session;
    let rate = match config.load {
        crate::config::Load::Open { rate } => format!(", {}/s", crate::report::format::rate(rate)),
        _ => String::new(),
    };
    let (conns, seconds) =
        (crate::report::format::count(u64::from(config.conns)), config.duration.as_secs_f64());
    let starts = ["A", "B"][session.first(0)];
    let (a, b) = (&session.commands[0], if session.aa { "the same" } else { &*session.commands[1] });
    let names: String = deciding(session).iter().map(|metric| format!("{metric:>24}")).collect();
    format!(
        "A       {a}\nB       {b}\nplan    {pairs} pairs of {seconds}s, {starts} first, then by turns   {} {conns} conns{rate}\n\npair {names}\n",
        config.mode.name()
    )
}

/// What decides: as given, or as the mode has it.
fn deciding(session: &Session) -> Vec<Metric> {
    if session.gates.is_empty() {
        Metric::gates(session.config.mode)
    } else {
        session.gates.iter().map(|gate| gate.metric).collect()
    }
}

/// What a pair came to: A, B and B/A of each metric that decides.
fn pair_line(session: &Session, pair: u32, a: &Stored, b: &Stored) -> String {
    let order = ["AB", "BA"][session.first(pair)];
    let mut line = format!("{:2} {order}", pair + 1);
    for metric in deciding(session) {
        let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| metric.show(value));
        let (a, b) = (metric.of(&a.result), metric.of(&b.result));
        let ratio = a.zip(b).map_or_else(|| "-".to_owned(), |(a, b)| comparison::factor(b / a));
        line.push_str(&format!("{:>9}{:>9}{ratio:>6}", show(a), show(b)));
    }
    line + "\n"
}

fn reasons(run: &Stored) -> String {
    let reasons = run.result["reasons"].as_array().into_iter().flatten();
    reasons.filter_map(|reason| reason.as_str()).collect::<Vec<_>>().join("; ")
}

fn print(out: &mut impl Write, text: &str) -> Result<(), Failure> {
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::Broken(format!("standard output: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Command};

    fn session(line: &str) -> Result<Session, String> {
        let words = std::iter::once("loadgen").chain(line.split_whitespace()).map(Into::into);
        let Some(Command::Ab(args)) = cli::parse(words).expect("clap takes it").command else { panic!("ab") };
        Session::new(*args, 42)
    }

    #[test]
    fn the_order_turns_with_each_pair_and_starts_by_chance() {
        let it = session("ab --a x --b y").expect("sound");
        assert_eq!((0..4).map(|pair| it.first(pair) ^ it.first(0)).collect::<Vec<_>>(), [0, 1, 0, 1]);
        let starts: Vec<usize> = (0..20)
            .map(|seed| session(&format!("ab --a x --aa --seed {seed}")).expect("sound").first(0))
            .collect();
        assert!(starts.contains(&0) && starts.contains(&1));
    }

    #[test]
    fn what_does_not_go_together() {
        for (line, part) in [
            ("ab --a x", "--b"),
            ("ab --a x --b y --aa", "--aa"),
            ("ab --a x --b y --pairs 1", "--pairs"),
            ("ab --a x --b y --gate cpu,rss,response.p50,response.p99", "--gate"),
            ("ab --a x --b y --gate speed", "--gate"),
            ("ab --a x --b y --hlog f", "--out"),
            ("ab --a x --b y --size 3", "--size"),
        ] {
            let error = session(line).expect_err(line);
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
    }
}
