//! Networks that everybody knows, with their figures and where those come from.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Burst, Delay, LinkConfig, Network};
use crate::units::{Rate, Share, Size, Span};
use crate::world::Machine;

/// A network by its name.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Processes of one machine: 5 to 50 us, nothing lost.
    Loopback,
    /// A data centre: 0.2 to 2 ms one way, nothing lost, one datagram in a thousand twice, 1 Gbit/s.
    #[default]
    Lan,
    /// A region of three zones: 0.5 ms round trip within a zone, 1.2 to 2 ms between them.
    Region3,
    /// Five regions on four continents, with the round trips that public clouds show, and 0.1 % loss between them.
    Wan5,
    /// Phones: 60 ms with a long tail, 1 % loss in bursts, 10 Mbit/s.
    Mobile,
}

impl Preset {
    /// Every preset with its name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("loopback", Self::Loopback),
        ("lan", Self::Lan),
        ("region3", Self::Region3),
        ("wan5", Self::Wan5),
        ("mobile", Self::Mobile),
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, preset)| *preset == self).map_or("", |(name, _)| name)
    }

    /// What it is made of.
    pub fn network(self) -> Network {
        match self {
            Self::Loopback => Network::flat(LinkConfig {
                delay: Delay::Uniform(Span(Duration::from_micros(5)), Span(Duration::from_micros(50))),
                loss: Share(0.0),
                duplication: Share(0.0),
                mtu: Size(65_507),
                ..LinkConfig::default()
            }),
            Self::Lan => Network::flat(LinkConfig::default()),
            Self::Region3 => Network {
                base: LinkConfig { duplication: Share(0.0), ..LinkConfig::default() },
                zones: ["a", "b", "c"].map(str::to_owned).to_vec(),
                rtt: rtts(&[&[0.5, 1.2, 1.6], &[1.2, 0.5, 2.0], &[1.6, 2.0, 0.5]]),
                jitter: Share(0.2),
            },
            // Medians between public cloud regions, rounded: Virginia, Oregon, Frankfurt, Singapore, Sao Paulo.
            Self::Wan5 => Network {
                base: LinkConfig { loss: Share(0.001), duplication: Share(0.0), ..LinkConfig::default() },
                zones: ["us-east", "us-west", "eu", "asia", "south"].map(str::to_owned).to_vec(),
                rtt: rtts(&[
                    &[0.8, 68.0, 90.0, 220.0, 115.0],
                    &[68.0, 0.8, 145.0, 165.0, 175.0],
                    &[90.0, 145.0, 0.8, 160.0, 205.0],
                    &[220.0, 165.0, 160.0, 0.8, 325.0],
                    &[115.0, 175.0, 205.0, 325.0, 0.8],
                ]),
                jitter: Share(0.03),
            },
            Self::Mobile => Network::flat(LinkConfig {
                delay: Delay::Lognormal { min: Span::from_millis(20), median: Span::from_millis(60), sigma: 0.8 },
                loss: Share(0.0),
                // One packet in five hundred begins a burst that loses half of what it meets for five packets.
                burst: Some(Burst {
                    begins: Share(0.004),
                    ends: Share(0.2),
                    loss_inside: Share(0.5),
                    loss_outside: Share(0.0),
                }),
                bandwidth: Some(Rate(10e6)),
                queue: Size(128 * 1024),
                ..LinkConfig::default()
            }),
        }
    }
}

impl Preset {
    /// The machine that all hosts share in this network; `None` where each is one of its own.
    ///
    /// For `loopback` two processors of 2.6 GHz, and what `tidings node` was measured to need of them, built with the
    /// profile `quick`: 7 ms until a process has started and left, of which the shell's part is what lay between two
    /// starts; 0.34 ms for each member and change, with 3.4 datagrams sent and taken in and one event told, where the
    /// shares of these are an estimate; and of 10 ms for a member that starts in a cluster of twenty, what the rest
    /// leaves for its handshakes. A timer of the runtime ends in the millisecond after the one that it was set to, and
    /// the system's wait is rounded up to one more.
    pub fn machine(self) -> Option<Machine> {
        let us = Duration::from_micros;
        (self == Self::Loopback).then(|| Machine {
            processors: 2,
            spawn: us(1_800),
            start: us(5_000),
            input: us(65),
            send: us(23),
            tell: us(40),
            handshake: us(1_500),
            lateness: us(2_000),
            // The limits of a live member's streams.
            inbound_max: 8,
            inbound_idle_min: Duration::from_millis(100),
        })
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(|(name, _)| name).join(", ");
        let found = Self::ALL.iter().find(|(other, _)| *other == name);
        found.map(|(_, preset)| *preset).ok_or_else(|| format!("no network {name:?}; there are {}", known()))
    }
}

/// Round trips in milliseconds.
fn rtts(rows: &[&[f64]]) -> Vec<Vec<Span>> {
    let span = |ms: &f64| Span(Duration::from_secs_f64(ms / 1e3));
    rows.iter().map(|row| row.iter().map(span).collect()).collect()
}
