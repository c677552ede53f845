//! The rules of the house that a compiler does not know: which module may import which, where sockets, clocks and
//! threads may be named, and how large a file and a function may be. The load generator has no layers; its files and
//! functions are held to the rest.

#[path = "common/source.rs"]
mod source;

use std::fs;
use std::path::Path as FilePath;

use source::{Token, functions, lines_without_tests, paths, tokens};

/// From top to bottom. A module imports only what stands below it; those of the last line import nothing.
const LAYERS: [&[&str]; 12] = [
    &["server"],
    &["admin"],
    &["apps"],
    &["net"],
    &["http"],
    &["route"],
    &["app"],
    &["conn"],
    &["hub"],
    &["proto"],
    &["rate"],
    &["id", "config", "guard", "metrics", "state", "sync"],
];

/// The binary, and the root that names every layer.
const NO_LAYER: [&str; 3] = ["lib", "main", "cli"];

/// What belongs to the shell: a path that begins with, or contains, these segments, and the files it may be in.
const LOOP: [&str; 2] = ["src/net/", "src/server"];
const SHELL: [&str; 3] = ["src/net/", "src/server", "src/admin/"];
const PLACES: [(&[&str], &[&str]); 8] = [
    (&["mio"], &LOOP),
    (&["socket2"], &LOOP),
    (&["rustls"], &["src/net/"]),
    (&["std", "net"], &SHELL),
    (&["thread"], &SHELL),
    (&["Instant", "now"], &SHELL),
    (&["SystemTime", "now"], &SHELL),
    (&["clap"], &["src/cli.rs", "src/cli/"]),
];

const UNSAFE_PLACE: &str = "src/net/fdtable.rs";
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// The load generator's files.
const LOADGEN: &str = "loadgen/src/";

/// What is wrong with a file, as `file:line: what`.
fn check(file: &str, source: &str) -> Vec<String> {
    // All of it is unit tests.
    if file.ends_with("/tests.rs") || file == "src/models.rs" {
        return Vec::new();
    }
    let tokens = tokens(source);
    let mut wrong = Vec::new();
    if !file.starts_with(LOADGEN) {
        wrong.extend(check_layers(file, &tokens));
        wrong.extend(check_places(file, &tokens));
    }
    wrong.extend(check_habits(file, &tokens));
    wrong.extend(check_sizes(file, source, &tokens));
    wrong
}

/// `src/net/worker.rs` is the module `net::worker`.
fn module_of(file: &str) -> Vec<&str> {
    let inner = file.trim_start_matches("src/").trim_end_matches(".rs");
    inner.trim_end_matches("/mod").split('/').collect()
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn check_layers(file: &str, tokens: &[Token]) -> Vec<String> {
    let module = module_of(file);
    if NO_LAYER.contains(&module[0]) {
        return Vec::new();
    }
    let Some(own) = layer_of(module[0]) else {
        return vec![format!(
            "{file}:1: `{}` has no layer: say in tests/layering.rs where it stands",
            module[0]
        )];
    };
    let mut wrong = Vec::new();
    for path in paths(tokens) {
        // From the crate's root: after `crate`, or after as many `super` as the module is deep.
        let supers = path.segments.iter().take_while(|segment| *segment == "super").count();
        let absolute: Vec<&str> = match path.segments[0].as_str() {
            "crate" => path.segments[1..].iter().map(String::as_str).collect(),
            "super" => {
                let kept = &module[..module.len().saturating_sub(supers)];
                kept.iter().copied().chain(path.segments[supers..].iter().map(String::as_str)).collect()
            }
            _ => continue,
        };
        let Some(&target) = absolute.first() else { continue };
        let why = match layer_of(target) {
            _ if target == module[0] => continue,
            None => "goes through the crate's root: name the layer",
            Some(layer) if layer == own => "is beside it",
            Some(layer) if layer < own => "is above it",
            Some(_) => continue,
        };
        wrong.push(format!("{file}:{}: {} imports `{target}`, which {why}", path.line, module[0]));
    }
    wrong
}

fn check_places(file: &str, tokens: &[Token]) -> Vec<String> {
    let mut wrong = Vec::new();
    for path in paths(tokens) {
        for (segments, places) in PLACES {
            // A crate's or a module's name counts with something behind it, wherever the path begins.
            let named = path.segments.windows(segments.len()).any(|window| window == segments);
            if named && !places.iter().any(|place| file.starts_with(place)) {
                let name = segments.join("::");
                wrong.push(format!("{file}:{}: `{name}` belongs in {}", path.line, places.join(" and ")));
            }
        }
    }
    wrong
}

fn check_habits(file: &str, tokens: &[Token]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let next = |offset: usize| tokens.get(index + offset).map_or("", |token| token.text.as_str());
        match token.text.as_str() {
            "unsafe" if file != UNSAFE_PLACE => {
                wrong.push(format!("{file}:{}: unsafe code belongs in {UNSAFE_PLACE}", token.line));
            }
            "unwrap" if (next(1), next(2)) == ("(", ")") => {
                wrong
                    .push(format!("{file}:{}: `unwrap()`: say with `expect` why it cannot fail", token.line));
            }
            _ => {}
        }
    }
    for path in paths(tokens).iter().filter(|path| path.segments.last().is_some_and(|last| last == "*")) {
        wrong.push(format!("{file}:{}: a glob import: `{}`", path.line, path.segments.join("::")));
    }
    wrong
}

fn check_sizes(file: &str, source: &str, tokens: &[Token]) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines = lines_without_tests(source);
    if lines > FILE_LINES_MAX {
        wrong.push(format!("{file}:1: {lines} lines without its tests, of at most {FILE_LINES_MAX}"));
    }
    for function in functions(tokens).iter().filter(|function| function.code_lines > FUNCTION_LINES_MAX) {
        let (name, lines) = (&function.name, function.code_lines);
        wrong.push(format!(
            "{file}:{}: `{name}` has {lines} lines, of at most {FUNCTION_LINES_MAX}",
            function.line
        ));
    }
    wrong
}

/// All files under `directory`, as paths from the root of the package.
fn rust_files(directory: &FilePath, into: &mut Vec<String>) {
    for entry in fs::read_dir(directory).expect("a directory of the package") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let inner = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("below the package");
            into.push(inner.to_str().expect("UTF-8").to_owned());
        }
    }
}

#[test]
fn the_source_keeps_to_the_rules() {
    let root = FilePath::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for (directory, at_least) in [("src", 20), (LOADGEN, 60)] {
        let before = files.len();
        rust_files(&root.join(directory), &mut files);
        assert!(files.len() >= before + at_least, "these are not all of {directory}: {:?}", &files[before..]);
    }
    files.sort();
    let wrong: Vec<String> = files
        .iter()
        .flat_map(|file| check(file, &fs::read_to_string(root.join(file)).expect("readable")))
        .collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

// From here on: the checker itself can fail.

#[track_caller]
fn assert_wrong(file: &str, source: &str, line: usize, what: &str) {
    let wrong = check(file, source);
    assert!(
        wrong.len() == 1 && wrong[0].starts_with(&format!("{file}:{line}: ")) && wrong[0].contains(what),
        "{wrong:#?} for {source}"
    );
}

#[track_caller]
fn assert_right(file: &str, source: &str) {
    assert_eq!(check(file, source), [""; 0], "{source}");
}

#[test]
fn imports_go_down() {
    assert_right("src/server.rs", "use crate::net::worker::Worker;\nuse crate::id::ConnId;");
    assert_right(
        "src/net/worker.rs",
        "use super::slots::Key;\nuse crate::{conn::Conn, hub::{Hub, batch::Batch}};",
    );
    assert_right("src/proto/handshake/client.rs", "use super::super::Status;\nuse crate::proto::Role;");
    assert_wrong("src/conn/mod.rs", "\nuse crate::net::mailbox::Mail;", 2, "imports `net`, which is above");
    assert_wrong("src/conn/mod.rs", "use crate::{id::Millis, app::{App}};", 1, "imports `app`");
    assert_wrong("src/conn/outbox.rs", "fn f() {\n    crate::server::start()\n}", 2, "imports `server`");
    assert_wrong("src/hub/mod.rs", "use super::conn::Conn;", 1, "imports `conn`");
    assert_wrong("src/hub/batch.rs", "use super::super::conn::Conn;", 1, "imports `conn`");
    assert_wrong("src/id.rs", "use crate::metrics::Metrics;", 1, "beside it");
    assert_wrong("src/config.rs", "use crate::proto::Frame;", 1, "above");
    assert_wrong("src/http/mod.rs", "pub use crate::Page;", 1, "the crate's root");
    assert_wrong("src/new.rs", "", 1, "has no layer");
}

#[test]
fn words_have_their_places() {
    assert_right(
        "src/net/socket.rs",
        "use mio::net::TcpStream; use std::net::Shutdown; fn f() { Instant::now(); }",
    );
    assert_right("src/server.rs", "use std::thread; fn f() { thread::spawn(|| ()); }");
    assert_right("src/cli.rs", "use clap::Parser;");
    assert_right("src/cli/flags.rs", "use clap::Args;");
    assert_right("src/conn/mod.rs", "use std::time::Instant; fn f(thread: u8, network: u8) {}");
    assert_wrong(
        "src/conn/mod.rs",
        "use std::time::{Duration, Instant};\nfn f() { Instant::now(); }",
        2,
        "Instant::now",
    );
    assert_wrong("src/conn/mod.rs", "use std::{io, net::SocketAddr};", 1, "std::net");
    assert_wrong("src/hub/mod.rs", "fn f() { std::thread::park(); }", 1, "thread");
    assert_wrong("src/app.rs", "use mio::Token;", 1, "mio");
    assert_wrong("src/main.rs", "use clap::Parser;", 1, "src/cli.rs");
    assert_wrong("src/server/start.rs", "fn f(config: rustls::ServerConfig) {}", 1, "src/net/");
    assert_wrong("src/net/socket.rs", "fn f() { unsafe { g() } }", 1, "unsafe");
    assert_right(UNSAFE_PLACE, "#[expect(unsafe_code)] fn f() { unsafe { g() } }");
}

#[test]
fn habits() {
    assert_wrong("src/app.rs", "use crate::proto::*;", 1, "glob");
    assert_wrong("src/app.rs", "use crate::proto::{Close, header::*};", 1, "glob");
    assert_wrong("src/app.rs", "fn f() {\n    g().unwrap();\n}", 2, "unwrap");
    assert_right("src/app.rs", "fn f() { g().unwrap_or_default(); a * b }");
}

#[test]
fn comments_literals_and_tests_do_not_count() {
    for harmless in [
        "// use crate::server::X;",
        "/// [`App`](crate::App) and `x.unwrap()`\nstruct A;",
        "/* use mio::X; /* nested */ use crate::server::X; */",
        r##"const A: &str = "use crate::server::X; \" unwrap()"; const B: &str = r#"mio::X " unsafe"#;"##,
        r#"const A: &[u8] = b"mio::X"; const B: char = '"'; const C: char = '\''; const D: u8 = b'{';"#,
        "fn f<'a>(x: &'a str) -> &'a str { x }",
        "#[cfg(test)]\nmod tests {\n    use super::*;\n    fn f() { g().unwrap(); unsafe {} }\n}",
        "#[cfg(test)]\nmod tests;",
        "#[cfg(test)]\nuse crate::server::X;",
    ] {
        assert_right("src/hub/mod.rs", harmless);
        // And what comes after them does.
        let lines = harmless.lines().count() + 1;
        assert_wrong("src/hub/mod.rs", &format!("{harmless}\nuse crate::conn::X;"), lines, "imports `conn`");
    }
    assert_right("src/hub/tests.rs", "use super::*;");
}

#[test]
fn sizes() {
    let function = |lines: usize| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2));
    assert_right("src/app.rs", &function(70));
    assert_wrong("src/app.rs", &format!("\n{}", function(71)), 2, "`f` has 71 lines");
    assert_right("src/app.rs", &format!("fn f() {{\n{}}}\n", "    // why\n\n    g();\n".repeat(60)));
    let items = "const A: u8 = 1;\n";
    assert_right("src/app.rs", &items.repeat(500));
    assert_wrong("src/app.rs", &items.repeat(501), 1, "501 lines");
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", items.repeat(400));
    assert_right("src/app.rs", &format!("{}{tests}", items.repeat(500)));
    assert_wrong("src/app.rs", &format!("{}{tests}", items.repeat(501)), 1, "501 lines");
}

#[test]
fn the_load_generator_has_sizes_and_habits_but_no_layers() {
    assert_right(
        "loadgen/src/run.rs",
        "use crate::clock::monotonic_ns;\nuse std::net::SocketAddr;\nuse mio::Poll;",
    );
    let function = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(69));
    assert_wrong("loadgen/src/run.rs", &function, 1, "`f` has 71 lines");
    assert_wrong("loadgen/src/run.rs", &"const A: u8 = 1;\n".repeat(501), 1, "501 lines");
    assert_wrong("loadgen/src/run.rs", "fn f() { g().unwrap(); }", 1, "unwrap");
    assert_wrong("loadgen/src/run.rs", "fn f() { unsafe { g() } }", 1, "unsafe");
}
