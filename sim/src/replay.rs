//! Recordings of live members, told again to the same core: is all as it was, and what does the node know at a moment.

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;
use std::time::Duration;

use tidings::node::Node;
use tidings::recording::{BUILD, EndReason, Next, RecordingError, Replay};
use tidings::time::Time;

use crate::trace::{Clock, Trace};
use crate::units::Span;

/// Where to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// Behind this input, counted from 1.
    Input(u64),
    /// Before the first input later than this since the start of the node.
    Time(Duration),
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self::Input)
            .or_else(|_| text.parse::<Span>().map(|span| Self::Time(span.0)))
            .map_err(|_| format!("{text:?} is neither the number of an input nor a time since the start, such as 90s"))
    }
}

/// What became of a recording that was told again.
#[derive(Clone, PartialEq, Debug)]
pub struct Replayed {
    /// The member's name and cluster.
    pub who: String,
    /// The build that recorded it.
    pub build: String,
    /// Inputs told.
    pub inputs: u64,
    /// From the start of the node to the last input.
    pub lasted: Duration,
    /// Where it ends.
    pub end: End,
    /// The first input from which something else came than then: its number, when it was, and what it is.
    pub first_difference: Option<(u64, Time, String)>,
    /// What the node knows at the end, if it was asked for, or if something was different.
    pub state: Option<String>,
}

/// Where a replay ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Where it was told to.
    Asked,
    /// Where the recording does, and why.
    Recording(EndReason),
    /// In the middle: the process was killed, or still writes.
    BrokenOff,
}

impl Replayed {
    /// Whether everything that came of the inputs was as it was then.
    pub fn is_equal(&self) -> bool {
        self.first_difference.is_none()
    }
}

/// Tells a recording again, up to `until` or the first difference; `lines` gets a line for every input and output.
///
/// # Errors
/// See [`RecordingError`].
pub fn replay(
    source: impl Read,
    until: Option<Until>,
    lines: Option<Box<dyn Write + Send>>,
) -> Result<Replayed, RecordingError> {
    let mut replay = Replay::open(source)?;
    let mut trace = Trace::new();
    if let Some(lines) = lines {
        trace.write_lines(lines);
    }
    let mut replayed = Replayed {
        who: format!("{} of {}, {}", replay.config.name, replay.config.cluster, replay.node().peer()),
        build: replay.build.clone(),
        inputs: 0,
        lasted: Duration::ZERO,
        end: End::Asked,
        first_difference: None,
        state: None,
    };
    while !is_over(until, &replayed, &mut replay)? {
        let next = replay.tell(|retold, _| {
            trace.input(retold.now, 0, &retold.input);
            trace.outbox(retold.now, 0, retold.out);
            let what = (retold.is_equal == Some(false)).then(|| format!("{:?}: {:?}", retold.input, retold.result));
            (retold.number, retold.now, what)
        })?;
        match next {
            Next::Input((number, now, what)) => {
                (replayed.inputs, replayed.lasted) = (number, now.since(replay.started));
                replayed.first_difference = what.map(|what| (number, now, what));
            }
            Next::End(reason) => {
                replayed.end = reason.map_or(End::BrokenOff, End::Recording);
                break;
            }
        }
        if !replayed.is_equal() {
            break;
        }
    }
    let is_asked = replayed.end == End::Asked;
    replayed.state = (is_asked || until.is_some()).then(|| state(replay.node()));
    Ok(replayed)
}

fn is_over<R: Read>(until: Option<Until>, replayed: &Replayed, replay: &mut Replay<R>) -> Result<bool, RecordingError> {
    Ok(match until {
        None => false,
        Some(Until::Input(number)) => replayed.inputs >= number,
        Some(Until::Time(span)) => replay.peek()?.is_some_and(|at| at.since(replay.started) > span),
    })
}

/// All that a node knows, for people.
fn state(node: &Node) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let ready = if node.is_ready() { "ready" } else { "not ready" };
    let digest = node.digest();
    let wake = node.next_wake().map_or_else(|| "never".to_owned(), |at| Clock(at).to_string());
    let own = node.own_records();
    let lines = [
        format!("{}, {ready}, next wake {wake}", node.peer()),
        format!("fingerprints: records {:016x}, members {:016x}", digest.records, digest.members),
        format!("queues: {:?}", node.queues()),
        format!("own records: {}", own.len()),
    ];
    for line in lines {
        writeln!(text, "  {line}").expect("writing to a string does not fail");
    }
    let mut list = |head: String, lines: &mut dyn Iterator<Item = String>| {
        writeln!(text, "  {head}").expect("writing to a string does not fail");
        lines.for_each(|line| writeln!(text, "    {line}").expect("writing to a string does not fail"));
    };
    let members = node.live_members();
    list(format!("members: {}", members.len()), &mut members.iter().map(ToString::to_string));
    let records = node.live_records();
    let record = |(owner, key, version): &(tidings::record::Owner, tidings::record::Key, u64)| match key.is_member() {
        true => format!("{} (member) version {version}", owner.id),
        false => format!("{} {key} version {version}", owner.id),
    };
    list(format!("records: {}", records.len()), &mut records.iter().map(record));
    let counters = node.counters();
    let counted = counters.each().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}"));
    list("counters above zero:".to_owned(), &mut counted.collect::<Vec<_>>().into_iter());
    text
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.who)?;
        if self.build != BUILD {
            writeln!(f, "  recorded by build {}, this is {BUILD}: it may well do other things", self.build)?;
        }
        let lasted = self.lasted.as_secs_f64();
        match self.end {
            _ if self.first_difference.is_some() => {}
            End::Asked => writeln!(f, "  stopped here, as asked")?,
            End::Recording(reason) => writeln!(f, "  the recording ends: {reason}")?,
            End::BrokenOff => writeln!(f, "  the recording breaks off: the process was killed, or still writes it")?,
        }
        match &self.first_difference {
            None => writeln!(f, "same: {} inputs over {lasted:.3} s, every output as it was then", self.inputs)?,
            Some((number, now, what)) => {
                writeln!(f, "DIFFERENT at input {number}, {}: {what}", Clock(*now))?;
            }
        }
        match &self.state {
            Some(state) => write!(f, "state behind input {}:\n{state}", self.inputs),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tidings::effect::{Input, Outbox};
    use tidings::node::{Config, Tuning};
    use tidings::peer::NodeId;
    use tidings::record::Instance;
    use tidings::recording;

    use super::*;

    /// A node alone: it wakes for ten seconds, and registers something on the way. `twist` changes what is recorded.
    fn recorded(twist: impl Fn(u64, &mut Time)) -> Vec<u8> {
        let config = Config {
            cluster: "c".into(),
            name: "n".into(),
            zone: "".into(),
            addr: ([127, 0, 0, 1], 7_900).into(),
            id: NodeId(1),
            epoch: 2,
            nonce: 3,
            seed: 4,
            seeds: vec![([127, 0, 0, 1], 7_901).into()],
            must_join: true,
            remembered: Vec::new(),
            tuning: Tuning::default(),
        };
        let mut bytes = recording::begin(&config, Time::ZERO).expect("small");
        let mut node = Node::new(config, Time::ZERO);
        let mut out = Outbox::default();
        let web: SocketAddr = ([10, 0, 0, 1], 80).into();
        for number in 1..=10_u64 {
            // The first is refused, for the lack of an id: that is an input as well.
            let mut instance = Instance::new("web", web).expect("right");
            if number == 4 {
                instance.id = "web@n".into();
            }
            let input = if matches!(number, 3 | 4) { Input::Register(instance.into()) } else { Input::Wake };
            let now = Time::ZERO + Duration::from_secs(number);
            let mut told = now;
            twist(number, &mut told);
            bytes.extend(recording::before(told, &input).expect("small"));
            out.clear();
            let result = node.handle(now, input, &mut out);
            bytes.extend(recording::after(&result, &out));
        }
        bytes.extend(recording::end(EndReason::Stopped));
        bytes
    }

    #[test]
    fn a_recording_is_the_same_again_and_its_state_can_be_looked_at() {
        let bytes = recorded(|_, _| ());
        let replayed = replay(&bytes[..], None, None).expect("it is whole");
        assert!(replayed.is_equal() && replayed.state.is_none());
        assert_eq!((replayed.inputs, replayed.end), (10, End::Recording(EndReason::Stopped)));
        assert_eq!(replayed.lasted, Duration::from_secs(10));
        for (until, inputs, own) in [("3", 3, 1), ("4", 4, 2), ("6500ms", 6, 2)] {
            let until = until.parse().expect("as a person writes it");
            let stopped = replay(&bytes[..], Some(until), None).expect("it is whole");
            assert_eq!((stopped.inputs, stopped.end), (inputs, End::Asked));
            let state = stopped.state.expect("it was asked for");
            assert!(state.contains(&format!("own records: {own}")), "{state}");
        }
        assert!("tomorrow".parse::<Until>().is_err());
    }

    #[test]
    fn the_first_input_that_led_to_something_else_is_told() {
        // A seed is asked again after a while: in this recording, the while never passes.
        let bytes = recorded(|number, told| {
            if number >= 2 {
                *told = Time::ZERO + Duration::from_secs(1) + Duration::from_millis(number);
            }
        });
        let replayed = replay(&bytes[..], None, None).expect("it is whole");
        let (number, _, what) = replayed.first_difference.clone().expect("it is another time");
        assert!(number >= 2 && what.starts_with("Wake"), "{number}: {what}");
        let text = replayed.to_string();
        assert!(text.contains("DIFFERENT at input") && text.contains("state behind input"), "{text}");
    }
}
