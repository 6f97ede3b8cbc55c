//! What happened, as a running hash over every input and output, and as a line per event for people.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::net::SocketAddr;

use tidings::effect::{Datagram, Input, Outbox, Reply, Request};
use tidings::time::Time;
use xxhash_rust::xxh3::Xxh3;

/// Everything that was told to nodes and that they wanted done, in order.
///
/// Two runs with equal hashes had equal inputs and outputs, up to chance (64 bits).
pub struct Trace {
    hasher: Xxh3,
    lines: Option<Box<dyn Write + Send>>,
    /// The last event's text, kept for its capacity.
    text: String,
}

impl Trace {
    /// A trace that only hashes.
    pub fn new() -> Self {
        Self { hasher: Xxh3::new(), lines: None, text: String::new() }
    }

    /// From now on writes a line per event. A sink that fails (a closed pipe) is dropped, the run goes on.
    pub fn write_lines(&mut self, sink: Box<dyn Write + Send>) {
        self.lines = Some(sink);
    }

    /// The hash over everything so far.
    pub fn hash(&self) -> u64 {
        self.hasher.digest()
    }

    /// Notes what `host` is told.
    pub fn input(&mut self, now: Time, host: usize, input: &Input<'_>) {
        match input {
            Input::Wake => self.note(now, host, Kind::Wake, About::Nothing, &[]),
            Input::Datagram { from, bytes } => self.note(now, host, Kind::Datagram, About::Addr(*from, None), bytes),
            Input::Request { from, token, bytes } => {
                self.note(now, host, Kind::Request, About::Addr(*from, Some(*token)), bytes);
            }
            Input::Response { token, result: Ok(bytes) } => {
                self.note(now, host, Kind::Response, About::Token(*token), bytes);
            }
            Input::Response { token, result: Err(failure) } => {
                self.note(now, host, Kind::Failure, About::Text(format_args!("{token} {failure}")), &[]);
            }
            other => self.note(now, host, Kind::Told, About::Text(format_args!("{other:?}")), &[]),
        }
    }

    /// Notes what `host` wants done.
    pub fn outbox(&mut self, now: Time, host: usize, out: &Outbox) {
        for Datagram { to, bytes, .. } in &out.datagrams {
            self.note(now, host, Kind::SendDatagram, About::Addr(*to, None), bytes);
        }
        for Request { token, to, bytes } in &out.requests {
            self.note(now, host, Kind::SendRequest, About::Text(format_args!("{to} {token}")), bytes);
        }
        for Reply { token, bytes } in &out.replies {
            let bytes = bytes.as_deref().unwrap_or_default();
            self.note(now, host, Kind::SendReply, About::Token(*token), bytes);
        }
        for event in &out.events {
            self.note(now, host, Kind::Event, About::Text(format_args!("{event:?}")), &[]);
        }
    }

    /// Notes what the experiment does to the world, such as a split.
    pub fn fault(&mut self, now: Time, what: &str) {
        self.note(now, usize::MAX, Kind::Fault, About::Text(format_args!("{what}")), &[]);
    }

    fn note(&mut self, now: Time, host: usize, kind: Kind, about: About<'_>, bytes: &[u8]) {
        self.text.clear();
        let numbers = match about {
            // Most of what happens: put as numbers, for writing them out took a tenth of all time.
            About::Addr(SocketAddr::V4(addr), token) => {
                [u64::from(addr.ip().to_bits()) << 16 | u64::from(addr.port()), token.unwrap_or(u64::MAX)]
            }
            About::Token(token) => [0, token],
            About::Nothing => [0, 0],
            About::Text(_) | About::Addr(SocketAddr::V6(_), _) => {
                write!(self.text, "{about}").expect("writing to a string does not fail");
                [u64::MAX, 0]
            }
        };
        let mut head = [0; 49];
        let numbers = [now.as_nanos(), host as u64, numbers[0], numbers[1], self.text.len() as u64, bytes.len() as u64];
        for (place, number) in head.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        head[48] = kind as u8;
        self.hasher.update(&head);
        self.hasher.update(self.text.as_bytes());
        self.hasher.update(bytes);
        if let Some(lines) = &mut self.lines {
            let who: &dyn fmt::Display = if host == usize::MAX { &"world" } else { &host };
            let written = writeln!(lines, "{} {who:>5} {kind:?} {}B {about}", Clock(now), bytes.len());
            if written.is_err() {
                self.lines = None;
            }
        }
    }
}

/// What an event is about, beside its bytes.
#[derive(Clone, Copy)]
enum About<'a> {
    Nothing,
    Addr(SocketAddr, Option<u64>),
    Token(u64),
    Text(fmt::Arguments<'a>),
}

impl fmt::Display for About<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Addr(addr, None) => write!(f, "{addr}"),
            Self::Addr(addr, Some(token)) => write!(f, "{addr} {token}"),
            Self::Token(token) => write!(f, "{token}"),
            Self::Text(text) => write!(f, "{text}"),
        }
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({:016x})", self.hash())
    }
}

/// A moment as a person reads it: seconds and microseconds since the start of the world.
#[derive(Clone, Copy, Debug)]
pub struct Clock(pub Time);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.since(Time::ZERO);
        write!(f, "{}.{:06}s", since.as_secs(), since.subsec_micros())
    }
}

#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Kind {
    Wake,
    Datagram,
    Request,
    Response,
    Failure,
    Told,
    SendDatagram,
    SendRequest,
    SendReply,
    Event,
    Fault,
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn hash_of(inputs: &[(u64, usize, Input<'_>)]) -> u64 {
        let mut trace = Trace::new();
        for (nanos, host, input) in inputs {
            trace.input(Time::from_nanos(*nanos), *host, input);
        }
        trace.hash()
    }

    fn datagram(bytes: &[u8]) -> Input<'_> {
        Input::Datagram { from: ([10, 0, 0, 1], 7900).into(), bytes }
    }

    #[test]
    fn equal_inputs_give_equal_hashes_and_every_difference_shows() {
        let base = hash_of(&[(1, 0, datagram(b"ab")), (2, 1, Input::Wake)]);
        assert_eq!(base, hash_of(&[(1, 0, datagram(b"ab")), (2, 1, Input::Wake)]));
        for other in [
            hash_of(&[(1, 0, datagram(b"ac")), (2, 1, Input::Wake)]),
            hash_of(&[(1, 0, datagram(b"ab")), (3, 1, Input::Wake)]),
            hash_of(&[(1, 1, datagram(b"ab")), (2, 1, Input::Wake)]),
            hash_of(&[(2, 1, Input::Wake), (1, 0, datagram(b"ab"))]),
            hash_of(&[(1, 0, datagram(b"ab")), (2, 1, Input::Leave)]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no test holds it while panicking").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_tells_when_where_what_and_how_much() {
        let page = Page::default();
        let mut trace = Trace::new();
        trace.write_lines(Box::new(page.clone()));
        trace.input(Time::from_nanos(1_500_000_000), 3, &datagram(b"abc"));
        let text = page.0.lock().expect("as above").clone();
        assert_eq!(String::from_utf8_lossy(&text), "1.500000s     3 Datagram 3B 10.0.0.1:7900\n");
    }
}
