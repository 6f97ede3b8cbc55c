//! Selectors: which instances of a service a caller wants at all. Knows snapshots, and nothing of calls.

use std::fmt;
use std::sync::Arc;

use semver::{Version, VersionReq};

use super::filter::Filter;
use crate::record::{Endpoint, Key};
use crate::view::{Offered, Service};

/// Which instances a caller wants.
///
/// Without any wish, those that name no namespace and no group: an instance of another environment, or one that is kept
/// for important callers, is never found by accident.
///
/// ```
/// use tidings::select::Selector;
///
/// let stable = Selector::new()
///     .namespace("prod")
///     .group("vip")
///     .or_default_group()
///     .version("^2.1".parse()?)
///     .tag("blue")
///     .near(["eu/1a", "eu"])
///     .healthy_ratio_min(0.5);
/// # let _ = stable;
/// # Ok::<(), semver::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Selector {
    namespace: Named,
    group: Named,
    or_default_group: bool,
    version: Option<VersionReq>,
    tags: Vec<Arc<str>>,
    meta: Vec<(Arc<str>, Arc<str>)>,
    protocol: Option<Arc<str>>,
    port: Option<Arc<str>>,
    id: Option<Key>,
    filter: Option<Arc<Filter>>,
    near: Vec<Arc<str>>,
    near_ratio_min: f64,
    near_min: usize,
    healthy_ratio_min: f64,
}

/// A wish for a namespace or a group.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Named {
    Unnamed,
    Any,
    Name(Arc<str>),
}

impl Named {
    fn fits(&self, name: Option<&Arc<str>>) -> bool {
        match self {
            Self::Unnamed => name.is_none(),
            Self::Any => true,
            Self::Name(wanted) => name == Some(wanted),
        }
    }
}

/// What an instance lacks for a selector.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Miss {
    /// It is of another namespace.
    Namespace,
    /// It is of another group.
    Group,
    /// Its version is another, none, or not a semantic one.
    Version,
    /// It lacks this tag.
    Tag(Arc<str>),
    /// Its metadata lack this key, or say something else under it.
    Meta(Arc<str>),
    /// It speaks another protocol.
    Protocol,
    /// It has no port of this name.
    Port(Arc<str>),
    /// It has another id.
    Id,
    /// The filter does not hold for it.
    Filter,
    /// Its weight is 0.
    Weight,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace => f.write_str("another namespace"),
            Self::Group => f.write_str("another group"),
            Self::Version => f.write_str("another version"),
            Self::Tag(tag) => write!(f, "no tag {tag:?}"),
            Self::Meta(key) => write!(f, "other metadata {key:?}"),
            Self::Protocol => f.write_str("another protocol"),
            Self::Port(name) => write!(f, "no port {name:?}"),
            Self::Id => f.write_str("another id"),
            Self::Filter => f.write_str("the filter does not hold"),
            Self::Weight => f.write_str("weight 0"),
        }
    }
}

/// What a selector found.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The instances to choose from, the healthy ones first.
    pub instances: Vec<Offered>,
    /// How many of them are not healthy, but only the last known good: they stand at the end.
    pub stale: usize,
    /// Whether nothing of the wanted group was there, and these are of no group.
    pub is_default_group: bool,
    /// Which entry of [`Selector::near`] they were found under; `None` if they are from anywhere.
    pub near: Option<usize>,
}

impl Default for Selector {
    fn default() -> Self {
        Self::new()
    }
}

impl Selector {
    /// The least part of a near zone's instances that must be healthy, unless said otherwise: Envoy spills over below
    /// 1 / 1.4 of them.
    pub const NEAR_RATIO_MIN: f64 = 0.7;

    /// Every healthy instance that names no namespace and no group.
    pub fn new() -> Self {
        Self {
            namespace: Named::Unnamed,
            group: Named::Unnamed,
            or_default_group: false,
            version: None,
            tags: Vec::new(),
            meta: Vec::new(),
            protocol: None,
            port: None,
            id: None,
            filter: None,
            near: Vec::new(),
            near_ratio_min: Self::NEAR_RATIO_MIN,
            near_min: 1,
            healthy_ratio_min: 0.0,
        }
    }

    /// Every healthy instance, of whatever namespace and group.
    pub fn any() -> Self {
        Self { namespace: Named::Any, group: Named::Any, ..Self::new() }
    }

    /// Only of this namespace.
    #[must_use]
    pub fn namespace(mut self, name: impl Into<Arc<str>>) -> Self {
        self.namespace = Named::Name(name.into());
        self
    }

    /// Of whatever namespace.
    #[must_use]
    pub fn any_namespace(mut self) -> Self {
        self.namespace = Named::Any;
        self
    }

    /// Only of this group.
    #[must_use]
    pub fn group(mut self, name: impl Into<Arc<str>>) -> Self {
        self.group = Named::Name(name.into());
        self
    }

    /// Of whatever group.
    #[must_use]
    pub fn any_group(mut self) -> Self {
        self.group = Named::Any;
        self
    }

    /// While nothing of the wanted group can take a call, those of no group.
    #[must_use]
    pub fn or_default_group(mut self) -> Self {
        self.or_default_group = true;
        self
    }

    /// Only of a version that meets this requirement. An instance's version may leave out minor and patch, and may
    /// begin with a `v`; one that is not a semantic version meets none. Pre-releases are met only by requirements that
    /// name one, as Cargo has it.
    #[must_use]
    pub fn version(mut self, requirement: VersionReq) -> Self {
        self.version = Some(requirement);
        self
    }

    /// Only with this tag, and every other one asked for.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<Arc<str>>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Only with this value under this key of the metadata.
    #[must_use]
    pub fn meta(mut self, key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        self.meta.push((key.into(), value.into()));
        self
    }

    /// Only what speaks this protocol.
    #[must_use]
    pub fn protocol(mut self, protocol: impl Into<Arc<str>>) -> Self {
        self.protocol = Some(protocol.into());
        self
    }

    /// Only with a port of this name, at which [`address`](Self::address) then points.
    #[must_use]
    pub fn port(mut self, name: impl Into<Arc<str>>) -> Self {
        self.port = Some(name.into());
        self
    }

    /// Only the instance of this id: to follow one while looking for a fault.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        self.id = Some(Key::from(id));
        self
    }

    /// Only those for which this filter holds; see [`filter`](super::filter) for the language.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = Some(Arc::new(filter));
        self
    }

    /// Prefers these zones, the nearest first, each together with those before it; a zone `eu/1a` lies in `eu`. A zone
    /// is passed over while less than [`near_ratio_min`](Self::near_ratio_min) of it is healthy; at last comes
    /// anywhere.
    ///
    /// An instance that names no zone stands in its member's.
    #[must_use]
    pub fn near<Z: Into<Arc<str>>>(mut self, zones: impl IntoIterator<Item = Z>) -> Self {
        self.near = zones.into_iter().map(Into::into).collect();
        self
    }

    /// The part of a near zone's instances that must be healthy, 0 to 1; [`Self::NEAR_RATIO_MIN`] unless given. Only
    /// what its members failed to keep up counts against a zone, not what is drained or taken out by hand.
    #[must_use]
    pub fn near_ratio_min(mut self, ratio: f64) -> Self {
        self.near_ratio_min = ratio;
        self
    }

    /// How many healthy instances a near zone must have; 1 unless given.
    #[must_use]
    pub fn near_min(mut self, count: usize) -> Self {
        self.near_min = count.max(1);
        self
    }

    /// Below this part of healthy instances, 0 to 1, the last known good ones are given, too, marked as stale: when
    /// nearly everything seems gone at once, it is likelier that we cannot see it. 0, which is never, unless given.
    ///
    /// With no healthy one left they are given in any case, while the view [keeps](Service::kept) them for a reason.
    ///
    /// Instances that were withdrawn, or say themselves that they do not serve, are never given and do not count.
    #[must_use]
    pub fn healthy_ratio_min(mut self, ratio: f64) -> Self {
        self.healthy_ratio_min = ratio;
        self
    }

    /// What the instance lacks; `None` if it is wanted. Its health is another matter.
    pub fn miss(&self, offered: &Offered) -> Option<Miss> {
        let of_group = self.group.fits(offered.instance.group.as_ref());
        let of_default = self.or_default_group && offered.instance.group.is_none();
        if !of_group && !of_default { Some(Miss::Group) } else { self.miss_beside_group(offered) }
    }

    fn miss_beside_group(&self, offered: &Offered) -> Option<Miss> {
        let instance = &offered.instance;
        let tag = || self.tags.iter().find(|tag| !instance.tags.contains(*tag));
        let meta = || self.meta.iter().find(|(key, value)| instance.meta.get(key) != Some(value));
        if !self.namespace.fits(instance.namespace.as_ref()) {
            Some(Miss::Namespace)
        } else if self.id.as_ref().is_some_and(|id| *id != instance.id) {
            Some(Miss::Id)
        } else if !self.version_fits(instance.version.as_deref()) {
            Some(Miss::Version)
        } else if self.protocol.is_some() && self.protocol != instance.protocol {
            Some(Miss::Protocol)
        } else if let Some(name) = self.port.as_ref().filter(|name| !instance.ports.contains_key(*name)) {
            Some(Miss::Port(Arc::clone(name)))
        } else if let Some(tag) = tag() {
            Some(Miss::Tag(Arc::clone(tag)))
        } else if let Some((key, _)) = meta() {
            Some(Miss::Meta(Arc::clone(key)))
        } else if instance.weight == 0 {
            Some(Miss::Weight)
        } else if self.filter.as_ref().is_some_and(|filter| !filter.holds(offered)) {
            Some(Miss::Filter)
        } else {
            None
        }
    }

    fn version_fits(&self, version: Option<&str>) -> bool {
        let Some(requirement) = &self.version else { return true };
        version.and_then(lenient_version).is_some_and(|version| requirement.matches(&version))
    }

    /// Where to call the instance: at the named port, if one is asked for and it has it.
    pub fn address(&self, offered: &Offered) -> Endpoint {
        let Endpoint { host, port } = &offered.instance.address;
        Endpoint { host: host.clone(), port: self.named_port(offered).unwrap_or(*port) }
    }

    pub(super) fn named_port(&self, offered: &Offered) -> Option<u16> {
        offered.instance.ports.get(self.port.as_ref()?).copied()
    }

    /// The instances to choose from; empty if there is none.
    pub fn select(&self, service: &Service) -> Selection {
        let of = |group: &Named| -> Vec<&Offered> {
            let fits = |o: &&Offered| group.fits(o.instance.group.as_ref());
            let wanted = |o: &&Offered| self.miss_beside_group(o).is_none() && o.instance.status.is_serving();
            service.all().iter().filter(fits).filter(wanted).collect()
        };
        let is_kept = service.kept().is_some();
        let found = self.choose(&of(&self.group), is_kept);
        if !found.instances.is_empty() || !self.or_default_group || self.group == Named::Unnamed {
            return found;
        }
        Selection { is_default_group: true, ..self.choose(&of(&Named::Unnamed), is_kept) }
    }

    /// Of all that serve and are wanted, the healthy ones first: the nearest that are healthy enough.
    fn choose(&self, able: &[&Offered], is_kept: bool) -> Selection {
        for step in 0..self.near.len() {
            let is_near = |o: &&&Offered| self.near[..=step].iter().any(|zone| lies_in(zone_of(o), zone));
            let near: Vec<&Offered> = able.iter().filter(is_near).copied().collect();
            let healthy = near.iter().filter(|o| o.is_healthy()).count();
            if healthy >= self.near_min && healthy as f64 >= self.near_ratio_min * near.len() as f64 {
                let instances = near[..healthy].iter().copied().cloned().collect();
                return Selection { instances, stale: 0, is_default_group: false, near: Some(step) };
            }
        }
        let healthy = able.iter().filter(|o| o.is_healthy()).count();
        let with_stale = (healthy as f64) < self.healthy_ratio_min * able.len() as f64 || (is_kept && healthy == 0);
        let taken = if with_stale { able.len() } else { healthy };
        let instances = able[..taken].iter().copied().cloned().collect();
        Selection { instances, stale: taken - healthy, is_default_group: false, near: None }
    }
}

/// Where the instance stands: as it says, or else as its member does; empty if neither does.
pub fn zone_of(offered: &Offered) -> &str {
    offered.instance.zone.as_deref().unwrap_or(&offered.member.zone)
}

fn lies_in(zone: &str, wanted: &str) -> bool {
    zone.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A version that may leave out its minor and patch numbers, and may begin with a `v`.
fn lenient_version(text: &str) -> Option<Version> {
    let text = text.trim();
    let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
    if let Ok(version) = Version::parse(text) {
        return Some(version);
    }
    let core = text.find(['-', '+']).unwrap_or(text.len());
    let missing = match text[..core].split('.').count() {
        1 => ".0.0",
        2 => ".0",
        _ => return None,
    };
    Version::parse(&format!("{}{missing}{}", &text[..core], &text[core..])).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::MemberState;
    use crate::record::Status;
    use crate::select::fixture::{Fleet, instance};

    fn ids(selection: &Selection) -> Vec<&str> {
        selection.instances.iter().map(|o| o.instance.id.as_str()).collect()
    }

    fn select(selector: &Selector, fleet: &Fleet) -> Vec<String> {
        ids(&selector.select(&fleet.service())).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn an_instance_of_another_environment_is_never_found_by_accident() {
        let mut fleet = Fleet::default();
        fleet.up(1, instance("plain"));
        fleet.up(2, instance("staging").with_namespace("staging"));
        fleet.up(3, instance("vip").with_group("vip"));
        assert_eq!(select(&Selector::new(), &fleet), ["plain"]);
        assert_eq!(select(&Selector::new().namespace("staging"), &fleet), ["staging"]);
        assert_eq!(select(&Selector::any(), &fleet), ["plain", "staging", "vip"]);
        assert_eq!(select(&Selector::new().any_group(), &fleet), ["plain", "vip"]);
    }

    #[test]
    fn important_callers_fall_back_to_the_default_group_and_return() {
        let mut fleet = Fleet::default();
        fleet.up(1, instance("plain"));
        fleet.up(2, instance("vip").with_group("vip"));
        let vip = Selector::new().group("vip").or_default_group();
        assert_eq!(select(&vip, &fleet), ["vip"]);
        fleet.member(2, MemberState::Suspect);
        let found = vip.select(&fleet.service());
        assert_eq!((ids(&found), found.is_default_group), (vec!["plain"], true));
        assert!(select(&Selector::new().group("vip"), &fleet).is_empty());
        fleet.member(2, MemberState::Reachable);
        assert_eq!(select(&vip, &fleet), ["vip"]);
    }

    #[test]
    fn a_version_requirement_is_met_by_what_cargo_would_take() {
        let mut fleet = Fleet::default();
        let versions = ["1.9.9", "2.0.0", "v2.1", "2", "3.0.0", "2.2.0-rc.1", "latest"];
        for (owner, version) in versions.into_iter().enumerate() {
            fleet.up(owner as u64, instance(version).with_version(version));
        }
        fleet.up(90, instance("none"));
        let two = Selector::new().version("^2".parse().unwrap());
        assert_eq!(select(&two, &fleet), ["2", "2.0.0", "v2.1"]);
        let canary = Selector::new().version(">=2.2.0-rc.0, <3".parse().unwrap());
        assert_eq!(select(&canary, &fleet), ["2.2.0-rc.1"]);
    }

    #[test]
    fn every_wish_must_be_met_and_the_miss_tells_which_is_not() {
        let mut fleet = Fleet::default();
        let full = instance("full").with_tag("a").with_tag("b").with_meta("rack", "7").with_protocol("grpc");
        fleet.up(1, full.with_port("admin", 99));
        fleet.up(2, instance("bare"));
        fleet.up(3, instance("idle").with_weight(0));
        let wish = Selector::new().tag("a").tag("b").meta("rack", "7").protocol("grpc").port("admin");
        assert_eq!(select(&wish, &fleet), ["full"]);
        let service = fleet.service();
        let full = service.all().iter().find(|o| o.instance.id.as_str() == "full").unwrap();
        assert_eq!(wish.address(full).port, 99);
        assert_eq!(Selector::new().address(full).port, 80);
        let miss = |selector: Selector| selector.miss(full);
        assert_eq!(miss(Selector::new().tag("c")), Some(Miss::Tag("c".into())));
        assert_eq!(miss(Selector::new().meta("rack", "8")), Some(Miss::Meta("rack".into())));
        assert_eq!(miss(Selector::new().protocol("http")), Some(Miss::Protocol));
        assert_eq!(miss(Selector::new().port("debug")), Some(Miss::Port("debug".into())));
        assert_eq!(miss(Selector::new().namespace("x")), Some(Miss::Namespace));
        assert_eq!(miss(Selector::new().group("x")), Some(Miss::Group));
        assert_eq!(miss(Selector::new().version("^1".parse().unwrap())), Some(Miss::Version));
        assert_eq!(miss(Selector::new().id("bare")), Some(Miss::Id));
        assert_eq!(miss(Selector::new().filter("port == 81".parse().unwrap())), Some(Miss::Filter));
        assert_eq!(select(&Selector::new().filter("port == 80 and tags is empty".parse().unwrap()), &fleet), ["bare"]);
        assert_eq!(select(&Selector::new(), &fleet), ["bare", "full"]);
    }

    #[test]
    fn calls_stay_near_until_too_little_of_it_is_healthy() {
        let mut fleet = Fleet::default();
        for owner in 0..10 {
            let zone = ["eu/1a", "eu/1b", "us/1a"][owner as usize % 3];
            fleet.up(owner, instance(&format!("{owner}")).with_zone(zone));
        }
        let near = Selector::new().near(["eu/1a", "eu"]);
        // Four stand in eu/1a, of which three are enough and two are not.
        assert_eq!(select(&near, &fleet), ["0", "3", "6", "9"]);
        fleet.member(0, MemberState::Unreachable);
        assert_eq!(select(&near, &fleet), ["3", "6", "9"]);
        fleet.member(3, MemberState::Unreachable);
        // Of the seven in eu, five are healthy.
        let found = near.select(&fleet.service());
        assert_eq!((ids(&found), found.near), (vec!["1", "4", "6", "7", "9"], Some(1)));
        fleet.member(1, MemberState::Unreachable);
        let found = near.select(&fleet.service());
        assert_eq!((found.instances.len(), found.near), (7, None));
        // What its owner drains is no sign of trouble.
        for owner in [0, 1, 3] {
            fleet.member(owner, MemberState::Reachable);
        }
        fleet.status(0, Status::Draining);
        fleet.status(3, Status::Draining);
        assert_eq!(select(&near, &fleet), ["6", "9"]);
        // Places that only begin alike are not in each other.
        assert!(!lies_in("eu/1a2", "eu/1a"));
    }

    #[test]
    fn the_last_known_good_are_given_only_below_the_ratio_and_never_what_was_taken_out() {
        let mut fleet = Fleet::default();
        (0..4).for_each(|owner| fleet.up(owner, instance(&format!("{owner}"))));
        let half = Selector::new().healthy_ratio_min(0.5);
        fleet.member(0, MemberState::Unreachable);
        fleet.member(1, MemberState::Unreachable);
        assert_eq!(select(&half, &fleet), ["2", "3"]);
        fleet.member(2, MemberState::Down);
        let found = half.select(&fleet.service());
        assert_eq!((ids(&found), found.stale), (vec!["3", "0", "1", "2"], 3));
        assert_eq!(select(&Selector::new(), &fleet), ["3"]);
        fleet.status(0, Status::Critical);
        fleet.withdraw(1);
        // Now one of two is healthy, which is half.
        assert_eq!(select(&half, &fleet), ["3"]);
    }
}
