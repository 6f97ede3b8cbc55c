//! The saved view: what a member knew of the others' services, in its data directory, for a start that finds nobody.
//! Knows files and views, and nothing of the node.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::kept::{DataDir, KeptError, io_error};
use crate::effect::Event;
use crate::peer::{Epoch, Evidence, Generation, Member, MemberState, NodeId, Peer};
use crate::record::Instance;
use crate::view::{Kept, Reader, Service, Status, View};

/// The format of the file that this version writes, and the newest that it reads.
pub const VIEW_FORMAT: u32 = 1;

/// Instances that are written down; of more, those of the first services by name. The others are counted, and logged.
pub const SAVED_INSTANCES_MAX: usize = 65_536;

/// Bytes of a saved view that is written, or read at all: instances that do not fit are left out as above.
pub const VIEW_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes of the file beside members and instances: names of its fields, and numbers.
const FRAME_BYTES: u64 = 256;

/// A saved view that is older than this is not read: what it names has most likely gone elsewhere.
pub const SAVED_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

const VIEW: &str = "view.json";
/// What could not be read last: of several, the newest is enough to see why.
const VIEW_CORRUPT: &str = "view.json.corrupt";
const VIEW_NEW: &str = "view.json.new";

/// What an earlier start of this member knew of the others' services. All of it is stale, and says so: lookups find no
/// healthy instance, [`Reader::last_known`] and pickers give the last known good ones. It never changes.
///
/// With other sources behind it in a [`Chain`](crate::select::chain::Chain), a program that starts while nobody else is
/// there can go on at once.
#[derive(Clone, Debug)]
pub struct SavedView {
    reader: Reader,
    instances: usize,
    saved_at: u64,
}

impl SavedView {
    /// Reads the saved view of a data directory, whether a member uses that or not. `now` is the time in seconds since
    /// the Unix epoch. `None` if there is none, or one older than [`SAVED_AGE_MAX`].
    ///
    /// # Errors
    /// [`SavedError`]; the file is left as it is.
    pub fn read(dir: &Path, now: u64) -> Result<Option<Self>, SavedError> {
        let path = dir.join(VIEW);
        match fs::metadata(&path) {
            Ok(about) if about.len() > VIEW_BYTES_MAX => return Err(SavedError::Corrupt),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(_) | Err(_) => {}
        }
        let saved = parse(&fs::read(&path).map_err(io_error("read", &path))?)?;
        let is_old = Duration::from_secs(now.saturating_sub(saved.saved_at)) > SAVED_AGE_MAX;
        Ok((!is_old).then(|| Self::of(saved)))
    }

    fn of(saved: State) -> Self {
        let mut view = View::new();
        view.keep_all(Kept::Saved);
        let mut instances = 0;
        for SavedMember { id, epoch, addr, name, zone, offers } in saved.members {
            let peer = Peer { id, addr, generation: Generation::first(epoch), nonce: 0 };
            let member = Member {
                peer,
                name,
                zone,
                state: MemberState::Unreachable,
                evidence: Evidence::default(),
                software: Arc::from(""),
                wire: (0, 0),
            };
            view.apply(&Event::MemberUp(Arc::new(member)));
            instances += offers.len();
            for instance in offers {
                view.apply(&Event::ServiceUp { owner: id, instance: Arc::new(instance) });
            }
        }
        view.publish();
        view.ready();
        Self { reader: view.reader(), instances, saved_at: saved.saved_at }
    }

    /// Reads what was saved.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// When it was written, in seconds since the Unix epoch.
    pub fn saved_at(&self) -> u64 {
        self.saved_at
    }

    /// How many instances there are in it.
    pub fn len(&self) -> usize {
        self.instances
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.instances == 0
    }
}

/// Why a saved view is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// It could not be read.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// It is cut short, changed by hand, too large, or nothing of the kind.
    #[error("the saved view is corrupt")]
    Corrupt,
    /// A newer version of the software wrote it.
    #[error("the saved view has format {found}, this version reads up to {VIEW_FORMAT}")]
    NewerFormat {
        /// Its format.
        found: u64,
    },
}

impl DataDir {
    /// The saved view, if there is one that can be used. One that is corrupt is set aside, and told as an error.
    pub(super) fn saved_view(&self, now: u64) -> Result<Option<SavedView>, SavedError> {
        let saved = SavedView::read(self.path(), now);
        if let Err(SavedError::Corrupt) = saved {
            let path = self.path().join(VIEW);
            fs::rename(&path, self.path().join(VIEW_CORRUPT)).map_err(io_error("set aside", &path))?;
        }
        saved
    }

    /// Writes down what is known of the services of others, in place of what was; gives how many instances were left
    /// out for their number or bytes. A view of a member that has not joined, or that knows nothing of others, is not
    /// written: it proves nothing about what was known.
    ///
    /// # Errors
    /// [`KeptError::Io`]; what was saved before is still there, whole.
    pub(super) fn save_view(&self, view: &Reader, me: NodeId, now: u64) -> Result<usize, KeptError> {
        if self.is_closed() || view.status() == Status::Joining {
            return Ok(0);
        }
        let (state, left_out) = State::of(&view.services(), me, now, VIEW_BYTES_MAX);
        if state.members.is_empty() {
            return Ok(left_out);
        }
        let kept = Saved { format: VIEW_FORMAT, checksum: state.checksum(), state };
        let text = serde_json::to_vec(&kept).expect("names, numbers and texts are always written");
        self.replace(VIEW_NEW, VIEW, &text, false)?;
        Ok(left_out)
    }
}

#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    /// Of the state as compact JSON.
    checksum: u64,
    state: State,
}

#[derive(Serialize, Deserialize)]
struct State {
    saved_at: u64,
    members: Vec<SavedMember>,
}

#[derive(Serialize, Deserialize)]
struct SavedMember {
    id: NodeId,
    epoch: Epoch,
    addr: SocketAddr,
    name: Arc<str>,
    zone: Arc<str>,
    offers: Vec<Instance>,
}

impl State {
    /// What others offer that serves, whether they answer just now or not, as far as the file stays within
    /// `bytes_max`; and how many instances it has no room for.
    fn of(services: &[Arc<Service>], me: NodeId, now: u64, bytes_max: u64) -> (Self, usize) {
        let offered = services.iter().flat_map(|service| service.all());
        let mut offered = offered.filter(|o| o.member.peer.id != me && o.instance.status.is_serving()).peekable();
        let mut members = std::collections::BTreeMap::<NodeId, SavedMember>::new();
        let (mut instances, mut bytes) = (0, FRAME_BYTES);
        while let Some(next) = offered.peek() {
            let Member { peer, name, zone, .. } = &*next.member;
            let member = SavedMember {
                id: peer.id,
                epoch: peer.epoch(),
                addr: peer.addr,
                name: Arc::clone(name),
                zone: Arc::clone(zone),
                offers: Vec::new(),
            };
            let head = if members.contains_key(&peer.id) { 0 } else { json_bytes(&member) };
            let more = head + json_bytes(&*next.instance);
            if instances == SAVED_INSTANCES_MAX || bytes + more > bytes_max {
                break;
            }
            (instances, bytes) = (instances + 1, bytes + more);
            members.entry(peer.id).or_insert(member).offers.push(Instance::clone(&next.instance));
            offered.next();
        }
        (Self { saved_at: now, members: members.into_values().collect() }, offered.count())
    }

    fn checksum(&self) -> u64 {
        xxh3_64(&serde_json::to_vec(self).expect("names, numbers and texts are always written"))
    }
}

/// What a part takes in the file, with its comma.
fn json_bytes(part: &impl Serialize) -> u64 {
    serde_json::to_vec(part).expect("names, numbers and texts are always written").len() as u64 + 1
}

fn parse(bytes: &[u8]) -> Result<State, SavedError> {
    #[derive(Deserialize)]
    struct Format {
        format: u64,
    }
    let Format { format } = serde_json::from_slice(bytes).map_err(|_| SavedError::Corrupt)?;
    if format > u64::from(VIEW_FORMAT) {
        return Err(SavedError::NewerFormat { found: format });
    }
    let saved: Saved = serde_json::from_slice(bytes).map_err(|_| SavedError::Corrupt)?;
    let is_sound = saved.checksum == saved.state.checksum()
        && saved.state.members.iter().flat_map(|member| &member.offers).all(|instance| instance.check().is_ok());
    if is_sound { Ok(saved.state) } else { Err(SavedError::Corrupt) }
}

/// Whether the bytes are a whole saved view that this version reads: for fuzzing.
#[doc(hidden)]
pub fn reads(bytes: &[u8]) -> bool {
    parse(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Status;
    use crate::view::LookupError;

    const ME: NodeId = NodeId(1);
    const NOW: u64 = 1_700_000_000;

    fn dir() -> (tempfile::TempDir, DataDir) {
        let path = tempfile::tempdir().expect("a temporary directory");
        let (dir, _) = DataDir::open(path.path(), ME, NOW).expect("it can be used");
        (path, dir)
    }

    fn member(id: u64) -> Event {
        let addr = SocketAddr::from(([127, 0, 0, 1], 4_000));
        Event::MemberUp(Arc::new(Member {
            peer: Peer { id: NodeId(id), addr, generation: Generation::first(7), nonce: 1 },
            name: format!("m{id}").into(),
            zone: "z".into(),
            state: MemberState::Reachable,
            evidence: Evidence::default(),
            software: "".into(),
            wire: (1, 1),
        }))
    }

    fn offer(owner: u64, id: &str, status: Status) -> Event {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let instance = Instance::new("web", address).expect("valid").with_id(id).with_status(status).with_tag("v1");
        Event::ServiceUp { owner: NodeId(owner), instance: Arc::new(instance) }
    }

    fn view(events: &[Event]) -> Reader {
        let mut view = View::new();
        events.iter().for_each(|event| view.apply(event));
        view.publish();
        view.ready();
        view.reader()
    }

    #[test]
    fn what_others_offered_is_there_again_and_says_that_it_is_stale() {
        let (path, dir) = dir();
        assert!(dir.saved_view(NOW).unwrap().is_none());
        let own = [member(1), offer(1, "own", Status::Passing)];
        let theirs = [member(2), offer(2, "a", Status::Passing), offer(2, "draining", Status::Draining)];
        let reader = view(&[&own[..], &theirs[..]].concat());
        dir.save_view(&reader, ME, NOW).unwrap();
        let saved = dir.saved_view(NOW + 60).unwrap().expect("it was saved");
        assert_eq!((saved.len(), saved.saved_at()), (1, NOW));
        assert!(matches!(saved.reader().lookup("web"), Err(LookupError::NoHealthy { .. })));
        let web = saved.reader().last_known("web").unwrap();
        assert_eq!(web.kept(), Some(Kept::Saved));
        let stale: Vec<_> = web.stale().collect();
        let original = reader.lookup("web").unwrap();
        assert_eq!(stale[0].instance, original.healthy()[0].instance);
        assert_eq!((&*stale[0].member.name, stale[0].member.peer.epoch()), ("m2", 7));
        // A view that knows nobody does not replace it, and a week later it is not used.
        dir.save_view(&view(&own), ME, NOW + 90).unwrap();
        assert_eq!(dir.saved_view(NOW + 100).unwrap().expect("still there").saved_at(), NOW);
        assert!(SavedView::read(path.path(), NOW + SAVED_AGE_MAX.as_secs() + 1).unwrap().is_none());
    }

    #[test]
    fn a_damaged_view_is_set_aside_and_a_newer_one_left_alone() {
        let (path, dir) = dir();
        let file = path.path().join(VIEW);
        dir.save_view(&view(&[member(2), offer(2, "a", Status::Passing)]), ME, NOW).unwrap();
        let whole = fs::read_to_string(&file).unwrap();
        for damaged in [whole.replace("10.0.0.1", "10.0.0.2"), whole[..whole.len() / 2].to_owned()] {
            fs::write(&file, damaged).unwrap();
            assert!(matches!(dir.saved_view(NOW), Err(SavedError::Corrupt)));
            assert!(!file.exists() && dir.saved_view(NOW).unwrap().is_none());
        }
        let names = fs::read_dir(path.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let aside = names.filter(|name| name.to_string_lossy().contains("corrupt")).count();
        assert_eq!(aside, 1, "one is enough");
        fs::write(&file, r#"{"format": 2, "more": true}"#).unwrap();
        assert!(matches!(dir.saved_view(NOW), Err(SavedError::NewerFormat { found: 2 })));
        assert!(file.exists());
    }

    #[test]
    fn a_view_is_written_within_its_bytes_and_tells_what_was_left_out() {
        let offers: Vec<_> = (0..50).map(|n| offer(2, &format!("i{n:02}"), Status::Passing)).collect();
        let reader = view(&[&[member(2)][..], &offers].concat());
        let (path, dir) = dir();
        for bytes_max in [0, 300, 2_000, 5_000, 100_000] {
            let (state, left_out) = State::of(&reader.services(), ME, NOW, bytes_max);
            let kept: usize = state.members.iter().map(|member| member.offers.len()).sum();
            assert_eq!(kept + left_out, 50);
            assert_eq!((kept == 0, left_out == 0), (bytes_max <= 300, bytes_max == 100_000), "{bytes_max}: {kept}");
            let text = serde_json::to_vec(&Saved { format: VIEW_FORMAT, checksum: state.checksum(), state }).unwrap();
            assert!(kept == 0 || text.len() as u64 <= bytes_max, "{bytes_max}: {}", text.len());
        }
        assert_eq!(dir.save_view(&reader, ME, NOW).unwrap(), 0);
        assert!(path.path().join(VIEW).exists());
    }

    #[test]
    fn a_view_of_a_member_that_has_not_joined_or_knows_of_nothing_replaces_none() {
        let (_path, dir) = dir();
        let known = [member(2), offer(2, "a", Status::Passing), offer(2, "b", Status::Passing)];
        dir.save_view(&view(&known), ME, NOW).unwrap();
        let mut joining = View::new();
        known[..2].iter().for_each(|event| joining.apply(event));
        joining.publish();
        for nearly_nothing in [joining.reader(), view(&known[..1])] {
            dir.save_view(&nearly_nothing, ME, NOW + 1).unwrap();
            assert_eq!(dir.saved_view(NOW + 2).unwrap().expect("it was saved").len(), 2);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_can_do_more_than_be_corrupt(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(!reads(&bytes));
        }
    }
}
