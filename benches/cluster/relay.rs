//! A port mapping that listens: whatever is sent to its address goes on to a member, and what that answers goes back,
//! as a gateway does it; and all of it is written down. Datagrams that go around it, it does not hear.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Addresses that it keeps a way back to.
const CALLERS_MAX: usize = 64;

/// How often a thread looks whether all is over.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Datagrams that it writes down.
const HEARD_MAX: usize = 200_000;

/// Where QUIC's first bytes begin.
const QUIC: u8 = 0x40;

/// A datagram of gossip, and where it was sent on to.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// See the file's head. Ends when dropped.
pub(crate) struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    outer: UdpSocket,
    member: Mutex<Option<SocketAddr>>,
    heard: Mutex<Vec<Heard>>,
    is_over: AtomicBool,
}

impl Relay {
    pub(crate) fn start() -> io::Result<Self> {
        let outer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        outer.set_read_timeout(Some(LOOK_EVERY))?;
        let addr = outer.local_addr()?;
        let shared =
            Shared { outer, member: Mutex::default(), heard: Mutex::default(), is_over: AtomicBool::new(false) };
        let shared = Arc::new(shared);
        let own = Arc::clone(&shared);
        std::thread::spawn(move || own.carry_in());
        Ok(Self { addr, shared })
    }

    /// Where it listens: what the member behind it advertises.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Tells it where the member is; until then it drops all.
    pub(crate) fn lead_to(&self, member: SocketAddr) {
        *locked(&self.shared.member) = Some(member);
    }

    /// What it heard since this was last asked.
    pub(crate) fn take(&self) -> Vec<Heard> {
        std::mem::take(&mut locked(&self.shared.heard))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn carry_in(self: Arc<Self>) {
        let mut callers: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
        let mut buffer = vec![0; 65_536];
        while !self.is_over.load(Ordering::Relaxed) {
            let Ok((length, caller)) = self.outer.recv_from(&mut buffer) else { continue };
            let Some(member) = *locked(&self.member) else { continue };
            if !callers.contains_key(&caller) && callers.len() < CALLERS_MAX {
                let Ok(inner) = open() else { continue };
                let inner = Arc::new(inner);
                callers.insert(caller, Arc::clone(&inner));
                let shared = Arc::clone(&self);
                std::thread::spawn(move || shared.carry_back(&inner, caller));
            }
            let Some(inner) = callers.get(&caller) else { continue };
            self.note(member, &buffer[..length]);
            // A member that is not there now drops it, as a network would.
            let _ = inner.send_to(&buffer[..length], member);
        }
    }

    fn carry_back(&self, inner: &UdpSocket, caller: SocketAddr) {
        let mut buffer = vec![0; 65_536];
        while !self.is_over.load(Ordering::Relaxed) {
            let Ok(length) = inner.recv(&mut buffer) else { continue };
            self.note(caller, &buffer[..length]);
            let _ = self.outer.send_to(&buffer[..length], caller);
        }
    }

    fn note(&self, to: SocketAddr, bytes: &[u8]) {
        if bytes.first().is_some_and(|first| *first < QUIC) {
            let mut heard = locked(&self.heard);
            assert!(heard.len() < HEARD_MAX, "more than {HEARD_MAX} datagrams: nobody took them");
            heard.push(Heard { to, bytes: bytes.to_vec() });
        }
    }
}

fn open() -> io::Result<UdpSocket> {
    let inner = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    inner.set_read_timeout(Some(LOOK_EVERY))?;
    Ok(inner)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
