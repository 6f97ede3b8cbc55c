//! How it looks in XML.

use std::borrow::Cow;
use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};

use super::Answer;
use super::shape::{Apps, DATA_CENTER, DURATION_S, Info, Port, RENEWAL_S};

/// The answer as text.
pub(super) fn written(answer: &Answer<'_>) -> Vec<u8> {
    let mut pen = Pen(Writer::new(Vec::new()));
    let done = match answer {
        Answer::Apps(apps) => pen.apps(apps),
        Answer::App(name, all) => pen.app(name, all),
        Answer::Instance(info) => pen.instance(info),
    };
    done.expect("writing to memory cannot fail");
    pen.0.into_inner()
}

struct Pen(Writer<Vec<u8>>);

type Attributes<'a> = &'a [(&'a str, &'a str)];

impl Pen {
    fn open(&mut self, name: &str, attributes: Attributes<'_>) -> io::Result<()> {
        let start = BytesStart::new(name).with_attributes(attributes.iter().copied());
        self.0.write_event(Event::Start(start))
    }

    fn close(&mut self, name: &str) -> io::Result<()> {
        self.0.write_event(Event::End(BytesEnd::new(name)))
    }

    fn leaf(&mut self, name: &str, text: &str) -> io::Result<()> {
        self.leaf_with(name, &[], text)
    }

    fn leaf_with(&mut self, name: &str, attributes: Attributes<'_>, text: &str) -> io::Result<()> {
        self.open(name, attributes)?;
        self.0.write_event(Event::Text(BytesText::new(&allowed(text))))?;
        self.close(name)
    }

    fn apps(&mut self, apps: &Apps<'_>) -> io::Result<()> {
        self.open("applications", &[])?;
        self.leaf("versions__delta", "1")?;
        self.leaf("apps__hashcode", &apps.hash_code())?;
        for (name, all) in &apps.0 {
            self.app(name, all)?;
        }
        self.close("applications")
    }

    fn app(&mut self, name: &str, all: &[Info<'_>]) -> io::Result<()> {
        self.open("application", &[])?;
        self.leaf("name", name)?;
        for info in all {
            self.instance(info)?;
        }
        self.close("application")
    }

    fn instance(&mut self, info: &Info<'_>) -> io::Result<()> {
        self.open("instance", &[])?;
        self.leaf("instanceId", &info.id)?;
        self.leaf("hostName", &info.host)?;
        self.leaf("app", &info.app)?;
        self.leaf("ipAddr", &info.ip)?;
        self.leaf("status", info.status)?;
        self.leaf("overriddenstatus", "UNKNOWN")?;
        self.port("port", info.port)?;
        self.port("securePort", info.secure_port)?;
        self.leaf("countryId", "1")?;
        self.open("dataCenterInfo", &[("class", DATA_CENTER)])?;
        self.leaf("name", "MyOwn")?;
        self.close("dataCenterInfo")?;
        self.lease(info)?;
        self.metadata(info)?;
        self.leaf("homePageUrl", &info.home)?;
        self.leaf("statusPageUrl", "")?;
        self.leaf("healthCheckUrl", "")?;
        self.leaf("vipAddress", info.vip)?;
        self.leaf("secureVipAddress", info.vip)?;
        self.leaf("isCoordinatingDiscoveryServer", "false")?;
        let registered = info.registered_ms.to_string();
        self.leaf("lastUpdatedTimestamp", &registered)?;
        self.leaf("lastDirtyTimestamp", &registered)?;
        self.leaf("actionType", "ADDED")?;
        self.close("instance")
    }

    fn port(&mut self, name: &str, port: Port) -> io::Result<()> {
        let is_enabled = port.is_enabled.to_string();
        self.leaf_with(name, &[("enabled", &is_enabled)], &port.number.to_string())
    }

    fn lease(&mut self, info: &Info<'_>) -> io::Result<()> {
        self.open("leaseInfo", &[])?;
        for (name, value) in [
            ("renewalIntervalInSecs", RENEWAL_S),
            ("durationInSecs", DURATION_S),
            ("registrationTimestamp", info.registered_ms),
            ("lastRenewalTimestamp", info.renewed_ms),
            ("evictionTimestamp", 0),
            ("serviceUpTimestamp", info.registered_ms),
        ] {
            self.leaf(name, &value.to_string())?;
        }
        self.close("leaseInfo")
    }

    fn metadata(&mut self, info: &Info<'_>) -> io::Result<()> {
        self.open("metadata", &[])?;
        for (key, value) in &info.metadata {
            self.leaf(&element(key), value)?;
        }
        self.close("metadata")
    }
}

/// A text without the characters that XML 1.0 cannot have, not even escaped.
fn allowed(text: &str) -> Cow<'_, str> {
    let is_allowed =
        |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    if text.chars().all(is_allowed) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if is_allowed(c) { c } else { '\u{fffd}' }).collect())
}

/// A key as the name of an element: what cannot stand in one becomes an underscore.
fn element(key: &str) -> Cow<'_, str> {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let is_later = |c: char| is_first(c) || c.is_ascii_digit() || matches!(c, '-' | '.');
    let is_name = key.starts_with(is_first) && key.chars().all(is_later);
    // Names that begin with these letters are XML's own.
    let is_reserved = key.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("xml"));
    if is_name && !is_reserved {
        return Cow::Borrowed(key);
    }
    let named = key.chars().map(|c| if is_later(c) { c } else { '_' });
    let prefix = if is_reserved || !key.starts_with(|c| !is_later(c) || is_first(c)) { "_" } else { "" };
    Cow::Owned(prefix.chars().chain(named).collect())
}

#[cfg(test)]
mod tests {
    use quick_xml::Reader;

    use super::super::shape::tests::{offered, web};
    use super::super::shape::{self};
    use super::*;

    /// The names of all elements and all texts; fails on what is no XML.
    fn read(text: &str) -> (Vec<String>, Vec<String>) {
        let mut reader = Reader::from_str(text);
        let (mut names, mut texts) = (Vec::new(), Vec::new());
        loop {
            match reader.read_event().expect("it is XML") {
                Event::Start(start) => names.push(start.name().0.to_owned()),
                Event::Text(text) => texts.push(text.to_string()),
                Event::Eof => return (names, texts),
                _ => {}
            }
        }
    }

    #[test]
    fn whatever_the_metadata_is_called_and_says_it_stays_xml() {
        let hostile = "</metadata><script>&\"'\u{1}\u{ffff}";
        let instance =
            web().with_meta("a b", hostile).with_meta("1", "one").with_meta("xmlns", "x").with_meta("ü", "y");
        let offered = offered(instance);
        let info = shape::tests::info(&offered);
        let (names, texts) = read(&String::from_utf8(written(&Answer::Instance(info))).unwrap());
        for name in ["a_b", "_1", "_xmlns", "_"] {
            assert!(names.iter().any(|other| other == name), "{name}: {names:?}");
        }
        assert!(!names.iter().any(|name| name == "script") && !texts.iter().any(|text| text.contains('\u{1}')));
    }

    #[test]
    fn an_instance_says_what_eureka_says() {
        let offered = offered(web());
        let text = String::from_utf8(written(&Answer::Instance(shape::tests::info(&offered)))).unwrap();
        for part in [
            "<hostName>10.0.0.7</hostName><app>WEB</app><ipAddr>10.0.0.7</ipAddr><status>UP</status>",
            "<port enabled=\"true\">80</port><securePort enabled=\"false\">443</securePort>",
            "<dataCenterInfo class=\"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo\"><name>MyOwn</name>",
            "<vipAddress>web</vipAddress>",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_key_is_an_element(key in ".{1,20}") {
            let name = element(&key);
            let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
            proptest::prop_assert!(name.starts_with(is_first), "{name}");
            proptest::prop_assert!(name.chars().all(|c| is_first(c) || c.is_ascii_digit() || "-.".contains(c)));
        }
    }
}
