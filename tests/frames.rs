//! What a peer can do wrong after the handshake, in one write and byte by byte.

mod common;

use std::time::{Duration, Instant};

use common::{
    BINARY, CLOSE, CONTINUATION, Client, FIN, MASK, PATIENCE, PING, PONG, Running, TEXT, binary, calm, close,
    fragments, frame, header, ping, request, text,
};
use wsd::{App, CloseCode, Context, Limits, Message};

/// Sends `bytes` to an echo in one write, then byte by byte, and expects the connection to be failed with `code`
/// and nothing to be said before.
#[track_caller]
fn assert_fails(server: &Running, what: &str, bytes: impl AsRef<[u8]>, code: u16) {
    let bytes = bytes.as_ref();
    for piece in [bytes.len(), 1] {
        let mut client = server.open("/");
        client.send_in_pieces(bytes, piece);
        let frame = client.read_frame();
        let said = frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        assert_eq!((frame.opcode, said), (CLOSE, Some(code)), "{what}, in pieces of {piece}");
        client.assert_eof();
    }
}

/// Sends `bytes` in one write, then byte by byte, and expects these texts, then nothing.
#[track_caller]
fn assert_echoes(server: &Running, bytes: impl AsRef<[u8]>, texts: &[&str]) {
    let bytes = bytes.as_ref();
    for piece in [bytes.len(), 1] {
        let mut client = server.open("/");
        client.send_in_pieces(bytes, piece);
        for text in texts {
            client.assert_text(text);
        }
        client.close();
    }
}

/// Lengths that a server used to add to, allocate or index with (nats-server's CVE-2026-27889, gorilla's
/// CVE-2020-27813, Tomcat's CVE-2020-13935): refused at the header, before a byte is kept.
#[test]
fn f1_lengths_that_are_no_lengths() {
    let server = Running::echo(Limits { max_message: u32::MAX, ..calm() });
    let cases: [(&str, &[u8]); 8] = [
        ("the highest bit set", b"\x82\xff\x80\0\0\0\0\0\0\0"),
        ("all bits set", b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("the highest bit set, on a continuation", b"\x02\x81\0\0\0\0A\x80\xff\x80\0\0\0\0\0\0\x01"),
        ("125 in 16 bits", b"\x82\xfe\x00\x7d"),
        ("0 in 16 bits", b"\x82\xfe\x00\x00"),
        ("65,535 in 64 bits", b"\x82\xff\0\0\0\0\0\0\xff\xff"),
        ("0 in 64 bits", b"\x82\xff\0\0\0\0\0\0\0\0"),
        ("non-minimal text", b"\x81\xfe\x00\x05\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"),
    ];
    for (what, bytes) in cases {
        assert_fails(&server, what, bytes, 1002);
    }
    // Sound lengths, but over what a connection can ever hold.
    assert_fails(&server, "63 bits", header(FIN | BINARY, u64::MAX >> 1), 1009);
    assert_fails(&server, "32 bits and one", header(FIN | BINARY, 1 << 32), 1009);
    let metrics = server.finish();
    assert_eq!((metrics.closed_protocol, metrics.messages_in), (20, 0));
}

/// A first fragment near the limit and a continuation that would overflow the sum.
#[test]
fn f1_the_sum_of_lengths_does_not_overflow() {
    let server = Running::echo(calm());
    let mut bytes = frame(TEXT, b"Hello");
    bytes.extend(header(FIN | CONTINUATION, u64::MAX >> 1));
    assert_fails(&server, "5 + 63 bits", bytes, 1009);
    server.finish();
}

/// ws's CVE-2016-10542: a message over the limit is refused at its header, not when its bytes have come.
#[test]
fn f2_a_message_over_the_limit_is_refused_at_its_header() {
    let server = Running::echo(Limits { max_message: 1000, ..calm() });
    let most = "x".repeat(1000);
    assert_echoes(&server, text(&most), &[&most]);
    assert_echoes(&server, fragments(TEXT, &[&[b'x'; 400], &[b'x'; 600]]), &[&most]);
    assert_fails(&server, "limit and one", header(FIN | TEXT, 1001), 1009);
    assert_fails(&server, "limit and one, not the last", header(BINARY, 1001), 1009);
    let mut sum = frame(TEXT, &[b'x'; 400]);
    sum.extend(header(FIN | CONTINUATION, 601));
    assert_fails(&server, "400 + 601", sum, 1009);
    // What follows such a header is thrown away, however much it is.
    let mut client = server.open("/");
    client.send_to_whom_it_may_concern(&binary(&vec![0; 4 << 20]));
    client.assert_fails_with(1009);
    server.finish();
}

#[test]
fn f2_the_default_limit_is_a_mebibyte() {
    let server = Running::echo(calm());
    let mut client = server.open("/");
    let most = vec![0xA5; 1 << 20];
    client.send(binary(&most));
    client.assert_binary(&most);
    client.send(header(FIN | BINARY, (1 << 20) + 1));
    client.assert_fails_with(1009);
    server.finish();
}

/// ws's CVE-2026-48779: fragments that carry next to nothing and never end.
#[test]
fn f3_fragments_up_to_the_limit_and_one_more() {
    let server = Running::echo(Limits { max_fragments: 16, ..calm() });
    let pieces = [&b"y"[..]; 16];
    assert_echoes(&server, fragments(TEXT, &pieces), &["yyyyyyyyyyyyyyyy"]);
    // The count is per message.
    let twice = [fragments(TEXT, &pieces), fragments(TEXT, &pieces)].concat();
    assert_echoes(&server, twice, &["yyyyyyyyyyyyyyyy"; 2]);
    assert_fails(&server, "17 fragments", fragments(TEXT, &[&b"y"[..]; 17]), 1008);
    assert_fails(&server, "17 empty fragments", fragments(BINARY, &[&b""[..]; 17]), 1008);
    server.finish();
}

#[test]
fn f3_empty_fragments_without_an_end() {
    let server = Running::echo(calm());
    let mut endless = frame(TEXT, b"");
    endless.extend(frame(CONTINUATION, b"").repeat(100_000));
    let mut client = server.open("/");
    client.send_to_whom_it_may_concern(&endless);
    client.assert_fails_with(1008);
    // The same number with pings between them, which are not fragments.
    let mut mixed = frame(TEXT, b"");
    mixed.extend([frame(CONTINUATION, b""), ping(b"")].concat().repeat(1022));
    mixed.extend(frame(FIN | CONTINUATION, b"end"));
    let mut client = server.open("/");
    client.send(&mixed);
    (0..1022).for_each(|_| client.assert_pong(b""));
    client.assert_text("end");
    client.close();
    server.finish();
}

/// As slow as a peer may like: the time for a message is absolute.
#[test]
fn f3_a_message_that_never_ends() {
    let timeout = Duration::from_millis(300);
    let server = Running::echo(Limits { assembly_timeout: timeout, max_fragments: 1 << 20, ..calm() });
    let mut trickles = server.open("/");
    let mut stops = server.open("/");
    let start = Instant::now();
    stops.send(header(FIN | BINARY, 1000));
    trickles.send(frame(TEXT, b"x"));
    while trickles.is_silent_for(Duration::from_millis(20)) {
        trickles.send_to_whom_it_may_concern(&frame(CONTINUATION, b"x"));
    }
    assert!(start.elapsed() + Duration::from_millis(5) >= timeout, "{:?}", start.elapsed());
    trickles.assert_fails_with(1008);
    stops.assert_fails_with(1008);
    assert_eq!(server.finish().closed_unfinished, 2);
}

#[test]
fn f6_pings_over_the_rate_are_not_answered() {
    let server = Running::echo(Limits { control_rate: 5, ..calm() });
    let mut client = server.open("/");
    let start = Instant::now();
    client.send([(0..100).flat_map(|number| ping(&[number])).collect(), text("end")].concat());
    let mut answered = 0;
    loop {
        let frame = client.read_frame();
        match frame.opcode {
            PONG if answered < 10 => {
                assert_eq!(frame.payload, [answered], "twice the rate is answered at once")
            }
            PONG => {}
            _ => break assert_eq!(frame.payload, b"end"),
        }
        answered += 1;
    }
    let later = start.elapsed().as_millis() / 200 + 1;
    assert!((10..=10 + later).contains(&u128::from(answered)), "{answered} in {:?}", start.elapsed());
    client.close();
    assert_eq!(server.finish().pings_unanswered_rate, 100 - u64::from(answered));
}

/// Undertow's CVE-2021-3690: pings whose pongs nobody reads.
#[test]
fn f6_a_ping_flood_whose_pongs_are_not_read() {
    let server = Running::echo(calm());
    let flood: Vec<u8> =
        (0..40_000u32).flat_map(|number| ping(&[&number.to_be_bytes()[..], &[0; 100]].concat())).collect();
    let mut client = Client::open_small(server.address, "/");
    let sent = client.send_until_blocked(&flood, Duration::from_millis(300));
    server.wait("pongs wait", |metrics| metrics.queued_bytes > 0);
    // The answers to one read, which nobody knew then to be too much; after that, the newest alone.
    server.assert_stays("few pongs wait", Duration::from_millis(200), |metrics| {
        metrics.queued_bytes <= 64 * 1024
    });

    client.widen();
    // Whoever reads again is answered, in order, up to the last ping that came whole.
    let last = (sent / 110) as u32 - 1;
    let (mut newest, mut answered) = (None, 0);
    while newest < Some(last) {
        let pong = client.read_frame();
        let number = pong.payload.first_chunk().map(|number| u32::from_be_bytes(*number));
        assert_eq!(pong.opcode, PONG);
        assert!(number > newest, "{number:?} after {newest:?}");
        newest = number;
        answered += 1;
    }
    assert_eq!(newest, Some(last));
    drop(client);
    let metrics = server.finish();
    assert_eq!(metrics.closed_lost, 1);
    assert_eq!(metrics.pings_unanswered_superseded, u64::from(last) + 1 - answered, "the others are counted");
}

#[test]
fn f7_control_frames_are_whole_short_and_known() {
    let server = Running::echo(calm());
    for opcode in [CLOSE, PING, PONG] {
        assert_fails(&server, "fragmented control", frame(opcode, b""), 1002);
        assert_fails(&server, "126 bytes of control", frame(FIN | opcode, &[0; 126]), 1002);
        assert_fails(&server, "control of 64-bit length", frame(FIN | opcode, &[0; 70_000]), 1002);
    }
    for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        assert_fails(&server, "reserved opcode", frame(FIN | opcode, b""), 1002);
        assert_fails(&server, "reserved opcode, not the last", frame(opcode, b"x"), 1002);
    }
    for bits in [0x10, 0x20, 0x40, 0x50, 0x70] {
        for opcode in [TEXT, BINARY, PING, PONG, CLOSE] {
            assert_fails(&server, "reserved bits", frame(FIN | bits | opcode, b"\x03\xe8"), 1002);
        }
    }
    server.finish();
}

#[test]
fn f7_fragments_out_of_order() {
    let server = Running::echo(calm());
    assert_fails(&server, "stray continuation", frame(CONTINUATION, b"x"), 1002);
    assert_fails(&server, "stray last continuation", frame(FIN | CONTINUATION, b"x"), 1002);
    let whole_then_stray = [text("a"), frame(FIN | CONTINUATION, b"x")].concat();
    let mut client = server.open("/");
    client.send(&whole_then_stray);
    client.assert_text("a");
    client.assert_fails_with(1002);
    for second in [TEXT, BINARY, FIN | TEXT, FIN | BINARY] {
        assert_fails(&server, "interleaved", [frame(TEXT, b"a"), frame(second, b"b")].concat(), 1002);
    }
    let with_controls = [frame(TEXT, b"a"), frame(FIN | PONG, b""), frame(FIN | CONTINUATION, b"b")].concat();
    assert_echoes(&server, with_controls, &["ab"]);
    server.finish();
}

#[test]
fn f8_an_unmasked_frame() {
    let server = Running::echo(calm());
    for bytes in [&b"\x81\x05Hello"[..], b"\x82\x00", b"\x89\x00", b"\x88\x02\x03\xe8", b"\x81\x7e\x01\x00"] {
        assert_fails(&server, "unmasked", bytes, 1002);
    }
    // Masked with nothing is masked.
    assert_echoes(&server, b"\x81\x85\0\0\0\0Hello", &["Hello"]);
    server.finish();
}

/// Bytes that cannot be UTF-8, in the places where they are found at different times.
#[test]
fn f9_text_that_is_not_utf8() {
    let server = Running::echo(calm());
    let bad: [&[u8]; 9] = [
        b"\xff",
        b"\x80",
        b"a\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        // Sound so far, but it ends in the middle.
        b"\xce",
        b"ok \xf0\x9f\x98",
    ];
    for payload in bad {
        assert_fails(&server, "whole", frame(FIN | TEXT, payload), 1007);
        assert_fails(&server, "second fragment", fragments(TEXT, &[b"ok", payload]), 1007);
        for cut in 1..payload.len() {
            let (one, two) = payload.split_at(cut);
            assert_fails(&server, "cut by fragments", fragments(TEXT, &[one, two]), 1007);
            assert_fails(&server, "with nothing between", fragments(TEXT, &[one, b"", two]), 1007);
        }
    }
    assert_eq!(server.finish().messages_in, 0);
}

/// As soon as the bytes are impossible: no more of the frame, or of the message, has to come.
#[test]
fn f9_the_connection_fails_inside_the_frame() {
    let server = Running::echo(calm());
    let greek = "κόσμε".as_bytes();
    for impossible in [&b"\xed\xa0"[..], b"\xf4\x90", b"\xff", b"\xc3\x28"] {
        let begun = [greek, impossible].concat();
        for piece in [64, 1] {
            // A frame of 1,000 bytes of which few have come.
            let mut client = server.open("/");
            let masked = begun.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask);
            client.send_in_pieces(
                &header(FIN | TEXT, 1000).into_iter().chain(masked).collect::<Vec<_>>(),
                piece,
            );
            client.assert_fails_with(1007);
            // A whole fragment that is not the last.
            let mut client = server.open("/");
            client.send_in_pieces(&frame(TEXT, &begun), piece);
            client.assert_fails_with(1007);
        }
    }
    server.finish();
}

#[test]
fn f9_characters_may_be_cut_anywhere() {
    let server = Running::echo(calm());
    let word = "aκ€😀z";
    for cut in 0..word.len() {
        let (one, two) = word.as_bytes().split_at(cut);
        assert_echoes(&server, fragments(TEXT, &[one, b"", two]), &[word]);
    }
    // Binary may be anything.
    let mut client = server.open("/");
    client.send(fragments(BINARY, &[b"\xff", b"\xc0"]));
    client.assert_binary(b"\xff\xc0");
    client.close();
    server.finish();
}

#[test]
fn f10_closes_that_are_none() {
    let server = Running::echo(calm());
    assert_fails(&server, "one byte", frame(FIN | CLOSE, b"\x03"), 1002);
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        assert_fails(&server, &format!("code {code}"), close(code, b""), 1002);
        assert_fails(&server, &format!("code {code} with a reason"), close(code, b"because"), 1002);
    }
    for reason in [&b"\xff"[..], b"\xce\xba\xe1", b"\xed\xa0\x80"] {
        assert_fails(&server, "reason", close(1000, reason), 1007);
    }
    server.finish();
}

#[test]
fn f10_sound_closes_are_echoed() {
    let server = Running::echo(calm());
    let longest = [b'r'; 123];
    for code in
        [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
    {
        for reason in [&b""[..], "κόσμε".as_bytes(), &longest] {
            assert_fails(&server, "a sound close", close(code, reason), code);
        }
    }
    let mut client = server.open("/");
    client.send(frame(FIN | CLOSE, b""));
    let answer = client.read_frame();
    assert_eq!((answer.opcode, answer.payload), (CLOSE, vec![]), "no code is answered with no code");
    client.assert_eof();
    assert_eq!(server.finish().closed_by_peer, 97);
}

/// Closes the connection at the word `close`, and counts on nothing in return.
struct Closer;

impl App for Closer {
    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        if message.as_text() == Some("close") {
            cx.close(CloseCode::new(4001).expect("ours to use"), "enough");
        } else {
            cx.send(message);
        }
    }
}

#[test]
fn f10_a_close_that_is_never_answered() {
    let timeout = Duration::from_millis(300);
    let server = Running::app(1, Limits { close_timeout: timeout, ..calm() }, || Closer);
    let mut client = server.open("/");
    let start = Instant::now();
    client.send(text("close"));
    assert_eq!(client.assert_close(4001), "enough");
    // Not even by whoever goes on talking.
    while client.is_silent_for(Duration::from_millis(20)) {
        assert!(start.elapsed() < PATIENCE, "it goes on listening");
        client.send_to_whom_it_may_concern(&text("and another thing"));
    }
    client.assert_eof();
    let waited = start.elapsed();
    assert!(waited + Duration::from_millis(5) >= timeout, "{waited:?}");

    // The same after a mistake: our side has ended, the peer does not end its own.
    let mut client = server.open("/");
    client.send(b"\xff");
    client.assert_close(1002);
    client.assert_eof();
    let metrics = server.wait("both are cut", |metrics| metrics.connections == 0);
    assert_eq!((metrics.closing_timed_out, metrics.messages_in), (2, 1));
    server.finish();
}

#[test]
fn f10_nothing_counts_after_a_close() {
    let server = Running::echo(calm());
    for piece in [1 << 16, 1] {
        let mut client = server.open("/");
        let bytes =
            [text("before"), close(1000, b""), text("after"), ping(b""), b"\xff\xff\xff".to_vec()].concat();
        client.send_in_pieces(&bytes, piece);
        client.assert_text("before");
        client.assert_close(1000);
        client.assert_eof();
    }
    let metrics = server.finish();
    assert_eq!((metrics.messages_in, metrics.closed_by_peer, metrics.closed_protocol), (2, 2, 0));
}

/// After our own Close the peer's data does not count, its mistakes change nothing, and its Close ends it.
#[test]
fn f10_what_comes_between_our_close_and_theirs() {
    let server = Running::app(1, calm(), || Closer);
    let mut client = server.open("/");
    client.send([text("close"), text("more"), ping(b""), fragments(BINARY, &[b"a", b"b"])].concat());
    client.assert_closes_with(4001);
    let mut client = server.open("/");
    client.send([text("close"), b"\xff".to_vec()].concat());
    client.assert_fails_with(4001);
    let metrics = server.finish();
    assert_eq!((metrics.messages_in, metrics.closed_by_server, metrics.closed_protocol), (2, 2, 0));
    assert_eq!((metrics.messages_ignored, metrics.pings_unanswered_closing), (2, 1), "nothing goes unseen");
}

#[test]
fn what_was_queued_goes_out_before_the_failing_close() {
    let server = Running::echo(calm());
    for piece in [1 << 16, 1] {
        let mut client = server.open("/");
        client.send_in_pieces(&[text("a"), ping(b"b"), text("c"), frame(FIN | 3, b"")].concat(), piece);
        client.assert_text("a");
        client.assert_pong(b"b");
        client.assert_text("c");
        client.assert_fails_with(1002);
    }
    // With more than the kernel takes at once in front of it.
    let large = vec![7; 1 << 20];
    let mut client = Client::open_small(server.address, "/");
    client.send([binary(&large), frame(FIN | 3, b"")].concat());
    server.wait("it waits", |metrics| metrics.queued_bytes > 0);
    client.widen();
    client.assert_binary(&large);
    client.assert_fails_with(1002);
    assert_eq!(server.finish().delivered, 5);
}

/// Any number of frames in one segment, any number of segments in one frame.
#[test]
fn the_cuts_of_the_stream_make_no_difference() {
    let server = Running::echo(calm());
    let mut bytes = request("/").into_bytes();
    for number in 0..20usize {
        bytes.extend(fragments(TEXT, &["é".as_bytes(), &b"x".repeat(number * 20), "€".as_bytes()]));
        bytes.extend(ping(&[number as u8]));
    }
    for piece in [1, 2, 3, 5, 7, 64, 1000, bytes.len()] {
        let mut client = server.connect();
        client.send_in_pieces(&bytes, piece);
        client.assert_upgraded();
        for number in 0..20usize {
            client.assert_text(&format!("é{}€", "x".repeat(number * 20)));
            client.assert_pong(&[number as u8]);
        }
        client.close();
    }
    let metrics = server.finish();
    assert_eq!((metrics.messages_in, metrics.delivered), (160, 160));
}
