//! Every limit has tests at it and one above; which, says [`HELD_BY`]. Here are those that stand nowhere else: where it
//! takes a program, a clock or memory, and for compression.

#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::program::{Program, run, wsd};
use common::{BINARY, CLOSE, CONTINUATION, Client, FIN, PATIENCE, PONG, Running, TEXT};
use common::{calm, close, fragments, frame, ping, request, request_with, text};
use flate2::{Compress, Compression, FlushCompress};
use rustix::process::Signal;
use wsd::apps::Echo;
use wsd::net::fdtable::raise_nofile;
use wsd::{App, Context, Deflate, Limits, Message, Server};

/// Each flag of `--print-limits`, and the tests that hold what it says.
#[rustfmt::skip]
const HELD_BY: [(&str, &str); 70] = [
    ("--max-conns", "tests/lifecycle.rs::the_ceiling_holds_at_the_limit_and_one_more"),
    ("--max-conns", "tests/limits.rs::what_the_system_gives_less_of_is_said"),
    ("--max-conns-per-ip", "tests/admission.rs::an_address_may_hold_so_many_connections_and_not_one_more"),
    ("--max-conns-per-ip", "src/net/addresses.rs::an_ipv6_network_of_64_bits_is_one_client"),
    ("--accept-rate", "src/net/pace.rs::a_second_s_worth_at_once_and_then_the_rate"),
    ("--accept-rate", "tests/admission.rs::connections_over_the_rate_wait_and_are_not_refused"),
    ("--message-rate", "src/net/quotas.rs::a_second_of_messages_at_once_and_then_the_rate"),
    ("--message-rate", "tests/admission.rs::so_many_messages_a_second_and_not_one_more"),
    ("--max-age", "src/net/quotas.rs::connections_that_began_together_do_not_end_together"),
    ("--max-age", "tests/admission.rs::a_connection_ends_at_its_age_and_may_come_back_at_once"),
    ("--backlog", "tests/limits.rs::as_many_wait_to_be_accepted_as_the_backlog_says"),
    ("--backlog", "tests/limits.rs::what_the_system_gives_less_of_is_said"),
    ("--max-message", "tests/frames.rs::f2_a_message_over_the_limit_is_refused_at_its_header"),
    ("--max-message", "tests/frames.rs::f2_the_default_limit_is_a_mebibyte"),
    ("--max-message", "tests/limits.rs::f4_a_bomb_stops_at_the_limit"),
    ("--max-fragments", "tests/frames.rs::f3_fragments_up_to_the_limit_and_one_more"),
    ("--assembly-timeout", "src/conn/tests.rs::a_message_must_be_whole_in_time_however_it_trickles"),
    ("--assembly-timeout", "tests/limits.rs::a_message_has_as_long_as_the_limit_says"),
    ("--control-rate", "src/conn/tests.rs::twenty_pings_at_once_are_answered_and_then_ten_each_second"),
    ("--control-rate", "tests/limits.rs::f6_twenty_pings_at_once_are_answered_and_then_ten_each_second"),
    ("--max-head", "src/proto/handshake/head.rs::the_limit_holds_at_the_byte"),
    ("--max-head", "tests/handshake.rs::h1_a_long_head_fed_byte_by_byte"),
    ("--max-headers", "tests/handshake.rs::h2_very_many_headers"),
    ("--max-headers", "tests/handshake.rs::h2_the_count_is_a_limit_of_its_own"),
    ("--tls-timeout", "tests/tls.rs::h5_half_a_handshake_and_then_silence"),
    ("--handshake-timeout", "src/conn/tests.rs::the_handshake_deadline_is_absolute"),
    ("--handshake-timeout", "tests/handshake.rs::h4_bytes_that_trickle_in_do_not_extend_the_handshake"),
    ("--ping-interval", "src/conn/tests.rs::silence_is_answered_with_a_ping_and_then_with_the_end"),
    ("--ping-interval", "src/conn/tests.rs::connections_that_began_together_are_not_pinged_together"),
    ("--ping-interval", "src/conn/tests.rs::any_sign_of_life_puts_the_ping_off"),
    ("--ping-interval", "tests/lifecycle.rs::whoever_talks_is_not_pinged"),
    ("--pong-timeout", "src/conn/tests.rs::silence_is_answered_with_a_ping_and_then_with_the_end"),
    ("--pong-timeout", "tests/lifecycle.rs::a_silent_peer_is_pinged_and_given_up"),
    ("--pong-timeout", "tests/lifecycle.rs::a_peer_that_answers_pings_lives"),
    ("--close-timeout", "src/conn/tests.rs::a_close_that_is_not_answered_ends_at_the_deadline"),
    ("--close-timeout", "tests/frames.rs::f10_a_close_that_is_never_answered"),
    ("--queue-hard", "src/conn/tests.rs::a_frame_is_always_taken_into_an_empty_queue_and_the_limit_holds_at_the_byte"),
    ("--queue-hard", "tests/fanout.rs::a_slow_reader_is_closed_and_the_others_lose_nothing"),
    ("--queue-hard", "src/conn/tests.rs::drop_newest_takes_what_fits_and_says_once_what_is_missing"),
    ("--queue-hard", "src/conn/tests.rs::drop_oldest_makes_room_and_says_once_what_is_missing"),
    ("--queue-soft", "src/conn/tests.rs::below_the_soft_limit_the_time_begins_anew_and_zero_is_none"),
    ("--queue-soft", "tests/slow.rs::a_reader_over_the_soft_limit_is_closed_although_it_reads"),
    ("--queue-soft-time", "src/conn/tests.rs::over_the_soft_limit_a_connection_has_so_long_and_no_longer"),
    ("--queue-soft-time", "src/conn/tests.rs::where_messages_are_dropped_the_soft_limit_becomes_a_hard_one"),
    ("--queue-total", "src/net/worker/budget.rs::the_limits_hold_at_the_byte"),
    ("--queue-total", "src/server/memory.rs::the_smallest_limit_of_all_groups_above_holds"),
    ("--queue-total", "tests/slow.rs::at_80_percent_of_the_memory_the_slowest_are_shed"),
    ("--queue-total", "tests/slow.rs::at_95_percent_of_the_memory_nobody_else_is_let_in"),
    ("--queue-total", "tests/slow.rs::what_comes_at_once_is_taken_in_up_to_the_percentage"),
    ("--progress-timeout", "src/conn/tests.rs::a_queue_that_makes_no_progress_is_cut_and_one_that_does_is_not"),
    ("--progress-timeout", "tests/fanout.rs::a_reader_without_progress_is_closed"),
    ("--deflate", "tests/limits.rs::compression_is_for_those_who_offer_it_where_it_is_on"),
    ("--deflate-min", "tests/limits.rs::messages_are_compressed_from_the_limit_on"),
    ("--deflate-level", "src/proto/deflate/stream.rs::everything_comes_back_at_every_window_level_and_takeover"),
    ("--deflate-level", "tests/limits.rs::what_no_limit_can_be_is_refused"),
    ("--deflate-window", "tests/limits.rs::the_window_is_the_smaller_of_what_is_offered_and_the_limit"),
    ("--deflate-window", "tests/limits.rs::what_no_limit_can_be_is_refused"),
    ("--deflate-takeover", "tests/limits.rs::compression_is_for_those_who_offer_it_where_it_is_on"),
    ("--drain-grace", "src/net/drain.rs::everyone_is_told_once_in_order_and_evenly"),
    ("--drain-grace", "tests/drain.rs::after_the_grace_nobody_is_accepted"),
    ("--drain-grace", "tests/drain.rs::the_grace_is_kept_even_if_nobody_is_there"),
    ("--drain-spread", "src/net/drain.rs::everyone_is_told_once_in_order_and_evenly"),
    ("--drain-spread", "tests/drain.rs::a_thousand_clients_are_let_go_with_a_hint_and_lose_nothing"),
    ("--drain-timeout", "src/net/drain.rs::a_late_turn_makes_up_for_what_was_missed"),
    ("--drain-timeout", "tests/drain.rs::the_timeout_ends_it_whoever_is_left"),
    ("--drain-timeout", "tests/drain.rs::settings_that_cannot_be_kept_are_refused"),
    ("--drain-code", "tests/drain.rs::the_code_is_a_setting_and_the_state_can_be_asked_for"),
    ("--drain-code", "tests/limits.rs::what_no_limit_can_be_is_refused"),
    ("--drain-retry", "tests/drain.rs::settings_that_cannot_be_kept_are_refused"),
    ("--drain-retry", "src/net/drain.rs::hints_are_within_bounds_and_differ"),
];

#[test]
fn every_limit_that_is_printed_is_held_by_tests() {
    let output = run(wsd(&["--print-limits"]));
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    let flags: BTreeSet<_> = printed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(flags, HELD_BY.iter().map(|(flag, _)| *flag).collect());
    for (file, name) in HELD_BY.iter().filter_map(|(_, test)| test.split_once("::")) {
        let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(source.contains(&format!("fn {name}(")), "{file} has no test {name}");
    }
}

/// At both ends of what a flag takes, and one further.
#[test]
fn what_no_limit_can_be_is_refused() {
    for (flag, taken, refused) in [
        ("--deflate-level", ["1", "9"], ["0", "10"]),
        ("--deflate-window", ["9", "15"], ["8", "16"]),
        ("--deflate-takeover", ["on", "off"], ["", "yes"]),
        ("--control-rate", ["0", "1000"], ["-1", "1001"]),
        ("--message-rate", ["0", "1000000"], ["-1", "1000001"]),
        ("--accept-rate", ["0", "1000000"], ["-1", "1000001"]),
        ("--max-conns-per-ip", ["0", "4294967295"], ["-1", "4294967296"]),
        ("--max-age", ["0", "168h"], ["1", "169h"]),
        ("--max-headers", ["1", "128"], ["0", "129"]),
        ("--max-fragments", ["1", "4294967295"], ["0", "4294967296"]),
        ("--max-conns", ["1", "4294967295"], ["0", "4294967296"]),
        ("--backlog", ["1", "65535"], ["0", "65536"]),
        ("--drain-code", ["1000", "4999"], ["1004", "5000"]),
        ("--queue-soft", ["0", "1GiB"], ["-1", "2GiB"]),
        ("--queue-soft-time", ["1ms", "168h"], ["0", "169h"]),
        ("--queue-total", ["1%", "100%"], ["0%", "101%"]),
        ("--queue-total", ["0", "64GiB"], ["-1", "99999999999GiB"]),
    ] {
        for value in taken {
            let output = run(wsd(&["--print-limits", flag, value]));
            let printed = String::from_utf8(output.stdout).expect("UTF-8");
            let line =
                printed.lines().find(|line| line.split_whitespace().next() == Some(flag)).expect("its line");
            assert_eq!(line.split_whitespace().nth(1), Some(value), "{flag}");
        }
        for value in refused {
            let output = run(wsd(&["--print-limits", flag, value]));
            assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{flag} {value}");
        }
    }
}

/// While nobody accepts, the kernel takes as many connections as the backlog says, and one (listen(2) on Linux counts
/// those that wait while one is looked at).
#[test]
fn as_many_wait_to_be_accepted_as_the_backlog_says() {
    let program = Program::serve(&["--threads", "1", "--backlog", "4"]);
    let address = program.addresses()[0];
    // It is in its loop.
    program.open("/echo").close();
    program.signal(Signal::STOP);
    common::wait_until("every thread is stopped", || program.is_stopped());
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1));
    let waiting: Vec<_> = (0..10).map_while(|_| connect().ok()).collect();
    assert!((4..=5).contains(&waiting.len()), "{} wait", waiting.len());
    program.signal(Signal::CONT);
    program.open("/echo").close();
}

#[test]
fn what_the_system_gives_less_of_is_said() {
    let said = |flags: &[&str]| {
        let program = Program::serve(&[&["--threads", "1"], flags].concat());
        program.signal(Signal::INT);
        String::from_utf8(program.output().stderr).expect("UTF-8")
    };
    assert_eq!(said(&["--max-conns", "1", "--backlog", "1"]), "");
    let line = said(&["--max-conns", "4294967295", "--backlog", "1"]);
    assert!(line.contains("WARN") && line.contains("max_conns=4294967295 connections="), "{line}");
    let somaxconn = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("it can be asked");
    let somaxconn: u32 = somaxconn.trim().parse().expect("a number");
    assert_eq!(said(&["--backlog", &somaxconn.min(65_535).to_string()]), "");
    // The flag takes no more than that.
    if somaxconn < 65_535 {
        let line = said(&["--backlog", &(somaxconn + 1).to_string()]);
        let numbers = format!("backlog={} somaxconn={somaxconn}", somaxconn + 1);
        assert!(line.contains("WARN") && line.contains(&numbers), "{line}");
    }
}

#[test]
fn a_message_has_as_long_as_the_limit_says() {
    let timeout = Duration::from_millis(800);
    let server = Running::echo(Limits { assembly_timeout: timeout, ..calm() });
    // Half of the time is enough for half of a message, one after the other.
    let mut slow = server.open("/");
    let whole = text("slowly");
    let (mut heard, mut late) = (0, 0);
    while heard < 3 {
        let start = Instant::now();
        slow.send(&whole[..8]);
        slow.is_silent_for(timeout / 2);
        slow.send_to_whom_it_may_concern(&whole[8..]);
        let frame = slow.read_frame();
        if frame.opcode == CLOSE {
            // The machine took longer over it than the limit.
            assert!(
                start.elapsed() + Duration::from_millis(5) >= timeout,
                "{frame:?} after {:?}",
                start.elapsed()
            );
            (slow, late) = (server.open("/"), late + 1);
            assert!(late < 10, "the machine is too busy to say anything in {timeout:?}");
            continue;
        }
        assert_eq!((frame.opcode, frame.payload.as_slice()), (TEXT, &b"slowly"[..]));
        heard += 1;
    }
    slow.close();

    // Too slow, in a frame and between frames, and however lively it looks.
    for begun in [&whole[..8], &frame(TEXT, b"a")] {
        let mut client = server.open("/");
        let start = Instant::now();
        client.send(begun);
        // An empty fragment, or four bytes, each 100 ms.
        while client.is_silent_for(Duration::from_millis(100)) {
            assert!(start.elapsed() < PATIENCE, "nothing happens");
            if begun.len() != 8 {
                client.send_to_whom_it_may_concern(&frame(CONTINUATION, b""));
            }
        }
        let waited = start.elapsed();
        client.assert_fails_with(1008);
        assert!(waited + Duration::from_millis(5) >= timeout, "{waited:?}");
    }
    let metrics = server.finish();
    assert_eq!((metrics.messages_in, metrics.closed_unfinished), (3, 2 + late));
}

/// Sends `count` pings and a text, and gives how many pongs came before its echo.
#[track_caller]
fn pongs(client: &mut Client, count: usize) -> usize {
    let pings: Vec<u8> = (0..count).flat_map(|number| ping(&[number as u8])).collect();
    client.send([pings, text("end")].concat());
    for answered in 0.. {
        let answer = client.read_frame();
        if answer.opcode != PONG {
            assert_eq!(answer.payload, b"end");
            return answered;
        }
        assert_eq!(answer.payload, [answered as u8], "the first ones are answered, in order");
    }
    unreachable!("there is an end")
}

#[test]
fn f6_twenty_pings_at_once_are_answered_and_then_ten_each_second() {
    let server = Running::echo(Limits { control_rate: Limits::default().control_rate, ..calm() });
    let mut client = server.open("/");
    assert_eq!(pongs(&mut client, 20), 20, "at the limit");
    client.close();

    let mut client = server.open("/");
    let before = Instant::now();
    assert_eq!(pongs(&mut client, 21), 20, "and one more");
    let after = Instant::now();
    assert!(client.is_silent_for(Duration::from_millis(450)));
    let least = after.elapsed();
    let answered = pongs(&mut client, 50);
    let most = before.elapsed();
    // The clock of the server has milliseconds.
    let (least, most) = (least.as_millis().saturating_sub(2) / 100, (most.as_millis() + 2) / 100);
    // However long it was, there are never more than twenty.
    let least = least.min(20);
    assert!((least..=most).contains(&(answered as u128)), "{answered} not in {least}..={most}");
    client.close();
    assert_eq!(server.finish().pings_unanswered_rate, 1 + 50 - answered as u64);

    for (rate, sent, answered) in [(1, 3, 2), (0, 200, 200)] {
        let server = Running::echo(Limits { control_rate: rate, ..calm() });
        let mut client = server.open("/");
        assert_eq!(pongs(&mut client, sent), answered, "at a rate of {rate}");
        client.close();
        assert_eq!(server.finish().pings_unanswered_rate, (sent - answered) as u64);
    }
}

// --- compression ---

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";

/// What the server answers to an offer of extensions.
#[track_caller]
fn agreed(client: &mut Client, offer: &str) -> Option<String> {
    client.send(request_with("/echo", offer));
    let head = client.assert_upgraded();
    head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: ")).map(str::to_owned)
}

/// A message compressed by itself (RFC 7692 section 7.2.1).
fn compressed(payload: &[u8]) -> Vec<u8> {
    let mut stream = Compress::new(Compression::best(), false);
    let mut bytes = Vec::with_capacity(payload.len() / 500 + 1024);
    stream.compress_vec(payload, &mut bytes, FlushCompress::Sync).expect("a fresh stream");
    assert_eq!(stream.total_in(), payload.len() as u64, "there was room");
    bytes.truncate(bytes.len() - 4);
    bytes
}

const RSV1: u8 = 0x40;

#[test]
fn compression_is_for_those_who_offer_it_where_it_is_on() {
    let none: &[&str] = &[];
    let no_takeover = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    for (flags, answer) in [
        (none, None),
        (&["--deflate"], Some(no_takeover)),
        (&["--deflate", "--deflate-takeover", "off"], Some(no_takeover)),
        (&["--deflate", "--deflate-takeover", "on"], Some("permessage-deflate")),
    ] {
        let program = Program::serve(&[&["--threads", "1"], flags].concat());
        assert_eq!(agreed(&mut program.connect(), OFFER).as_deref(), answer, "{flags:?}");
        assert_eq!(agreed(&mut program.connect(), ""), None, "not offered");
        let mut client = program.connect();
        agreed(&mut client, OFFER);
        client.send(frame(FIN | RSV1 | BINARY, &compressed(b"hello")));
        if answer.is_some() {
            client.assert_binary(b"hello");
        } else {
            client.assert_fails_with(1002);
        }
    }
}

#[test]
fn the_window_is_the_smaller_of_what_is_offered_and_the_limit() {
    let deflate = Deflate { window_bits: 12, ..Deflate::default() };
    let server =
        Running::start(Server::builder().threads(1).limits(calm()).deflate(deflate).app(Echo::default));
    let start = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    for (parameter, answer) in [
        ("server_max_window_bits=11", Some("; server_max_window_bits=11")),
        ("server_max_window_bits=12", Some("; server_max_window_bits=12")),
        ("server_max_window_bits=13", Some("; server_max_window_bits=12")),
        ("server_max_window_bits=8", None),
        ("client_max_window_bits=11", Some("; server_max_window_bits=12; client_max_window_bits=11")),
        ("client_max_window_bits=13", Some("; server_max_window_bits=12; client_max_window_bits=12")),
        ("client_max_window_bits", Some("; server_max_window_bits=12; client_max_window_bits=12")),
    ] {
        let mut client = server.connect();
        let offer = format!("Sec-WebSocket-Extensions: permessage-deflate; {parameter}\r\n");
        let answer = answer.map(|rest| format!("{start}{rest}"));
        assert_eq!(agreed(&mut client, &offer), answer, "{parameter}");
        client.close();
    }
    server.finish();
}

#[test]
fn messages_are_compressed_from_the_limit_on() {
    for min_bytes in [1024, 100, 0] {
        let deflate = Deflate { min_bytes, ..Deflate::default() };
        let server =
            Running::start(Server::builder().threads(1).limits(calm()).deflate(deflate).app(Echo::default));
        for (len, first) in [(min_bytes, FIN | RSV1 | TEXT), (min_bytes.saturating_sub(1), FIN | TEXT)] {
            if len < 50 {
                // Too little to become less.
                continue;
            }
            let mut client = server.connect();
            assert!(agreed(&mut client, OFFER).is_some());
            client.send([text("x".repeat(len as usize)), close(1000, b"")].concat());
            assert_eq!(client.read_to_end()[0], first, "{len} bytes, from {min_bytes} on");
        }
        server.finish();
    }
}

/// Answers with the length of what came.
struct Measure;

impl App for Measure {
    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        cx.send(message.as_bytes().len().to_string());
    }
}

/// nats-server's CVE-2026-27571: little that becomes much.
#[test]
fn f4_a_bomb_stops_at_the_limit() {
    let max = 1 << 20;
    let limits = Limits { max_message: max as u32, ..calm() };
    for takeover in [false, true] {
        let deflate = Deflate { takeover, ..Deflate::default() };
        let builder = Server::builder().threads(1).limits(limits.clone()).deflate(deflate);
        let server = Running::start(builder.app(|| Measure));
        let open = || {
            let mut client = server.connect();
            assert!(agreed(&mut client, OFFER).is_some());
            client
        };
        let most = compressed(&vec![0; max]);
        assert!(most.len() * 1000 < max, "{} bytes", most.len());
        let mut client = open();
        for _ in 0..3 {
            client.send(frame(FIN | RSV1 | BINARY, &most));
            client.assert_text(&max.to_string());
        }
        let (one, two) = most.split_at(most.len() / 2);
        client.send(fragments(RSV1 | BINARY, &[one, b"", two]));
        client.assert_text(&max.to_string());
        client.close();

        for len in [max + 1, 2 * max, 64 * max] {
            let bomb = compressed(&vec![0; len]);
            let mut client = open();
            client.send_to_whom_it_may_concern(&frame(FIN | RSV1 | BINARY, &bomb));
            client.assert_fails_with(1009);
            let (one, two) = bomb.split_at(bomb.len() / 2);
            let mut client = open();
            client.send_to_whom_it_may_concern(&fragments(RSV1 | BINARY, &[one, two]));
            client.assert_fails_with(1009);
        }
        assert_eq!(server.finish().messages_in, 4);
    }
}

// --- memory ---

/// A `wsd` whose memory is measured.
struct Measured {
    child: Child,
    address: SocketAddr,
}

impl Measured {
    fn start(args: &[&str]) -> Self {
        let args = [&["--listen", "127.0.0.1:0", "--threads", "1"], args].concat();
        let mut child = wsd(&args).stdout(Stdio::piped()).spawn().expect("it can be started");
        let mut ready = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut ready).expect("readable");
        let address = ready.split([' ', ',']).find_map(|word| word.strip_prefix("http://")?.parse().ok());
        Self { child, address: address.expect("its line has an address") }
    }

    /// What it holds in memory of its own, in bytes.
    fn bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("proc(5)");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("proc(5)") * 1024
    }

    fn open(&self, offer: &str) -> Client {
        let mut client = Client::connect(self.address);
        agreed(&mut client, offer);
        client
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// ws's CVE-2026-48779 again: what fragments cost that carry little, and of which the last never comes.
#[test]
fn f3_an_unfinished_message_costs_at_most_twice_what_came() {
    let server = Measured::start(&["--max-message", "64MiB", "--max-fragments", "1000000", "--log", "off"]);
    for piece in [1, 1024, 64 * 1024] {
        let total: u64 = if piece == 1 { 200_000 } else { 16 << 20 };
        let mut bytes = frame(BINARY, &vec![1; piece]);
        bytes.extend(frame(CONTINUATION, &vec![2; piece]).repeat(total as usize / piece - 1));
        let mut client = server.open("");
        let before = server.bytes();
        // The pong says that all before it has been read.
        client.send([bytes.as_slice(), &ping(b"?")].concat());
        client.assert_pong(b"?");
        let grown = server.bytes().saturating_sub(before);
        assert!(grown <= 2 * bytes.len() as u64 + (1 << 20), "{grown} bytes for {} of {piece}", bytes.len());
        client.reset();
    }
}

/// What SECURITY.md says of those who have not got in yet.
#[test]
fn h4_a_connection_before_its_handshake_costs_little_more_than_it_sent() {
    raise_nofile().expect("up to the maximum");
    let server = Measured::start(&["--handshake-timeout", "1h", "--log", "off"]);
    server.open("").close();
    for sent in [1, 1000, 7000] {
        let head = [request("/").trim_end().as_bytes(), b"\r\nX: ", &[b'y'; 8000]].concat();
        let before = server.bytes();
        let clients: Vec<_> = (0..500)
            .map(|_| {
                let mut client = Client::connect(server.address);
                client.send(&head[..sent]);
                client
            })
            .collect();
        // Accepted after all of them.
        server.open("").close();
        let each = server.bytes().saturating_sub(before) / clients.len() as u64;
        assert!(each <= 1024 + 2 * sent as u64, "{each} bytes each for {sent} that were sent");
        clients.into_iter().for_each(Client::reset);
    }
}

/// nats-server's #5553: connections that had compressed something kept ten times the memory of others.
#[test]
fn f5_an_idle_connection_with_compression_costs_at_most_a_kibibyte_more() {
    const CLIENTS: u64 = 2000;
    raise_nofile().expect("up to the maximum");
    let message = "{\"a\":1}".repeat(300);
    let cost = |offer| {
        let server = Measured::start(&["--deflate", "--log", "off", "--ping-interval", "0"]);
        let talk = || {
            let mut client = server.open(offer);
            // Each inflates and, where it is compressed, deflates one message.
            client.send(if offer.is_empty() {
                text(&message)
            } else {
                frame(FIN | RSV1 | TEXT, &compressed(message.as_bytes()))
            });
            client
        };
        // Everything that there is once for all of them.
        let mut first = talk();
        assert!(!first.is_silent_for(PATIENCE));
        let before = server.bytes();
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| talk()).collect();
        assert!(clients.iter_mut().all(|client| !client.is_silent_for(PATIENCE)), "each has its answer");
        server.bytes().saturating_sub(before) / CLIENTS
    };
    let (plain, deflate) = (cost(""), cost(OFFER));
    assert!(plain > 0 && deflate <= plain + 1024, "{deflate} bytes each, and {plain} without compression");
}
