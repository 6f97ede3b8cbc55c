//! Writes a recording of a node to a file, on a thread of its own: a slow disk must not stall the driver. Knows nothing
//! of what the bytes say.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError, TrySendError};
use std::time::Duration;

use super::driver::NODE_LOG;
use crate::effect::{Input, InputError, Outbox};
use crate::node::Config;
use crate::recording::{self, EndReason};
use crate::time::Time;
use crate::wire::WireError;

/// Bytes of a recording, if its plan says nothing else: at the idle rate of a member of 50, some two days.
pub const RECORDING_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Frames that wait for the disk; with more, the recording ends and says so.
pub const QUEUE_FRAMES_MAX: usize = 16_384;

/// Bytes that wait for the disk; with more, the recording ends and says so.
pub const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long a member that stops waits for the rest of its recording to reach the file.
const CLOSE_WAIT_MAX: Duration = Duration::from_millis(500);

/// Where a recording goes, and how long it may become.
#[derive(Clone, Debug)]
pub struct RecordPlan {
    /// The file; one that is there already is renamed to the same name with `.previous` behind it.
    pub path: PathBuf,
    /// The most bytes; at its limit the recording ends, the member goes on.
    pub bytes_max: u64,
}

/// Why a recording could not be begun.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file could not be made.
    #[error("cannot record to {path:?}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// What the member is born with does not fit.
    #[error("cannot record: {0}")]
    Begin(#[from] WireError),
}

/// What was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RecordStats {
    /// Inputs.
    pub inputs: u64,
    /// Bytes.
    pub bytes: u64,
    /// Recordings that ended before their member: 0 or 1.
    pub ended_early: u64,
}

/// A recording under way.
#[derive(Debug)]
pub(crate) struct Recorder {
    path: PathBuf,
    bytes_max: u64,
    /// `None` once the recording has ended.
    queue: Option<SyncSender<Vec<u8>>>,
    waiting: Arc<Waiting>,
    pub(crate) stats: RecordStats,
}

#[derive(Default, Debug)]
struct Waiting {
    bytes: AtomicUsize,
    has_failed: AtomicBool,
}

impl Recorder {
    /// Begins a recording of a node that is born with `config`. What it gives beside waits, when called, until all is
    /// in the file, for a bounded time; the recorder must be dropped by then.
    pub(crate) fn begin(
        plan: &RecordPlan,
        config: &Config,
        now: Time,
    ) -> Result<(Self, impl FnOnce() + use<>), RecordError> {
        let failed = |error| RecordError::Io { path: plan.path.clone(), error };
        let head = recording::begin(config, now)?;
        let file = create(&plan.path).map_err(failed)?;
        let (queue, frames) = mpsc::sync_channel(QUEUE_FRAMES_MAX);
        let (tell_done, done) = mpsc::channel::<()>();
        let waiting = Arc::new(Waiting::default());
        let (path, shared) = (plan.path.clone(), Arc::clone(&waiting));
        let thread = std::thread::Builder::new().name("tidings recorder".to_owned());
        let write = move || {
            if let Err(error) = write_all(BufWriter::new(file), &frames, &shared) {
                shared.has_failed.store(true, Ordering::Relaxed);
                tracing::error!(target: NODE_LOG, path = %path.display(), %error, "the recording cannot be written on");
            }
            drop(tell_done);
        };
        thread.spawn(write).map_err(failed)?;
        let stats = RecordStats::default();
        let mut recorder =
            Self { path: plan.path.clone(), bytes_max: plan.bytes_max, queue: Some(queue), waiting, stats };
        recorder.put(head);
        // Never told anything: it ends when the thread does.
        Ok((recorder, move || {
            let _ = done.recv_timeout(CLOSE_WAIT_MAX);
        }))
    }

    /// Notes an input that is about to be handed to the node: if that panics, the recording knows with what.
    pub(crate) fn before(&mut self, now: Time, input: &Input<'_>) {
        if self.queue.is_none() {
            return;
        }
        match recording::before(now, input) {
            Ok(frame) => {
                self.put(frame);
                self.stats.inputs += u64::from(self.queue.is_some());
            }
            Err(_) => self.end_early(EndReason::Unwritable),
        }
    }

    /// Notes what came of it.
    pub(crate) fn after(&mut self, result: &Result<(), InputError>, out: &Outbox) {
        if self.queue.is_some() {
            self.put(recording::after(result, out));
        }
    }

    fn put(&mut self, frame: Vec<u8>) {
        if self.waiting.has_failed.load(Ordering::Relaxed) {
            self.queue = None;
            self.stats.ended_early = 1;
            return;
        }
        let len = frame.len();
        // The frame that says why there is no more must fit too.
        let end_len = recording::end(EndReason::SizeLimit).len() as u64;
        if self.stats.bytes + len as u64 + end_len > self.bytes_max {
            return self.end_early(EndReason::SizeLimit);
        }
        if !self.send(frame) {
            return self.end_early(EndReason::Overflow);
        }
        self.stats.bytes += len as u64;
    }

    /// Whether there was room.
    fn send(&mut self, frame: Vec<u8>) -> bool {
        let (Some(queue), len) = (&self.queue, frame.len()) else { return false };
        if self.waiting.bytes.load(Ordering::Relaxed) + len > QUEUE_BYTES_MAX {
            return false;
        }
        self.waiting.bytes.fetch_add(len, Ordering::Relaxed);
        match queue.try_send(frame) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.waiting.bytes.fetch_sub(len, Ordering::Relaxed);
                false
            }
        }
    }

    fn end_early(&mut self, reason: EndReason) {
        tracing::warn!(target: NODE_LOG, path = %self.path.display(), bytes = self.stats.bytes,
            inputs = self.stats.inputs, "the recording ends here: {reason}");
        // After an overflow there may be no room for it either; then the recording merely breaks off.
        self.send(recording::end(reason));
        self.queue = None;
        self.stats.ended_early = 1;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.queue.is_some() {
            let is_panic = std::thread::panicking();
            self.send(recording::end(if is_panic { EndReason::Panicked } else { EndReason::Stopped }));
        }
    }
}

/// A new file that only its owner may read: a recording holds all that members say of their services.
fn create(path: &Path) -> io::Result<File> {
    let mut previous = path.as_os_str().to_owned();
    previous.push(".previous");
    match std::fs::rename(path, previous) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Writes frames until there are no more; flushes whenever none waits, so that a process that is killed leaves all but
/// the last moment.
fn write_all(mut file: impl Write, frames: &Receiver<Vec<u8>>, waiting: &Waiting) -> io::Result<()> {
    loop {
        let frame = match frames.try_recv() {
            Ok(frame) => frame,
            Err(TryRecvError::Disconnected) => return file.flush(),
            Err(TryRecvError::Empty) => {
                file.flush()?;
                match frames.recv() {
                    Ok(frame) => frame,
                    Err(_) => return Ok(()),
                }
            }
        };
        file.write_all(&frame)?;
        waiting.bytes.fetch_sub(frame.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::node::{Node, Tuning};
    use crate::peer::NodeId;
    use crate::recording::{Next, Replay};

    fn config() -> Config {
        Config {
            cluster: "c".into(),
            name: "n".into(),
            zone: "".into(),
            addr: ([127, 0, 0, 1], 7_900).into(),
            id: NodeId(1),
            epoch: 2,
            nonce: 3,
            seed: 4,
            seeds: Vec::new(),
            must_join: false,
            remembered: Vec::new(),
            tuning: Tuning::default(),
        }
    }

    /// Wakes a node `times` times and records that.
    fn record(plan: &RecordPlan, times: u64) -> RecordStats {
        let (mut recorder, close) = Recorder::begin(plan, &config(), Time::ZERO).expect("the directory is writable");
        let mut node = Node::new(config(), Time::ZERO);
        let mut out = Outbox::default();
        for second in 0..times {
            out.clear();
            let now = Time::ZERO + Duration::from_secs(second);
            recorder.before(now, &Input::Wake);
            let result = node.handle(now, Input::Wake, &mut out);
            recorder.after(&result, &out);
        }
        let stats = recorder.stats;
        drop(recorder);
        close();
        stats
    }

    fn replay(path: &Path) -> (u64, Option<EndReason>) {
        let mut replay = Replay::open(File::open(path).expect("it was written")).expect("it is a recording");
        let mut equal = 0;
        loop {
            match replay.tell(|retold, _| retold.is_equal).expect("nothing is damaged") {
                Next::Input(is_equal) => equal += u64::from(is_equal == Some(true)),
                Next::End(reason) => return (equal, reason),
            }
        }
    }

    #[test]
    fn a_recording_ends_at_its_limit_and_says_so() {
        let dir = tempfile::tempdir().expect("there is a temporary directory");
        let path = dir.path().join("r");
        let stats = record(&RecordPlan { path: path.clone(), bytes_max: 1_000 }, 100);
        assert_eq!(stats.ended_early, 1);
        let size = fs::metadata(&path).expect("it was written").len();
        assert!(size <= 1_000 && size > 900, "{size}");
        let (equal, reason) = replay(&path);
        assert_eq!(reason, Some(EndReason::SizeLimit));
        assert!(equal > 5 && equal < 100, "{equal}");
    }

    #[test]
    fn the_recording_before_is_kept_and_a_whole_one_ends_with_its_member() {
        let dir = tempfile::tempdir().expect("there is a temporary directory");
        let path = dir.path().join("r");
        let plan = RecordPlan { path: path.clone(), bytes_max: RECORDING_BYTES_MAX };
        for times in [3, 5] {
            assert_eq!(record(&plan, times).ended_early, 0);
        }
        assert_eq!(replay(&path), (5, Some(EndReason::Stopped)));
        assert_eq!(replay(&dir.path().join("r.previous")), (3, Some(EndReason::Stopped)));
    }

    #[test]
    fn a_disk_that_does_not_keep_up_ends_the_recording_and_never_the_member() {
        let (queue, frames) = mpsc::sync_channel(4);
        let waiting = Arc::new(Waiting::default());
        let mut recorder = Recorder {
            path: PathBuf::from("r"),
            bytes_max: u64::MAX,
            queue: Some(queue),
            waiting,
            stats: RecordStats::default(),
        };
        // Nobody writes: `frames` is the disk.
        for second in 0..10 {
            recorder.before(Time::ZERO + Duration::from_secs(second), &Input::Wake);
        }
        assert_eq!((recorder.stats.inputs, recorder.stats.ended_early), (4, 1));
        assert_eq!(frames.iter().count(), 4);
    }

    #[test]
    fn more_bytes_than_may_wait_end_the_recording() {
        let (queue, _frames) = mpsc::sync_channel(QUEUE_FRAMES_MAX);
        let waiting = Arc::new(Waiting::default());
        let (path, stats) = (PathBuf::from("r"), RecordStats::default());
        let mut recorder = Recorder { path, bytes_max: u64::MAX, queue: Some(queue), waiting, stats };
        let (from, large) = (([127, 0, 0, 1], 1).into(), bytes::Bytes::from(vec![0; 2 * 1024 * 1024]));
        for token in 0..20 {
            recorder.before(Time::ZERO, &Input::Request { from, token, bytes: large.clone() });
        }
        assert!(recorder.stats.inputs < 8 && recorder.stats.ended_early == 1, "{:?}", recorder.stats);
    }
}
