//! SIGHUP: the configuration is read again, what can change while running is changed, and what was found is told. A
//! file with anything wrong changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use std::time::Duration;

use clap::FromArgMatches as _;
use tidings::door::auth::Tokens;
use tidings::door::http::Http;
use tidings::offers::{Existing, Offer, OfferError, Offers, Origin};
use tidings::record::{Instance, Key};
use tokio::time::Instant;

use super::config::{self, Again, Values};
use super::exit::Failure;
use super::{Cli, Command, node, set_log_level};

/// Settings that can change while a node runs, by their names in the file. All others need a restart.
pub(super) const CHANGEABLE: &[&str] = &["service", "drain_timeout", "log_level"];

/// The settings whose files are read again, under the names that these have now.
const TOKENS: &str = "http_tokens";
const CERTIFICATE: &str = "http_cert";

/// How long after instances that could not be changed they are tried again first; twice as long each time after.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How often they are tried again, until the next SIGHUP: for about a minute.
const RETRIES_MAX: u32 = 6;

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
    /// What went wrong with single instances, or with the certificate; all else is as it should be.
    pub(super) wrong: Vec<String>,
    /// When these are tried again; after the last time, at the next SIGHUP.
    pub(super) retry: Option<Duration>,
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
        f.write_str(&told.join("; "))?;
        match self.retry {
            Some(after) => write!(f, "; tried again in {after:?}"),
            None if !self.wrong.is_empty() => f.write_str("; tried again at the next SIGHUP"),
            None => Ok(()),
        }
    }
}

/// The settings in effect.
#[derive(Debug)]
pub(super) struct Settings {
    arguments: Vec<OsString>,
    values: Values,
    /// What the configuration offers, as far as that is in effect.
    offered: BTreeMap<Key, Offer>,
    tokens: Option<Tokens>,
    /// Whether the certificate could not be read again.
    has_bad_certificate: bool,
    /// When what failed is tried again, and for the how many-th time.
    retry: Option<(Instant, u32)>,
}

/// What a reload changes.
pub(super) struct Running<'a> {
    pub(super) args: &'a mut node::Args,
    pub(super) offers: &'a Offers,
    pub(super) door: Option<&'a Http>,
}

impl Settings {
    /// Of this process, which offers all that its arguments say.
    pub(super) fn of_process(args: &node::Args, tokens: Option<Tokens>) -> Result<Self, Failure> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let Again { values, .. } = config::read_again(&arguments)?;
        Ok(Self { arguments, values, offered: by_id(args), tokens, has_bad_certificate: false, retry: None })
    }

    /// Reads the configuration again, and changes what can be changed. `args` are then the new ones, as far as they are
    /// in effect.
    ///
    /// # Errors
    /// What is wrong with the file, or with the file of tokens; nothing changed.
    pub(super) async fn reload(&mut self, running: Running<'_>) -> Result<Reloaded, Failure> {
        let Running { args, offers, door } = running;
        let Again { matches, values, shown } = config::read_again(&self.arguments)?;
        let cli = Cli::from_arg_matches(&matches)
            .map_err(|error| Failure::new(super::exit::Exit::Usage, error.to_string()))?;
        let Command::Node(new) = cli.command else { return Ok(Reloaded::default()) };
        node::check_ids(&new)?;
        // Of the file that is in use; another one needs a restart.
        let tokens = args.http.tokens()?;
        let mut reloaded = Reloaded::default();
        for name in differing(&self.values, &values) {
            let list =
                if CHANGEABLE.contains(&name.as_str()) { &mut reloaded.changed } else { &mut reloaded.needs_restart };
            list.push(name);
        }
        if let (Some(door), Some(tokens)) = (door, tokens)
            && self.tokens.as_ref() != Some(&tokens)
        {
            door.set_tokens(tokens.clone());
            self.tokens = Some(tokens);
            reloaded.changed.push(TOKENS.to_owned());
        }
        self.change_certificate(door, &mut reloaded);
        set_log_level(cli.log_level.as_ref());
        args.drain_timeout = new.drain_timeout;
        if let Some(door) = door {
            door.set_drain_timeout(new.drain_timeout);
            let is_in_effect = |setting: &tidings::door::Setting| CHANGEABLE.contains(&setting.key.as_str());
            door.set_settings(shown.into_iter().filter(is_in_effect).collect());
        }
        args.service = new.service;
        self.change_offers(args, offers, &mut reloaded).await;
        self.plan_retry(0, &mut reloaded);
        // What needs a restart stays named until there is one.
        for (name, value) in values {
            if CHANGEABLE.contains(&name.as_str()) {
                self.values.insert(name, value);
            }
        }
        Ok(reloaded)
    }

    /// Waits until what failed is due to be tried again; for ever if nothing did.
    pub(super) async fn due(&self) {
        match self.retry {
            Some((at, _)) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Tries again what failed.
    pub(super) async fn try_again(&mut self, running: Running<'_>) -> Reloaded {
        let mut reloaded = Reloaded::default();
        let tries = self.retry.take().map_or(0, |(_, tries)| tries);
        if self.has_bad_certificate {
            self.change_certificate(running.door, &mut reloaded);
        }
        self.change_offers(running.args, running.offers, &mut reloaded).await;
        self.plan_retry(tries, &mut reloaded);
        reloaded
    }

    fn plan_retry(&mut self, tries: u32, reloaded: &mut Reloaded) {
        let is_planned = !reloaded.wrong.is_empty() && tries < RETRIES_MAX;
        reloaded.retry = is_planned.then(|| RETRY_AFTER * 2_u32.pow(tries));
        self.retry = reloaded.retry.map(|after| (Instant::now() + after, tries + 1));
    }

    /// Takes the certificate that its files hold now. Files that are being replaced may not belong together yet: that
    /// changes nothing else, and they are tried again.
    fn change_certificate(&mut self, door: Option<&Http>, reloaded: &mut Reloaded) {
        let read = door.map_or(Ok(false), Http::reload_certificate);
        self.has_bad_certificate = read.is_err();
        match read {
            Ok(false) => {}
            Ok(true) => reloaded.changed.push(CERTIFICATE.to_owned()),
            Err(error) => reloaded.wrong.push(format!("{CERTIFICATE}: {error}")),
        }
    }

    /// Brings what is offered in line with the arguments. What fails counts as it was, so that the next time tries it.
    async fn change_offers(&mut self, args: &node::Args, offers: &Offers, reloaded: &mut Reloaded) {
        let wanted = by_id(args);
        let gone: Vec<Key> = self.offered.keys().filter(|id| !wanted.contains_key(*id)).cloned().collect();
        for id in gone {
            match offers.deregister_from(&id, Origin::Program).await {
                Ok(_) | Err(OfferError::NotKept(_)) => reloaded.withdrawn.push(id.to_string()),
                // Withdrawn already, or registered over a door since: then it is not ours to withdraw.
                Err(OfferError::UnknownInstance { .. }) => {}
                Err(error) => {
                    reloaded.wrong.push(format!("{id}: {error}"));
                    continue;
                }
            }
            self.offered.remove(&id);
        }
        for (id, offer) in wanted {
            if self.offered.get(&id) == Some(&offer) {
                continue;
            }
            match offers.register(offer.clone(), Existing::KeepDoors).await {
                Ok(_) | Err(OfferError::NotKept(_)) => {
                    reloaded.offered.push(id.to_string());
                    self.offered.insert(id, offer);
                }
                Err(error) => reloaded.wrong.push(format!("{id}: {error}")),
            }
        }
    }
}

fn differing(before: &Values, after: &Values) -> BTreeSet<String> {
    let names = before.keys().chain(after.keys());
    names.filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

fn by_id(args: &node::Args) -> BTreeMap<Key, Offer> {
    args.service.iter().map(|offer| (id(&offer.instance, &args.name), offer.clone())).collect()
}

/// The id that the instance has at a member of this name.
pub(super) fn id(instance: &Instance, member: &str) -> Key {
    if instance.id.is_member() {
        Instance::default_id(&instance.service, member, instance.address.port)
    } else {
        instance.id.clone()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_help_of_a_node_says_what_a_sighup_changes() {
        let mut cli = Cli::command();
        let help = cli.find_subcommand_mut("node").expect("there is one").render_long_help().to_string();
        let (_, told) = help.split_once("SIGHUP reads the configuration again:").expect("it says so");
        let (told, _) = told.split_once("needs a restart").expect("and what it cannot change");
        for name in CHANGEABLE.iter().chain(&[TOKENS, CERTIFICATE]) {
            assert!(told.contains(name), "{name}: {told}");
        }
    }
}
