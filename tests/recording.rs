//! A live cluster writes down what happens to its members, and each recording replays bit for bit.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidings::Instance;
use tidings::net::keys::ClusterKey;
use tidings::net::recorder::{RECORDING_BYTES_MAX, RecordPlan};
use tidings::recording::{BUILD, EndReason, Next, RecordingError, Replay};
use tidings::registry::{Builder, Registry};

/// Far more than anything here takes; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

const KEY: [u8; 32] = *b"never in any recording, not once";

fn builder(dir: &Path, name: &str) -> (Builder, PathBuf) {
    let path = dir.join(name);
    let plan = RecordPlan { path: path.clone(), bytes_max: RECORDING_BYTES_MAX };
    (Registry::builder("recorded", name).key(ClusterKey::new(KEY)).record(plan), path)
}

fn web() -> Instance {
    let addr: SocketAddr = "127.0.0.1:8080".parse().expect("an address");
    Instance::new("web", addr).expect("a service")
}

/// Waits until the healthy instances of `web` are as many, and their weights together so much.
async fn sees(member: &Registry, count: usize, weight: u32) {
    let mut watch = member.watch("web");
    let wait = async {
        loop {
            let healthy = watch.current().healthy();
            let sum: u32 = healthy.iter().map(|entry| entry.instance.weight).sum();
            if (healthy.len(), sum) == (count, weight) {
                return;
            }
            watch.changed().await.expect("the member runs");
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the change arrives");
}

/// What a recording says: its kinds of input, what was equal, how it ends, and who is left in the node's view.
struct Told {
    kinds: String,
    unequal: Vec<u64>,
    end: Option<EndReason>,
    members: usize,
}

fn told(path: &Path) -> Told {
    let mut replay = Replay::open(File::open(path).expect("it was written")).expect("it is a recording");
    assert_eq!(replay.build, BUILD);
    let mut told = Told { kinds: String::new(), unequal: Vec::new(), end: None, members: 0 };
    loop {
        let next = replay.tell(|retold, _| {
            let text = format!("{:?}", retold.input);
            let kind = text.split(['(', ' ']).next().unwrap_or_default().to_owned();
            (kind, retold.number, retold.is_equal)
        });
        match next.expect("nothing is damaged") {
            Next::Input((kind, number, is_equal)) => {
                if !told.kinds.contains(&kind) {
                    told.kinds += &format!("{kind} ");
                }
                if is_equal != Some(true) {
                    told.unequal.push(number);
                }
            }
            Next::End(end) => {
                told.end = end;
                told.members = replay.node().live_members().len();
                return told;
            }
        }
    }
}

#[tokio::test]
async fn what_a_cluster_lived_through_replays_bit_for_bit_and_holds_no_key() {
    let dir = tempfile::tempdir().expect("there is a temporary directory");
    let (a, a_file) = builder(dir.path(), "a");
    let (b, b_file) = builder(dir.path(), "b");
    let (c, c_file) = builder(dir.path(), "c");
    let a = a.start().await.expect("a starts");
    let seed = a.local_addr().to_string();
    let b = b.join([seed.clone()]).start().await.expect("b starts");
    let mut guard = b.register(web()).await.expect("b may register");
    let c = c.join([seed]).start().await.expect("c starts");
    for member in [&a, &c] {
        sees(member, 1, 1).await;
    }
    guard.update(|instance| instance.weight = 7).await.expect("b may change it");
    let more = c.register(web()).await.expect("c may register");
    for member in [&a, &b, &c] {
        sees(member, 2, 8).await;
    }
    more.withdraw().await.expect("c may withdraw it");
    sees(&a, 1, 7).await;
    let stats = a.stats().await.expect("a runs").recording;
    assert!(stats.inputs > 5 && stats.bytes > 1_000 && stats.ended_early == 0, "{stats:?}");
    b.leave().await.expect("b leaves");
    for member in [&a, &c] {
        sees(member, 0, 0).await;
    }
    // The file of a member that left is whole when `leave` returns.
    for (member, file) in [(a, &a_file), (c, &c_file)] {
        member.leave().await.expect("nobody hinders it");
        drop(member);
        assert!(file.exists());
    }
    for (file, kinds) in [
        (&a_file, &["Wake", "Datagram", "Request", "Leave"][..]),
        (&b_file, &["Wake", "Datagram", "Response", "Register", "Leave"]),
        (&c_file, &["Wake", "Datagram", "Response", "Register", "Withdraw", "Leave"]),
    ] {
        let told = told(file);
        assert_eq!(told.unequal, Vec::<u64>::new(), "{}", file.display());
        assert_eq!(told.end, Some(EndReason::Stopped));
        assert!(kinds.iter().all(|kind| told.kinds.contains(kind)), "{}: {}", file.display(), told.kinds);
        let bytes = fs::read(file).expect("it was written");
        assert!(!bytes.windows(KEY.len()).any(|window| window == KEY), "a key is in {}", file.display());
        // As a check of the search itself: what members say of themselves is there.
        assert!(bytes.windows(3).any(|window| window == b"web"));
    }
    assert!(told(&a_file).members >= 1);
}

#[tokio::test]
async fn what_is_no_recording_or_a_damaged_one_is_told() {
    let dir = tempfile::tempdir().expect("there is a temporary directory");
    let (member, path) = builder(dir.path(), "a");
    member.start().await.expect("it starts").leave().await.expect("it leaves");
    let whole = fs::read(&path).expect("it was written");
    let open = |bytes: &[u8]| Replay::open(std::io::Cursor::new(bytes.to_vec()));
    assert!(matches!(open(b"something else"), Err(RecordingError::NotOne)));
    assert!(matches!(open(&[]), Err(RecordingError::NotOne)));
    let mut newer = whole.clone();
    newer[7] = 9;
    assert!(matches!(open(&newer), Err(RecordingError::Format { found: 9 })));
    let mut damaged = whole.clone();
    damaged[30] ^= 4;
    assert!(matches!(open(&damaged), Err(RecordingError::Damaged { at: 8, .. })));
    // Cut anywhere, it tells what is whole, and that it breaks off.
    let mut replay = open(&whole[..whole.len() - 20]).expect("the beginning is whole");
    let mut inputs = 0;
    let end = loop {
        match replay.tell(|retold, _| retold.number).expect("what is left is whole") {
            Next::Input(number) => inputs = number,
            Next::End(end) => break end,
        }
    };
    assert!(inputs > 0 && end.is_none(), "{inputs} {end:?}");
}
