//! The client that the Autobahn test suite judges: `wsd::proto` in the client's role, over a blocking socket.
//!
//! `cargo run --example autobahn_client -- 127.0.0.1:9001` runs every case of a `wstest -m fuzzingserver` there;
//! `scripts/autobahn client` starts both and reads the verdicts. With `--deflate` it offers permessage-deflate.
//!
//! What is **not** here: a verdict, which is the suite's, and a way out for two ends that both write and never
//! read: a blocking socket has none, and the suite always reads.

use std::error::Error;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use wsd::config::Deflate;
use wsd::proto::deflate::{Agreed, Deflater, Inflater};
use wsd::proto::handshake::ClientRequest;
use wsd::proto::{
    Close, CloseCode, Decoder, Event, Message, MessageLimits, OpCode, ProtocolError, Role, Status, frame,
};

/// What the reports call us.
const AGENT: &str = "wsd";

/// The suite's largest message has 16 MiB, its most fragmented one 65,537 fragments.
const LIMITS: MessageLimits = MessageLimits { message_bytes_max: 16 << 20, fragments_max: 1 << 17 };

/// With takeover, which leaves to the suite what each of its cases is about; every echo is compressed.
const DEFLATE: Deflate = Deflate { min_bytes: 0, level: 1, window_bits: 15, takeover: true };

/// Silence that ends a connection. The longest is while the suite writes its reports.
const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes of one read, and more than a handshake's answer may have.
const READ_BYTES: usize = 64 * 1024;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (address, deflate) = match (arguments.next(), arguments.next().as_deref()) {
        (Some(address), None) => (address, None),
        (Some(address), Some("--deflate")) => (address, Some(&DEFLATE)),
        _ => {
            complain("usage: autobahn_client HOST:PORT [--deflate]");
            return ExitCode::from(2);
        }
    };
    match run_cases(&address, deflate) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("autobahn_client: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Asks how many cases there are, runs them one by one, and has the suite write its reports.
fn run_cases(address: &str, deflate: Option<&Deflate>) -> Result<(), Box<dyn Error>> {
    let mut cases: Option<u32> = None;
    converse(address, "/getCaseCount", None, |_, message| {
        cases = message.as_text().and_then(|text| text.parse().ok());
        Ok(())
    })?;
    for case in 1..=cases.ok_or("the suite did not say how many cases there are")? {
        let target = format!("/runCase?case={case}&agent={AGENT}");
        let echo = |sender: &mut Sender, message: &Message<'_>| sender.send_message(message);
        // Cases may well end in a dropped connection: that is for the suite to judge.
        if let Err(error) = converse(address, &target, deflate, echo) {
            complain(&format!("case number {case}: {error}"));
        }
    }
    converse(address, &format!("/updateReports?agent={AGENT}"), None, |_, _| Ok(()))
}

/// One connection from its handshake to its end.
///
/// # Errors
/// The server could not be reached, refused the handshake, or went away without a Close.
fn converse(
    address: &str,
    target: &str,
    deflate: Option<&Deflate>,
    mut on_message: impl FnMut(&mut Sender, &Message<'_>) -> io::Result<()>,
) -> Result<(), Box<dyn Error>> {
    let mut sender = Sender::connect(address)?;
    let mut input = vec![0; READ_BYTES];
    let (mut filled, agreed) = sender.upgrade(address, target, deflate, &mut input)?;
    let mut decoder = Decoder::new(Role::Client);
    let mut inflater = agreed.map(|agreed| {
        decoder.enable_deflate();
        Inflater::new(agreed.receive_window, agreed.receive_takeover)
    });
    loop {
        let mut at = 0;
        while at < filled {
            let step = decoder.decode(&mut input[at..filled], &LIMITS);
            let step = step.and_then(|(used, event)| Ok((used, inflate(event, inflater.as_mut())?)));
            let (used, event) = match step {
                Ok(step) => step,
                // Section 7.1.7: the Close says why, and whatever the server still sends is not looked at.
                Err(error) => {
                    sender.close(&error.to_close());
                    return Ok(());
                }
            };
            at += used;
            match event {
                Some(Event::Message(message)) => on_message(&mut sender, &message)?,
                Some(Event::Ping(payload)) => sender.send(OpCode::Pong, &payload)?,
                Some(Event::Close(close)) => {
                    let code = close.map_or(CloseCode::NO_STATUS, |close| close.code);
                    sender.close(&code.into());
                    return Ok(());
                }
                // No message is compressed any more.
                Some(Event::Pong(_) | Event::Compressed(_)) | None => {}
            }
        }
        filled = sender.stream.read(&mut input)?;
        if filled == 0 {
            return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
        }
    }
}

/// The event with its message as it was before it was compressed.
fn inflate<'a>(
    event: Option<Event<'a>>,
    inflater: Option<&mut Inflater>,
) -> Result<Option<Event<'a>>, ProtocolError> {
    match (event, inflater) {
        (Some(Event::Compressed(message)), Some(inflater)) => {
            Ok(Some(Event::Message(message.inflate(inflater, &LIMITS)?)))
        }
        (event, _) => Ok(event),
    }
}

/// The connection's outgoing side.
struct Sender {
    stream: TcpStream,
    /// Keyed by the system's randomness; hashes of a counter are nothing that a server could guess (10.3).
    random: RandomState,
    drawn: u64,
    /// Where permessage-deflate was agreed on.
    deflater: Option<Deflater>,
    /// The frame being sent, kept for its memory.
    out: Vec<u8>,
}

impl Sender {
    fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, random: RandomState::new(), drawn: 0, deflater: None, out: Vec::new() })
    }

    /// The opening handshake. Leaves in `input` what came after the answer, and says how many bytes.
    fn upgrade(
        &mut self,
        host: &str,
        target: &str,
        deflate: Option<&Deflate>,
        input: &mut [u8],
    ) -> Result<(usize, Option<Agreed>), Box<dyn Error>> {
        let nonce: Vec<u8> = [self.draw(), self.draw()].concat();
        let key = ClientRequest::key(nonce.try_into().expect("two times eight bytes"));
        let request =
            ClientRequest { host, target, key: &key, origin: None, subprotocols: &[], deflate, headers: &[] };
        request.encode(&mut self.out);
        self.stream.write_all(&self.out)?;
        let mut filled = 0;
        loop {
            match self.stream.read(&mut input[filled..])? {
                0 => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
                read => filled += read,
            }
            if let Status::Complete(upgraded) = request.parse_response(&input[..filled])? {
                input.copy_within(upgraded.head_len..filled, 0);
                self.deflater = upgraded
                    .deflate
                    .map(|agreed| Deflater::new(&DEFLATE, agreed.send_window, agreed.send_takeover));
                return Ok((filled - upgraded.head_len, upgraded.deflate));
            }
        }
    }

    /// Sends a message in one frame, compressed where that was agreed on.
    fn send_message(&mut self, message: &Message<'_>) -> io::Result<()> {
        let mask = self.draw_mask();
        let Some(deflater) = &mut self.deflater else {
            return self.send(message.opcode(), message.as_bytes());
        };
        self.out.clear();
        frame::encode_deflated(&mut self.out, message.opcode(), message.as_bytes(), Some(mask), deflater);
        self.stream.write_all(&self.out)
    }

    /// Sends one frame, with a fresh mask as section 5.3 asks.
    fn send(&mut self, opcode: OpCode, payload: &[u8]) -> io::Result<()> {
        let mask = self.draw_mask();
        self.out.clear();
        frame::encode(&mut self.out, opcode, payload, Some(mask));
        self.stream.write_all(&self.out)
    }

    /// Sends a Close and waits for the server to end the TCP connection, which is its part (section 7.1.1).
    fn close(&mut self, close: &Close) {
        // The server may be gone already, and then there is nothing left to do.
        let _ = self.send(OpCode::Close, &close.encode());
        let _ = io::copy(&mut self.stream, &mut io::sink());
    }

    fn draw_mask(&mut self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.draw();
        [a, b, c, d]
    }

    fn draw(&mut self) -> [u8; 8] {
        self.drawn += 1;
        self.random.hash_one(self.drawn).to_ne_bytes()
    }
}

fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
