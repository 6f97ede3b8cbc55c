//! What a network does to packets: loss on the way, and members whose packets vanish. Only in a network namespace of
//! this program's own, so that nothing else is touched: `unshare --net` before the command makes one.

use std::fs;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

const TABLE: &str = "inet tidings_bench";

/// Rules of a packet filter; gone when dropped.
#[derive(Debug)]
pub(crate) struct Network(());

impl Network {
    /// A network that loses nothing yet.
    ///
    /// # Errors
    /// This process lives in a network that leads somewhere, or `ip` or `nft` cannot be run.
    pub(crate) fn new() -> io::Result<Self> {
        // Two lines of titles, then one for each interface: a new namespace has the loopback alone.
        let interfaces = fs::read_to_string("/proc/self/net/dev")?;
        if interfaces.lines().skip(2).any(|line| !line.trim_start().starts_with("lo:")) {
            let how = "this experiment drops packets, and needs a network of its own: run the command behind \
                       `unshare --net`, as root";
            return Err(io::Error::other(how));
        }
        run(Command::new("ip").args(["link", "set", "lo", "up"]), "")?;
        let network = Self(());
        network.filter(&format!(
            "table {TABLE} {{\n\
             set vanished {{ type inet_service; }}\n\
             chain lossy {{ }}\n\
             chain input {{ type filter hook input priority 0; policy accept;\n\
             udp dport @vanished drop\n\
             udp sport @vanished drop\n\
             meta l4proto udp jump lossy\n}}\n}}"
        ))?;
        Ok(network)
    }

    /// From now on this share of all datagrams is lost, in percent.
    pub(crate) fn lose(&self, percent: u8) -> io::Result<()> {
        self.filter(&format!(
            "flush chain {TABLE} lossy\nadd rule {TABLE} lossy numgen random mod 100 < {percent} drop"
        ))
    }

    /// Nothing from or to these ports arrives any more, and nobody is told so.
    pub(crate) fn cut(&self, ports: &[u16]) -> io::Result<()> {
        self.filter(&format!("add element {TABLE} vanished {{ {} }}", listed(ports)))
    }

    /// These ports can be reached again.
    pub(crate) fn mend(&self, ports: &[u16]) -> io::Result<()> {
        self.filter(&format!("delete element {TABLE} vanished {{ {} }}", listed(ports)))
    }

    fn filter(&self, rules: &str) -> io::Result<()> {
        run(Command::new("nft").args(["-f", "-"]), rules)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The namespace ends with this program anyway.
        let _ = self.filter(&format!("delete table {TABLE}"));
    }
}

fn listed(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

fn run(command: &mut Command, input: &str) -> io::Result<()> {
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().expect("it was asked for").write_all(input.as_bytes())?;
    let ended = child.wait_with_output()?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    Err(io::Error::other(format!("{:?} ended with {}: {}", command.get_program(), ended.status, said.trim())))
}
