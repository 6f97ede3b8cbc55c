//! SIGHUP: the configuration is read again, what can change while running is changed, and what was found is told. A
//! file with anything wrong changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use clap::FromArgMatches as _;
use tidings::offers::{Existing, Offer, OfferError, Offers};
use tidings::record::{Instance, Key};

use super::config::{self, Values};
use super::exit::Failure;
use super::{Cli, Command, node, set_log_level};

/// Settings that can change while a node runs, by their names in the file. All others need a restart.
pub(super) const CHANGEABLE: &[&str] = &["service", "drain_timeout", "log_level"];

/// What a reload did.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Reloaded {
    /// Settings that changed and are in effect.
    pub(super) changed: Vec<String>,
    /// Instances that are offered now, or otherwise than before.
    pub(super) offered: Vec<String>,
    /// Instances that are not offered any more.
    pub(super) withdrawn: Vec<String>,
    /// Settings that changed and need a restart.
    pub(super) needs_restart: Vec<String>,
    /// What went wrong with single instances; the others are as they should be.
    pub(super) wrong: Vec<String>,
}

impl std::fmt::Display for Reloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            ("changed", &self.changed),
            ("offered", &self.offered),
            ("withdrawn", &self.withdrawn),
            ("needs a restart", &self.needs_restart),
            ("wrong", &self.wrong),
        ];
        let told = parts.iter().filter(|(_, list)| !list.is_empty());
        let told: Vec<_> = told.map(|(what, list)| format!("{what}: {}", list.join(", "))).collect();
        f.write_str(if told.is_empty() { "nothing is another" } else { "" })?;
        f.write_str(&told.join("; "))
    }
}

/// The settings in effect.
#[derive(Debug)]
pub(super) struct Settings {
    arguments: Vec<OsString>,
    values: Values,
}

impl Settings {
    /// Of this process.
    pub(super) fn of_process() -> Result<Self, Failure> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let (_, values) = config::read_again(&arguments)?;
        Ok(Self { arguments, values })
    }

    /// Reads the configuration again, and changes what can be changed. `args` are then the new ones, as far as they are
    /// in effect.
    ///
    /// # Errors
    /// What is wrong with the file; nothing changed.
    pub(super) async fn reload(&mut self, args: &mut node::Args, offers: &Offers) -> Result<Reloaded, Failure> {
        let (matches, values) = config::read_again(&self.arguments)?;
        let cli = Cli::from_arg_matches(&matches)
            .map_err(|error| Failure::new(super::exit::Exit::Usage, error.to_string()))?;
        let Command::Node(new) = cli.command else { return Ok(Reloaded::default()) };
        node::check_ids(&new)?;
        let mut reloaded = Reloaded::default();
        for name in differing(&self.values, &values) {
            let list =
                if CHANGEABLE.contains(&name.as_str()) { &mut reloaded.changed } else { &mut reloaded.needs_restart };
            list.push(name);
        }
        set_log_level(cli.log_level.as_ref());
        args.drain_timeout = new.drain_timeout;
        let before = std::mem::replace(&mut args.service, new.service);
        change_offers(&before, args, offers, &mut reloaded).await;
        // What needs a restart stays named until there is one.
        for (name, value) in values {
            if CHANGEABLE.contains(&name.as_str()) {
                self.values.insert(name, value);
            }
        }
        Ok(reloaded)
    }
}

fn differing(before: &Values, after: &Values) -> BTreeSet<String> {
    let names = before.keys().chain(after.keys());
    names.filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

async fn change_offers(before: &[Offer], args: &node::Args, offers: &Offers, reloaded: &mut Reloaded) {
    let by_id = |all: &[Offer]| -> BTreeMap<Key, Offer> {
        all.iter().map(|offer| (id(&offer.instance, &args.name), offer.clone())).collect()
    };
    let (before, after) = (by_id(before), by_id(&args.service));
    for id in before.keys().filter(|id| !after.contains_key(*id)) {
        match offers.deregister(id).await {
            Ok(_) | Err(OfferError::UnknownInstance { .. } | OfferError::NotKept(_)) => {
                reloaded.withdrawn.push(id.to_string());
            }
            Err(error) => reloaded.wrong.push(format!("{id}: {error}")),
        }
    }
    for (id, offer) in after {
        if before.get(&id) == Some(&offer) {
            continue;
        }
        match offers.register(offer, Existing::KeepDoors).await {
            Ok(_) | Err(OfferError::NotKept(_)) => reloaded.offered.push(id.to_string()),
            Err(error) => reloaded.wrong.push(format!("{id}: {error}")),
        }
    }
}

/// The id that the instance has at a member of this name.
pub(super) fn id(instance: &Instance, member: &str) -> Key {
    if instance.id.is_member() {
        Instance::default_id(&instance.service, member, instance.address.port)
    } else {
        instance.id.clone()
    }
}
