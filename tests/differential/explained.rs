//! Where wsd and tungstenite may differ, each with its reason and an example in bytes. A predicate looks at the one
//! frame at which they part, by a reading of the stream that is neither's.

use crate::ends::{End, Outcome, run_tungstenite, run_wsd};
use crate::generator::Stream;

/// Why they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// wsd fails a length in more bytes than it takes ("the minimal number of bytes MUST be used", section 5.2);
    /// tungstenite takes it.
    LengthNotMinimal,
    /// The same frame is too big and breaks a rule of its header or of the sequence: wsd fails it for the rule, which it
    /// meets first (1002), tungstenite for the size (1009).
    TooBigAndWrong,
    /// A Close with a code that must not be sent and a reason that is no text: wsd looks at the code first (1002),
    /// tungstenite at the reason (1007).
    CodeAndReasonWrong,
    /// 1014 is in IANA's registry of close codes, but tungstenite does not know it.
    BadGateway,
    /// The stream ends within a frame that is wrong already: wsd fails it at the first wrong byte, as section 8.1 wants
    /// for text, tungstenite waits for its end.
    FrameNotWhole,
}

/// The reason for which the two outcomes differ, if there is a good one.
pub(crate) fn explain(stream: &Stream, ours: &Outcome, theirs: &Outcome) -> Option<Reason> {
    let frames = frames(&stream.bytes);
    let (at, their_at) =
        (fault(stream, &frames, run_wsd, ours), fault(stream, &frames, run_tungstenite, theirs));
    let frame = frames.get(at?)?;
    // They have to agree on everything up to this frame.
    let theirs_goes_on = theirs.messages.starts_with(&ours.messages) && theirs.pongs.starts_with(&ours.pongs);
    if their_at.is_some_and(|their_at| Some(their_at) < at) || !theirs_goes_on {
        return None;
    }
    let same_frame = their_at == at && theirs.messages == ours.messages && theirs.pongs == ours.pongs;
    let reason = match (ours.end, theirs.end) {
        (End::Failed(1002), _) if frame.whole_header && !frame.is_minimal() => Reason::LengthNotMinimal,
        (End::Failed(1002), End::Failed(1009))
            if same_frame && frame.len > u64::from(stream.message_bytes_max) =>
        {
            Reason::TooBigAndWrong
        }
        (End::Failed(1002), End::Failed(1007))
            if same_frame && frame.opcode() == 8 && frame.close_is_wrong_twice() =>
        {
            Reason::CodeAndReasonWrong
        }
        (End::Closed(1014), End::Failed(1002)) if frame.opcode() == 8 => Reason::BadGateway,
        (End::Failed(_), End::Open)
            if !frame.whole && theirs.messages == ours.messages && theirs.pongs == ours.pongs =>
        {
            Reason::FrameNotWhole
        }
        _ => return None,
    };
    Some(reason)
}

/// The number of the frame at which an end left the open state: the one with the last byte that it needed.
fn fault(
    stream: &Stream,
    frames: &[Frame],
    run: impl Fn(&Stream) -> Outcome,
    whole: &Outcome,
) -> Option<usize> {
    if whole.end == End::Open {
        return None;
    }
    // The shortest beginning of the stream that ends it: it stays ended with every longer one.
    let ended = |len: &usize| {
        let bytes = stream.bytes[..*len].to_vec();
        run(&Stream { bytes, ..stream.clone() }).end != End::Open
    };
    let lens: Vec<usize> = (0..=stream.bytes.len()).collect();
    let needed = lens.partition_point(|len| !ended(len));
    frames.iter().position(|frame| needed <= frame.end)
}

/// A frame as section 5.2 draws it, sound or not.
#[derive(Debug)]
struct Frame {
    first: u8,
    /// Bytes of extended length.
    form: usize,
    len: u64,
    payload: Vec<u8>,
    /// Where it would end, or the stream does.
    end: usize,
    whole_header: bool,
    whole: bool,
}

impl Frame {
    fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    fn is_minimal(&self) -> bool {
        match self.form {
            0 => true,
            2 => self.len > 125,
            _ => self.len > 0xffff,
        }
    }

    fn close_is_wrong_twice(&self) -> bool {
        let Some((code, reason)) = self.payload.split_first_chunk::<2>() else { return false };
        let allowed = matches!(u16::from_be_bytes(*code), 1000..=1003 | 1007..=1014 | 3000..=4999);
        !allowed && std::str::from_utf8(reason).is_err()
    }
}

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let second = rest.get(1).copied().unwrap_or(0);
        let form = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask_len = if second & 0x80 != 0 { 4 } else { 0 };
        let extended =
            rest.get(2..2 + form).unwrap_or(&[]).iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let len = if form == 0 { u64::from(second & 0x7f) } else { extended };
        let head = 2 + form + mask_len;
        let mask = rest.get(2 + form..head).unwrap_or(&[]);
        let end = usize::try_from(len).map_or(usize::MAX, |len| len.saturating_add(head));
        let masked = rest.get(head..end.min(rest.len())).unwrap_or(&[]);
        let payload =
            masked.iter().enumerate().map(|(at, byte)| byte ^ mask.get(at % 4).unwrap_or(&0)).collect();
        frames.push(Frame {
            first: rest[0],
            form,
            len,
            payload,
            end: at.saturating_add(end).min(bytes.len()),
            whole_header: rest.len() >= 2 + form,
            whole: rest.len() >= end,
        });
        at = at.saturating_add(end);
    }
    frames
}

#[test]
fn each_reason_has_its_bytes() {
    let cases: [(Reason, &[u8]); 8] = [
        (Reason::LengthNotMinimal, b"\x82\xfe\x00\x01\0\0\0\0a"),
        (Reason::LengthNotMinimal, b"\x89\xfe\x00\x01\0\0\0\0a"),
        (Reason::LengthNotMinimal, b"\x82\xff\0\0\0\0\0\0\0\x01\0\0\0\0a"),
        (Reason::TooBigAndWrong, b"\xc2\xfe\x01\xf4\0\0\0\0"),
        (Reason::TooBigAndWrong, b"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0"),
        (Reason::CodeAndReasonWrong, b"\x88\x83\0\0\0\0\0\0\xff"),
        (Reason::BadGateway, b"\x88\x82\0\0\0\0\x03\xf6"),
        (Reason::FrameNotWhole, b"\x81\x82\0\0\0\0\xff"),
    ];
    for (reason, bytes) in cases {
        let stream = Stream { bytes: bytes.to_vec(), cuts: vec![5], message_bytes_max: 300 };
        let (ours, theirs) = (run_wsd(&stream), run_tungstenite(&stream));
        assert_ne!(ours, theirs, "{reason:?} has become needless");
        assert_eq!(explain(&stream, &ours, &theirs), Some(reason), "{bytes:02x?}: {ours:?}, {theirs:?}");
    }
}
