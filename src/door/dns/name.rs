//! What a name asks for. Knows the grammar of names, and nothing of what exists.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a name stands for, if it stands for anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asked<'t> {
    /// The domain itself.
    Apex,
    /// `ns.DOMAIN`: this name server.
    Server,
    /// A name that only has others below it.
    Branch,
    /// `[TAG.]SERVICE.service`: where the tag ends and the service begins is known only to who knows the services.
    Service { path: &'t str, namespace: Option<&'t str> },
    /// `_SERVICE._TAG.service` of RFC 2782; `_tcp` and `_udp` are no tags.
    Standard { service: &'t str, tag: Option<&'t str>, namespace: Option<&'t str> },
    /// `NODE.node`.
    Node(&'t str),
    /// `HEX.addr`.
    Addr(IpAddr),
    /// An address turned round.
    Reverse(IpAddr),
    /// Nothing that could be in the domain.
    Nothing,
    /// Not of our domains.
    Elsewhere,
}

/// Reads a name in lower case, without the dot at the end. Gives with it which of the domains it is of; of one that is
/// of none, the first.
pub(super) fn read<'t>(text: &'t str, domains: &[impl AsRef<str>], datacenter: &str) -> (Asked<'t>, usize) {
    let found = domains.iter().enumerate().find_map(|(at, domain)| Some((below(text, domain.as_ref())?, at)));
    match found {
        Some((inside, at)) => (read_inside(inside, datacenter), at),
        None => (reverse(text).map_or(Asked::Elsewhere, Asked::Reverse), 0),
    }
}

/// What stands before `parent`, without the dot between; nothing for the parent itself.
fn below<'t>(text: &'t str, parent: &str) -> Option<&'t str> {
    let before = text.strip_suffix(parent)?;
    if before.is_empty() { Some(before) } else { before.strip_suffix('.') }
}

fn read_inside<'t>(inside: &'t str, datacenter: &str) -> Asked<'t> {
    if inside.is_empty() {
        return Asked::Apex;
    }
    let inside = match below(inside, "dc") {
        Some(before) => match below(before, datacenter) {
            Some(inside) => inside,
            None if before.is_empty() => return Asked::Branch,
            None => return Asked::Nothing,
        },
        None => below(inside, datacenter).unwrap_or(inside),
    };
    if inside.is_empty() {
        return Asked::Branch;
    }
    if let Some(named) = below(inside, "ns") {
        return if named.is_empty() { Asked::Server } else { in_namespace(named) };
    }
    if let Some(path) = below(inside, "service") {
        return service(path, None);
    }
    if let Some(node) = below(inside, "node") {
        return if node.is_empty() { Asked::Branch } else { Asked::Node(node) };
    }
    if let Some(hex) = below(inside, "addr") {
        return if hex.is_empty() { Asked::Branch } else { address(hex).map_or(Asked::Nothing, Asked::Addr) };
    }
    short(inside, None)
}

/// `[TAG.]SERVICE.service.NAMESPACE`, or `_SERVICE._TAG.NAMESPACE`.
fn in_namespace(named: &str) -> Asked<'_> {
    if let Some(at) = named.rfind(".service.") {
        return service(&named[..at], Some(&named[at + ".service.".len()..]));
    }
    match named.splitn(3, '.').collect::<Vec<_>>()[..] {
        [first, second, namespace] if first.starts_with('_') && second.starts_with('_') => {
            let path = &named[..named.len() - namespace.len() - 1];
            short(path, Some(namespace))
        }
        // A namespace, whatever its name, has names below it.
        _ if !named.contains('.') || named.starts_with("service.") || named.starts_with('_') => Asked::Branch,
        _ => Asked::Nothing,
    }
}

fn service<'t>(path: &'t str, namespace: Option<&'t str>) -> Asked<'t> {
    match path.split_once('.') {
        // Resolvers that ask for no more of a name than they must (RFC 9156) come by `_tcp.service`.
        None if path.is_empty() || path.starts_with('_') => Asked::Branch,
        Some((first, second)) if first.starts_with('_') && second.starts_with('_') => {
            standard(first, second, namespace)
        }
        _ => Asked::Service { path, namespace },
    }
}

/// `_SERVICE._TAG` without `service`.
fn short<'t>(path: &'t str, namespace: Option<&'t str>) -> Asked<'t> {
    match path.split_once('.') {
        None if path.starts_with('_') => Asked::Branch,
        Some((first, second)) if first.starts_with('_') && second.starts_with('_') => {
            standard(first, second, namespace)
        }
        _ => Asked::Nothing,
    }
}

/// Both with an underscore before them.
fn standard<'t>(service: &'t str, tag: &'t str, namespace: Option<&'t str>) -> Asked<'t> {
    let (service, tag) = (&service[1..], &tag[1..]);
    match (service, tag) {
        ("", _) | (_, "") => Asked::Nothing,
        (_, "tcp" | "udp") => Asked::Standard { service, tag: None, namespace },
        _ => Asked::Standard { service, tag: Some(tag), namespace },
    }
}

/// 8 or 32 hexadecimal digits.
fn address(hex: &str) -> Option<IpAddr> {
    // Not signs, which numbers may have.
    if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    match hex.len() {
        8 => Some(Ipv4Addr::from_bits(u32::from_str_radix(hex, 16).ok()?).into()),
        32 => Some(Ipv6Addr::from_bits(u128::from_str_radix(hex, 16).ok()?).into()),
        _ => None,
    }
}

/// The address that a name of `in-addr.arpa` (RFC 1035 section 3.5) or `ip6.arpa` (RFC 3596) is of.
fn reverse(text: &str) -> Option<IpAddr> {
    if let Some(turned) = below(text, "in-addr.arpa") {
        let mut octets = [0; 4];
        let mut labels = turned.split('.');
        for octet in octets.iter_mut().rev() {
            let label = labels.next()?;
            let is_plain = label.bytes().all(|byte| byte.is_ascii_digit()) && (label == "0" || !label.starts_with('0'));
            *octet = label.parse().ok().filter(|_| is_plain)?;
        }
        return labels.next().is_none().then(|| Ipv4Addr::from(octets).into());
    }
    let turned = below(text, "ip6.arpa")?;
    let mut bits = 0u128;
    let mut count = 0;
    for label in turned.rsplit('.') {
        let [digit] = label.as_bytes() else { return None };
        let nibble = char::from(*digit).to_digit(16)?;
        count += 1;
        if count > 32 {
            return None;
        }
        bits = (bits << 4) | u128::from(nibble);
    }
    (count == 32).then(|| Ipv6Addr::from_bits(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Asked<'_> {
        read(text, &["tidings", "consul"], "dc1").0
    }

    #[test]
    fn services_nodes_and_addresses_are_told_apart() {
        let service = |path| Asked::Service { path, namespace: None };
        assert_eq!(asked("web.service.tidings"), service("web"));
        assert_eq!(asked("v1.web.service.tidings"), service("v1.web"));
        assert_eq!(asked("n1.node.tidings"), Asked::Node("n1"));
        assert_eq!(asked("n1.lan.node.tidings"), Asked::Node("n1.lan"));
        assert_eq!(asked("7f000001.addr.tidings"), Asked::Addr("127.0.0.1".parse().unwrap()));
        let v6 = "20010db8000000000000000000000001.addr.tidings";
        assert_eq!(asked(v6), Asked::Addr("2001:db8::1".parse().unwrap()));
        for nothing in ["7f0001.addr.tidings", "+f000001.addr.tidings", "x.tidings", "web.services.tidings"] {
            assert_eq!(asked(nothing), Asked::Nothing, "{nothing}");
        }
    }

    #[test]
    fn the_names_of_rfc_2782_know_protocols_from_tags() {
        let standard = |service, tag| Asked::Standard { service, tag, namespace: None };
        for name in ["_web._tcp.service.tidings", "_web._udp.service.tidings", "_web._tcp.tidings"] {
            assert_eq!(asked(name), standard("web", None), "{name}");
        }
        assert_eq!(asked("_web._v1.service.dc1.tidings"), standard("web", Some("v1")));
        assert_eq!(asked("_web._v1.dc1.tidings"), standard("web", Some("v1")));
        assert_eq!(asked("_web._.service.tidings"), Asked::Nothing);
    }

    #[test]
    fn a_namespace_and_a_datacenter_may_stand_before_the_domain() {
        let prod = Asked::Service { path: "web", namespace: Some("prod") };
        for name in
            ["web.service.prod.ns.tidings", "web.service.prod.ns.dc1.tidings", "web.service.prod.ns.dc1.dc.consul"]
        {
            assert_eq!(asked(name), prod, "{name}");
        }
        let standard = Asked::Standard { service: "web", tag: None, namespace: Some("prod") };
        assert_eq!(asked("_web._tcp.service.prod.ns.tidings"), standard);
        assert_eq!(asked("_web._tcp.prod.ns.tidings"), standard);
        assert_eq!(asked("web.service.dc1.tidings"), Asked::Service { path: "web", namespace: None });
        assert_eq!(asked("web.service.dc2.tidings"), Asked::Nothing);
        assert_eq!(asked("web.service.dc2.dc.tidings"), Asked::Nothing);
    }

    #[test]
    fn what_only_has_names_below_it_is_there() {
        for name in
            ["service", "node", "addr", "dc1", "dc", "dc1.dc", "prod.ns", "service.prod.ns", "_tcp.service", "_tcp"]
        {
            assert_eq!(asked(&format!("{name}.tidings")), Asked::Branch, "{name}");
        }
        assert_eq!(asked("ns.tidings"), Asked::Server);
        assert_eq!(asked("tidings"), Asked::Apex);
    }

    #[test]
    fn other_domains_are_not_ours() {
        for name in
            ["", "example", "www.example", "xtidings", "web.service.xtidings", "tidings.example", "1.10.in-addr.arpa"]
        {
            assert_eq!(asked(name), Asked::Elsewhere, "{name}");
        }
        assert_eq!(read("a.consul", &["tidings", "consul"], "dc1"), (Asked::Nothing, 1));
    }

    #[test]
    fn addresses_are_turned_round() {
        assert_eq!(asked("1.2.0.192.in-addr.arpa"), Asked::Reverse("192.0.2.1".parse().unwrap()));
        let v6 = format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23));
        assert_eq!(asked(&v6), Asked::Reverse("2001:db8::1".parse().unwrap()));
        for wrong in ["1.2.0.256.in-addr.arpa", "5.1.2.0.192.in-addr.arpa", "01.2.0.192.in-addr.arpa", "x.ip6.arpa"] {
            assert_eq!(asked(wrong), Asked::Elsewhere, "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_name_panics(text in "[a-z_.0-9]{0,80}(\\.service|\\.node|\\.addr|\\.ns|\\.dc|\\.dc1){0,3}(\\.tidings)?") {
            let _ = asked(&text);
        }
    }
}
